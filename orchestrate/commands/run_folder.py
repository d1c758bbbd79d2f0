"""A run's folder, with what the run is frozen in it before the first process starts."""

from __future__ import annotations

import itertools
import platform
import shlex
import subprocess
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
from orchestrate.train.metrics import METRICS_FILE


def create(config: Config, plan: Plan, overrides: Sequence[str]) -> Path:
    """Make the run's folder and write ``config.yaml``, ``plan.yaml`` and ``run.yaml`` there; return its path.

    ``run.dir`` is used as it is; a folder that is named here is always new.

    Raises:
        ConfigError: the folder holds the record of a run, or cannot be made or written to.
    """
    try:
        folder = _make(config)
        (folder / "config.yaml").write_text(yaml.safe_dump(dump(config), sort_keys=False), encoding="utf-8")
        plans.save(plan, folder / "plan.yaml")
        (folder / "run.yaml").write_text(
            yaml.safe_dump(_origin(overrides), sort_keys=False), encoding="utf-8"
        )
    except OSError as error:
        raise ConfigError(f"run.dir={config.run.dir or error.filename}: {error.strerror}") from None
    return folder


def _make(config: Config) -> Path:
    if config.run.dir is not None:
        folder = Path(config.run.dir).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / METRICS_FILE).exists():
            raise ConfigError(
                f"run.dir={folder} holds a run already: choose another folder, or leave run.dir out"
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


def _origin(overrides: Sequence[str]) -> dict[str, Any]:
    return {
        "command": shlex.join(["orchestrate", "train", *overrides]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "orchestrate": __version__,
        "python": platform.python_version(),
        "revision": _revision(),
    }


def _revision() -> str | None:
    """The commit of the code that runs, ``-dirty`` where it was changed since; None outside a clone."""
    source = Path(__file__).resolve().parent.parent
    if not (source.parent / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None
