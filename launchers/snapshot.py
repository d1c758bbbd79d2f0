"""A copy of the code in the run's folder, so that editing the working tree changes no job that waits."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestrate.errors import ConfigError
from orchestrate.resources import REVISION_FILE, revision

CODE = "code"
PARTS = ("orchestrate", "launchers", "conf", "slurm", "pyproject.toml")
"""What a job needs of a clone."""


def source_tree() -> Path | None:
    """The clone that this code runs from; None where it is installed for good, and nobody edits it."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "pyproject.toml").is_file() else None


def snapshot(root: Path, run_dir: Path) -> Path:
    """Copy `PARTS` of ``root`` into ``code`` of the run's folder; return where they are.

    What git ignores is left out. A snapshot of before that has the same content is used again; one that
    differs stays as it is, for a job may be running from it, and the new one becomes ``code-2``, ….

    Raises:
        ConfigError: a file cannot be read, or the copy not be written.
    """
    try:
        files = _files(root)
        wanted = _digest(root, files)
        for folder in _names(run_dir):
            if not folder.exists():
                return _copy(root, files, folder)
            if _digest(folder, sorted(_walk(folder))) == wanted:
                return folder
    except OSError as error:
        raise ConfigError(
            f"the code in {root} cannot be copied: {error.filename}: {error.strerror}"
        ) from None
    raise AssertionError("names never end")


def _names(run_dir: Path) -> Iterator[Path]:
    yield run_dir / CODE
    yield from (run_dir / f"{CODE}-{number}" for number in itertools.count(2))


def _copy(root: Path, files: Sequence[Path], folder: Path) -> Path:
    # Renamed into place when it is whole: a copy that was cut short is never taken for the code.
    partial = folder.with_name(f".{folder.name}-{os.getpid()}")
    try:
        for file in files:
            target = partial / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / file, target)
        if (commit := revision()) is not None:
            (partial / REVISION_FILE).write_text(commit)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _files(root: Path) -> list[Path]:
    """What belongs to the code, relative to ``root``: what git has or would add, or all but caches."""
    if (root / ".git").exists():
        command = [
            "git",
            "-C",
            str(root),
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
            "--",
        ]
        try:
            done = subprocess.run([*command, *PARTS], capture_output=True, check=True, timeout=60)
        except (OSError, subprocess.SubprocessError):
            pass  # no git here, or the folder belongs to somebody else
        else:
            listed = {Path(os.fsdecode(name)) for name in done.stdout.split(b"\0") if name}
            # A file that was deleted is tracked until that is committed.
            return sorted(file for file in listed if (root / file).is_file())
    return sorted(file for part in PARTS for file in _walk(root / part, root))


def _walk(start: Path, root: Path | None = None) -> Iterator[Path]:
    root = root or start
    if start.is_file():
        yield start.relative_to(root)
    for folder, below, names in os.walk(start):
        below[:] = [name for name in below if name != "__pycache__" and not name.startswith(".")]
        kept = (name for name in names if not name.endswith(".pyc") and name != REVISION_FILE)
        yield from (Path(folder, name).relative_to(root) for name in kept)


def _digest(root: Path, files: Sequence[Path]) -> str:
    """Of the names and the contents of ``files``."""
    digest = hashlib.sha256()
    for file in files:
        content = (root / file).read_bytes()
        digest.update(f"{file}\0{len(content)}\0".encode(errors="surrogateescape") + content)
    return digest.hexdigest()
