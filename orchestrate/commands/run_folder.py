"""A run's folder, with what the run is frozen in it before the first process starts."""

from __future__ import annotations

import itertools
import platform
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from orchestrate import __version__
from orchestrate.config import Config, dump
from orchestrate.errors import ConfigError
from orchestrate.plan import plan as plans
from orchestrate.plan.plan import Plan
from orchestrate.resources import revision
from orchestrate.train.checkpoint import found
from orchestrate.train.metrics import METRICS_FILE

PLANNED_FILE = "planned.yaml"
"""The plan as the command made it: plan.yaml is the one that the run is on."""


def create(config: Config, plan: Plan, overrides: Sequence[str]) -> Path:
    """Make the run's folder and write ``config.yaml``, ``plan.yaml`` and ``run.yaml`` there; return its path.

    ``run.dir`` is used as it is, and a run that it holds a checkpoint of goes on; a folder that is
    named here is always new.

    Raises:
        ConfigError: the folder holds the record of a run without a checkpoint, or cannot be made or
            written to.
    """
    try:
        folder = _make(config)
        (folder / "config.yaml").write_text(yaml.safe_dump(dump(config), sort_keys=False), encoding="utf-8")
        for name in ("plan.yaml", PLANNED_FILE):
            plans.save(plan, folder / name)
        (folder / "run.yaml").write_text(
            yaml.safe_dump(_origins(folder / "run.yaml", overrides), sort_keys=False), encoding="utf-8"
        )
    except OSError as error:
        raise ConfigError(f"run.dir={config.run.dir or error.filename}: {error.strerror}") from None
    return folder


def _make(config: Config) -> Path:
    if config.run.dir is not None:
        folder = Path(config.run.dir).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / METRICS_FILE).exists() and not found(folder):
            raise ConfigError(
                f"run.dir={folder} holds a run already, and no checkpoint to go on from: choose another"
                " folder, or leave run.dir out"
            )
        return folder
    base = Path("runs", config.run.name or config.model.name)
    base.mkdir(parents=True, exist_ok=True)
    for name in _names(time.strftime("%Y%m%d-%H%M%S")):
        try:
            (base / name).mkdir()
        except FileExistsError:
            continue
        return base / name
    raise AssertionError("names never end")


def _names(stamp: str) -> Iterator[str]:
    """``stamp``, then ``stamp-2`` and on: two runs may start in one second."""
    yield stamp
    yield from (f"{stamp}-{n}" for n in itertools.count(2))


def _origins(file: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """What began the run, and under ``continued`` what has gone on with it since."""
    began = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else None
    if not isinstance(began, dict):
        return _origin(overrides)
    return {**began, "continued": [*began.get("continued", ()), _origin(overrides)]}


def _origin(overrides: Sequence[str]) -> dict[str, Any]:
    return {
        "command": shlex.join(["orchestrate", "train", *overrides]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "orchestrate": __version__,
        "python": platform.python_version(),
        "revision": revision(),
    }
