"""Corpora of text: which files, in which order, and the documents in them."""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from orchestrate.config import SourceConfig
from orchestrate.data.files import find_files, fingerprint, status
from orchestrate.errors import DataError

PIECE_BYTES = 1 << 20
"""Long files are read in pieces of about this size, cut after a line's end."""

JSON_LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class Piece:
    """Consecutive bytes of one document, in UTF-8 wherever the file was."""

    text: bytes
    last: bool
    """True for the document's last piece."""
    origin: str
    """The file (and line), for messages."""
    read: int
    """Bytes of the file that this piece took."""


@dataclass(frozen=True)
class Corpus:
    """Files of text in a fixed order. ``names`` identify them in the fingerprint."""

    kind: str
    files: tuple[Path, ...]
    names: tuple[str, ...]
    text_key: str
    decoding: str
    """How bytes that are not UTF-8 are met by a tokenizer of text: strict or replace."""

    @cached_property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(status(path).st_size for path in self.files)

    def fingerprint(self) -> str:
        """A hash of what decides the documents, as the files are now."""
        listing = fingerprint(zip(self.names, self.files, strict=True))
        return f"{self.kind}-{self.text_key}-{listing}"

    def pieces(self) -> Iterator[Piece]:
        """Every document, piece by piece, in order.

        Raises:
            DataError: a file that cannot be read, or a JSONL line that does not parse or has no
                text under the key (the message has file and line).
        """
        for path in self.files:
            try:
                yield from (
                    self._lines(path) if path.suffix in JSON_LINES and self.kind == "text" else _whole(path)
                )
            except OSError as error:
                raise DataError(f"{path}: {error.strerror}") from None

    def _lines(self, path: Path) -> Iterator[Piece]:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.isspace():
                    continue
                origin = f"{path}:{number}"
                try:
                    record = json.loads(line)
                except UnicodeDecodeError:
                    raise DataError(f"{origin}: not UTF-8") from None
                except (ValueError, RecursionError) as error:
                    reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
                    raise DataError(f"{origin}: not JSON: {reason}") from None
                yield Piece(_text(record, self.text_key, origin), True, origin, len(line))


def _text(record: object, key: str, origin: str) -> bytes:
    if not isinstance(record, dict):
        raise DataError(
            f"{origin}: a JSON {type(record).__name__}, but each line must be an object with {key!r}"
        )
    if key not in record:
        keys = ", ".join(map(repr, record)) or "none"
        raise DataError(f"{origin}: no key {key!r} (data.source.text_key); this line has {keys}")
    text = record[key]
    if not isinstance(text, str):
        raise DataError(f"{origin}: {key!r} holds a {type(text).__name__}, not text")
    return text.encode("utf-8", "replace")  # JSON may spell half of a surrogate pair, which UTF-8 cannot


def _whole(path: Path) -> Iterator[Piece]:
    """The file as one document. An empty file is a document too."""
    with path.open("rb") as file:
        text = b"".join(file.readlines(PIECE_BYTES))
        while text:
            following = b"".join(file.readlines(PIECE_BYTES))
            yield Piece(text, not following, str(path), len(text))
            text = following
        if file.tell() == 0:
            yield Piece(b"", True, str(path), 0)


def text_corpus(source: SourceConfig) -> Corpus:
    """The files and globs of ``source``.

    Raises:
        DataError: a path or glob that names no file.
    """
    files = find_files(source.paths)
    return Corpus("text", files, tuple(map(str, files)), source.text_key, "strict")


def stdlib_corpus() -> Corpus:
    """Every ``.py`` file of the running interpreter's standard library, by path.

    Raises:
        DataError: this interpreter has no library files (as when it reads them from a zip).
    """
    root = Path(sysconfig.get_path("stdlib"))
    names = sorted(_python_files(root))
    if not names:
        raise DataError(f"data=stdlib: {root} has no .py files: use data=text with data.source.paths")
    # Not the folder: the same library elsewhere is the same corpus.
    version = ".".join(map(str, sys.version_info[:3]))
    return Corpus(
        "stdlib", tuple(root / n for n in names), tuple(f"{version}/{n}" for n in names), "", "replace"
    )


def _python_files(root: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(root):
        folders[:] = [f for f in folders if f not in ("site-packages", "dist-packages", "__pycache__")]
        for name in files:
            path = Path(folder, name)
            if name.endswith(".py") and path.is_file():
                yield path.relative_to(root).as_posix()
