"""What the verbs of checkpoints share: which folder, and a layout in words. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrate.config import Config
from orchestrate.errors import ConfigError
from orchestrate.train.checkpoint.format import Found, found, resolve

MIB = 2**20


def given(config: Config, verb: str) -> Path:
    """The folder that was named.

    Raises:
        ConfigError: none was.
        CheckpointError: there is no checkpoint in it.
    """
    if config.path is None:
        raise ConfigError(f"path is missing: name a run's folder or a checkpoint, as in: {verb} runs/mine")
    return resolve(config.path)


def newest(folder: Path) -> Found:
    """The newest checkpoint of ``folder``, which has one, whole or not."""
    return found(folder)[0]


def layout(plan: Mapping[str, Any]) -> str:
    """The layout that a checkpoint was written in, as in ``tp2 dp4 zero1-deepspeed``."""
    dims = plan.get("dims", {})
    parts = [f"{axis}{dims[axis]}" for axis in ("tp", "cp", "pp", "dp", "vpp") if dims.get(axis, 1) > 1]
    if plan.get("zero_stage"):
        parts.append(f"zero{plan['zero_stage']}-{plan.get('zero_engine')}")
    return " ".join(parts) or "one process"
