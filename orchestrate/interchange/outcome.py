"""A folder that appears whole or not at all. No torch here."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrate.errors import ExchangeError
from orchestrate.plan.units import GIB


def check_new(out: str | None) -> Path:
    """The folder that ``out`` names, which must not be there yet, or be empty.

    Raises:
        ExchangeError: it is not given, or there is something in its place.
    """
    if out is None:
        raise ExchangeError("out is missing: name the folder to write, as in out=exported")
    path = Path(out).expanduser().absolute()
    if path.is_dir():
        if any(path.iterdir()):
            raise ExchangeError(f"out={out}: is there already, and not empty: choose another folder")
    elif path.exists():
        raise ExchangeError(f"out={out}: is a file: choose a folder that is not there yet")
    return path


@contextmanager
def appearing(out: Path, size: int) -> Iterator[Path]:
    """A folder to fill, beside ``out``, that takes its name when the block ends; removed if it fails.

    Args:
        size: bytes that it will hold, about.

    Raises:
        ExchangeError: there is no room for it, or something cannot be written.
    """
    partial = out.with_name(f"{out.name}.partial-{uuid.uuid4().hex[:12]}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(out.parent).free
        if free < size:
            raise ExchangeError(
                f"out={out}: takes {size / GIB:.3g} GiB, and {free / GIB:.3g} GiB are free there"
            )
        partial.mkdir()
        yield partial
        for path in (*partial.rglob("*"), partial):
            _flush(path)
        partial.rename(out)
        _flush(out.parent)
    except OSError as error:
        raise ExchangeError(f"out={out}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _flush(path: Path) -> None:
    """Have the file ``path``, or the names in the folder ``path``, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
