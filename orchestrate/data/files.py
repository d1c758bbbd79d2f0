"""Finding the files that people name, and telling when they changed."""

from __future__ import annotations

import difflib
import glob
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from orchestrate.errors import DataError


def find_files(patterns: Sequence[str], suffix: str = "") -> tuple[Path, ...]:
    """Files that ``patterns`` (paths or globs, ``**`` and ``~`` allowed) name, each once.

    In the order of the patterns and sorted within one; ``suffix`` is added to every pattern.

    Raises:
        DataError: no patterns, or one that names no file; the message has the closest existing name.
    """
    if not patterns:
        raise DataError("data.source.paths is empty: name at least one file or glob")
    found: dict[Path, None] = {}
    for pattern in patterns:
        wanted = os.path.expanduser(pattern) + suffix
        if glob.has_magic(wanted):
            matches = sorted(Path(p) for p in glob.glob(wanted, recursive=True) if os.path.isfile(p))
        else:
            path = Path(wanted)
            if path.is_dir():
                raise DataError(
                    f"data.source.paths: {pattern} is a folder: try {Path(pattern) / '**' / '*.txt'}"
                )
            matches = [path] if path.is_file() else []
        if not matches:
            reason = "matches no file" if glob.has_magic(wanted) else "no such file"
            raise DataError(f"data.source.paths: {wanted}: {reason}{_closest(Path(wanted))}")
        found.update(dict.fromkeys(path.absolute() for path in matches))
    return tuple(found)


def _closest(path: Path) -> str:
    """A hint that names the existing path closest to ``path``; empty where none comes near."""
    parts = path.absolute().parts
    here = Path(parts[0])
    for part in parts[1:]:
        if (here / part).exists():
            here = here / part
            continue
        try:
            names = sorted(entry.name for entry in here.iterdir())
        except OSError:
            return ""
        close = difflib.get_close_matches(part, names, n=1, cutoff=0.4)
        return f" (closest: {here / close[0]})" if close else f" ({here} has nothing like {part})"
    return ""


def status(path: Path) -> os.stat_result:
    """The size and times of ``path``.

    Raises:
        DataError: it has gone.
    """
    try:
        return path.stat()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None


def fingerprint(files: Iterable[tuple[str, Path]]) -> str:
    """A hash of names, sizes and modification times: differs once any named file was changed.

    Raises:
        DataError: a file that has gone or cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, path in files:
        stat = status(path)
        digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()
