"""Folders that appear whole or not at all, however many processes make them and whatever stops one."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrate.errors import DataError

if TYPE_CHECKING:
    from rich.console import Console


def ensure(folder: Path, build: Callable[[Path], None], console: Console | None = None) -> bool:
    """Make ``folder`` by ``build(temporary)`` unless it is there; True where this call made it.

    ``build`` fills a temporary folder that is then renamed, so a reader never sees half of it.
    Processes on one file system take turns by a lock; where locks do not work (some network file
    systems) the first rename wins and the others throw their copy away.

    Raises:
        DataError: the cache cannot be written.
    """
    if folder.is_dir():
        return False
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _turn(folder, console):
            if folder.is_dir():
                return False
            # Holding the turn means that nobody else is preparing this: what lies here was killed.
            for stale in folder.parent.glob(f"{folder.name}.tmp-*"):
                shutil.rmtree(stale, ignore_errors=True)
            return _build(folder, build)
    except OSError as error:
        raise DataError(f"data.cache: cannot write {folder}: {error.strerror or error}") from None


def _build(folder: Path, build: Callable[[Path], None]) -> bool:
    temporary = folder.with_name(f"{folder.name}.tmp-{uuid.uuid4().hex[:12]}")
    temporary.mkdir()
    try:
        build(temporary)
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
            return False
        return True
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _turn(folder: Path, console: Console | None) -> Iterator[None]:
    with folder.with_name(f"{folder.name}.lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if console is not None:
                file.seek(0)
                holder = file.read() or "another process"
                console.print(f"waiting for {holder}, which prepares {folder.name}", highlight=False)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass  # no locks on this file system: the rename decides
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
