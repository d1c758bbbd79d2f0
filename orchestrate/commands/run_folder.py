"""A run's folder, with what the run is frozen in it before the first process starts."""

from __future__ import annotations

import itertools
import platform
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
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
from orchestrate.train.checkpoint.agreement import check_start
from orchestrate.train.metrics import METRICS_FILE

PLANNED_FILE = "planned.yaml"
"""The plan as the command made it: plan.yaml is the one that the run is on."""


def create(config: Config, plan: Plan, overrides: Sequence[str], verb: str = "train") -> Path:
    """Make the run's folder and write ``config.yaml``, ``plan.yaml`` and ``run.yaml`` there; return its path.

    ``run.dir`` is used as it is, and a run that it holds a checkpoint of goes on; a folder that is
    named here is always new.

    Raises:
        ConfigError: the folder holds the record of a run without a checkpoint, or cannot be made or
            written to.
        CheckpointError: the checkpoint to go on from is of another model.
    """
    with _faults_named(config):
        check_start(config, proposed(config))
        folder = claim(config)
        command = shlex.join(["orchestrate", verb, *overrides])
        (folder / "config.yaml").write_text(yaml.safe_dump(dump(config), sort_keys=False), encoding="utf-8")
        for name in ("plan.yaml", PLANNED_FILE):
            plans.save(plan, folder / name)
        (folder / "run.yaml").write_text(
            yaml.safe_dump(_origins(folder / "run.yaml", command), sort_keys=False), encoding="utf-8"
        )
    return folder


def proposed(config: Config) -> Path:
    """The folder that `create` would make now."""
    if config.run.dir is not None:
        return Path(config.run.dir).expanduser()
    base, names = _named(config)
    return next(base / name for name in names if not (base / name).exists())


def claim(config: Config) -> Path:
    """Make the run's folder, where it is not there.

    Raises:
        ConfigError: as `create`.
    """
    if config.run.dir is not None:
        folder = Path(config.run.dir).expanduser()
        with _faults_named(config):
            folder.mkdir(parents=True, exist_ok=True)
        if (folder / METRICS_FILE).exists() and not found(folder):
            raise ConfigError(
                f"run.dir={folder} holds a run already, and no checkpoint to go on from: choose another"
                " folder, or leave run.dir out"
            )
        return folder
    base, names = _named(config)
    with _faults_named(config):
        base.mkdir(parents=True, exist_ok=True)
        for name in names:
            with suppress(FileExistsError):
                (base / name).mkdir()
                return base / name
    raise AssertionError("names never end")


@contextmanager
def _faults_named(config: Config) -> Iterator[None]:
    """What the file system refuses, as a ConfigError that names the run's folder."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"run.dir={config.run.dir or error.filename}: {error.strerror}") from None


def _named(config: Config) -> tuple[Path, Iterator[str]]:
    """Where the folder goes, and what to call it: the time, and numbered, for two runs may start in one
    second."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    numbered = (f"{stamp}-{n}" for n in itertools.count(2))
    return Path("runs", config.run.name or config.model.name), itertools.chain([stamp], numbered)


def _origins(file: Path, command: str) -> dict[str, Any]:
    """What began the run, and under ``continued`` what has gone on with it since."""
    began = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else None
    if not isinstance(began, dict):
        return _origin(command)
    return {**began, "continued": [*began.get("continued", ()), _origin(command)]}


def _origin(command: str) -> dict[str, Any]:
    return {
        "command": command,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "orchestrate": __version__,
        "python": platform.python_version(),
        "revision": revision(),
    }
