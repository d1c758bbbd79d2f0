"""What a job needs that runs later and elsewhere: whole paths, the code, a note of the environment."""

from __future__ import annotations

import getpass
import importlib.metadata
import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from launchers.snapshot import CODE, snapshot, source_tree
from orchestrate.commands import run_folder
from orchestrate.commands.run_folder import PLANNED_FILE
from orchestrate.config import Config, SourceConfig
from orchestrate.data.files import find_files
from orchestrate.data.ingest import leaves
from orchestrate.errors import ConfigError
from orchestrate.plan.plan import Plan

ENVIRONMENT_FILE = "environment.yaml"
LOGS = "logs"
FROZEN = ("config.yaml", "plan.yaml", PLANNED_FILE, "run.yaml", ENVIRONMENT_FILE)
"""What is frozen in a run's folder, beside the code."""


def absolute(config: Config) -> Config:
    """``config`` with every path in it made whole: a job stands in another folder."""
    launcher, faults = config.launcher, config.faults
    check = faults.health_check
    return replace(
        config,
        run=replace(config.run, dir=_whole(config.run.dir)),
        data=replace(config.data, cache=_whole(config.data.cache), source=_source(config.data.source)),
        plan=replace(config.plan, file=_whole(config.plan.file)),
        checkpoint=replace(config.checkpoint, load=_whole(config.checkpoint.load)),
        faults=replace(faults, health_check=(_command(check[0]), *check[1:]) if check else ()),
        launcher=replace(
            launcher,
            venv=_whole(launcher.venv),
            python=_command(launcher.python),
            source=tuple(map(_whole, launcher.source)),
            container=_image(launcher.container),
            container_mounts=tuple(map(_mount, launcher.container_mounts)),
        ),
    )


def _whole(path: Any) -> Any:
    """A path from the root; None stays None."""
    return None if path is None else os.path.abspath(os.path.expanduser(path))


def _command(name: Any) -> Any:
    """A name without a folder is looked up where the job runs."""
    return _whole(name) if name is not None and "/" in name else name


def _image(name: str | None) -> str | None:
    """A file is given in full; what is none is a name in a registry."""
    return _whole(name) if name is not None and Path(name).expanduser().exists() else name


def _mount(mount: str) -> str:
    source, colon, target = mount.partition(":")
    return f"{_whole(source)}{colon}{target}"


def _source(source: SourceConfig) -> SourceConfig:
    return replace(
        source,
        paths=tuple(map(_whole, source.paths)),
        tokenizer=_whole(source.tokenizer) if Path(source.tokenizer).is_file() else source.tokenizer,
        blend=tuple(replace(entry, source=_source(entry.source)) for entry in source.blend),
    )


def require_data(config: Config) -> None:
    """Make sure that the files that ``config.data`` names are there: the job would find out after its wait.

    Raises:
        DataError: one is not.
    """
    for source in leaves(config.data.source):
        if source.kind in ("text", "megatron"):
            find_files(source.paths, ".idx" if source.kind == "megatron" else "")


def copy_code(run_dir: Path) -> Path | None:
    """The snapshot of the code in ``run_dir``; None where the code is installed."""
    root = source_tree()
    return None if root is None else snapshot(root, run_dir)


def note_environment(run_dir: Path, scheduler: str | None) -> None:
    """Write what the code was submitted with. No variables but the names of loaded modules: among the others
    are secrets."""
    loaded = os.environ.get("LOADEDMODULES", "")
    distributions = importlib.metadata.distributions()
    packages = {d.metadata["Name"]: d.version for d in distributions if d.metadata["Name"]}
    values = {
        "host": socket.gethostname(),
        "user": _user(),
        "scheduler": scheduler,
        "system": platform.platform(),
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "modules": [name for name in loaded.split(":") if name],
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }
    (run_dir / ENVIRONMENT_FILE).write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in some containers
        return None


@contextmanager
def undone_on_failure(folder: Path, written: Sequence[str], made: Sequence[Path] = ()) -> Iterator[None]:
    """Should the body fail, leave ``folder`` as it was: the files ``written`` with what they held, or gone,
    and no new copy of the code. What others put there meanwhile stays.

    Args:
        made: folders that were made for it just now, the innermost first.

    Raises:
        ConfigError: the folder cannot be read.
    """
    absent = _absent(folder)
    try:
        there = set() if absent else {path.name for path in folder.iterdir()}
        contents = {name: (folder / name).read_bytes() for name in there.intersection(written)}
    except OSError as error:
        raise ConfigError(f"run.dir={folder}: {error.strerror}") from None
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for name in written:
                if name in contents:
                    (folder / name).write_bytes(contents[name])
                else:
                    (folder / name).unlink(missing_ok=True)
            for copy in folder.glob(f"{CODE}*"):
                if copy.name not in there:
                    shutil.rmtree(copy)
            new = [] if LOGS in there else [folder / LOGS]
            for place in (*new, *made, *absent):
                if place.exists():
                    place.rmdir()
        raise


@contextmanager
def prepared(config: Config, plan: Plan, overrides: Sequence[str], written: Sequence[str]) -> Iterator[Path]:
    """The run's folder with config and plan in it; should the body fail, it is as it was before.

    Args:
        written: the files that are written over, `FROZEN` and what the body writes.

    Raises:
        ConfigError: as `run_folder.create`.
    """
    folder = run_folder.proposed(config).absolute()
    made: list[Path] = []
    if config.run.dir is None:
        above = _absent(folder.parent)
        folder = run_folder.claim(config).absolute()
        made = [folder, *above]
    with undone_on_failure(folder, written, made):
        config = replace(config, run=replace(config.run, dir=str(folder)))
        run_folder.create(config, plan, overrides, "submit")
        (folder / LOGS).mkdir(exist_ok=True)
        yield folder


def _absent(folder: Path) -> list[Path]:
    """``folder`` and those above it that are not there, the innermost first."""
    return [place for place in (folder, *folder.parents) if not place.exists()]
