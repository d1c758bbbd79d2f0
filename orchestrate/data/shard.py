"""Token shards on disk: raw little-endian ids, document offsets, and a JSON header that describes both.

A shard is a folder of ``tokens.bin`` (ids), ``documents.bin`` (int64: the offset at which each
document starts, and the number of tokens) and ``header.json``. For tokens that stay where they
are (Megatron's) the folder holds the header alone.
"""

from __future__ import annotations

import json
import os
import zlib
from array import array
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrate.errors import DataError

FORMAT = 1
CHUNK_BYTES = 16 << 20
"""A checksum covers so much of a file."""


@dataclass(frozen=True)
class Header:
    """What a shard holds. Equal headers mean equal tokens."""

    source: str
    """Its fingerprint: of the files that the tokens came from, as they were."""
    tokenizer: str
    """The hash of the tokenizer; empty for tokens that came as ids."""
    vocab: int
    """Ids the tokenizer has; for tokens that came as ids, the largest one plus one."""
    dtype: str
    tokens: int
    documents: int
    max_id: int
    checksums: tuple[int, ...]
    """CRC-32 of each `CHUNK_BYTES` of the tokens as stored."""
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        (folder / "header.json").write_text(json.dumps(asdict(self)) + "\n")


def read_header(folder: Path) -> Header:
    """The header of the shard in ``folder``.

    Raises:
        DataError: it is missing or not a header.
    """
    try:
        values = json.loads((folder / "header.json").read_bytes())
        if set(values) != {field.name for field in fields(Header)} or values["format"] != FORMAT:
            raise ValueError
        header = Header(**{**values, "checksums": tuple(values["checksums"])})
        _check_types(header)
        return header
    except (OSError, ValueError, TypeError, RecursionError):
        raise DataError(f"{folder / 'header.json'} is damaged: {_REMEDY}") from None


def _check_types(header: Header) -> None:
    counts = (header.vocab, header.tokens, header.documents, header.max_id, *header.checksums)
    if not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError
    if not all(isinstance(text, str) for text in (header.source, header.tokenizer, header.dtype)):
        raise TypeError
    # Megatron's files may be of several types.
    if not all(np.dtype(name).kind in "iuf" for name in header.dtype.split(",")):
        raise ValueError


_REMEDY = "delete this folder, and it is prepared again"


class Checksum:
    """CRC-32 by chunk of `CHUNK_BYTES`, over bytes that come in pieces of any length."""

    def __init__(self) -> None:
        self._finished: list[int] = []
        self._crc = 0
        self._length = 0

    def update(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            part = view[: CHUNK_BYTES - self._length]
            self._crc = zlib.crc32(part, self._crc)
            self._length += len(part)
            if self._length == CHUNK_BYTES:
                self._finished.append(self._crc)
                self._crc = self._length = 0
            view = view[len(part) :]

    def values(self) -> tuple[int, ...]:
        return (*self._finished, self._crc) if self._length else tuple(self._finished)


class ShardWriter:
    """Appends documents to ``tokens.bin`` and ``documents.bin`` of ``folder``; `finish` adds the header.

    ``vocab`` decides the width of an id: the narrowest unsigned integer that holds all of them.
    """

    def __init__(self, folder: Path, vocab: int) -> None:
        self._folder = folder
        self._vocab = vocab
        self._dtype = np.dtype(np.min_scalar_type(vocab - 1)).newbyteorder("<")
        self._file = (folder / "tokens.bin").open("wb")
        self._checksum = Checksum()
        self._starts = array("q", [0])
        self._tokens = 0
        self._max_id = 0

    def append(self, tokens: NDArray[Any]) -> None:
        """Add ids [any length] to the open document."""
        if not tokens.size:
            return
        data = tokens.astype(self._dtype).tobytes()
        self._file.write(data)
        self._checksum.update(data)
        self._tokens += tokens.size
        self._max_id = max(self._max_id, int(tokens.max()))

    def end_document(self, end: int | None) -> None:
        """Close the open document with the id ``end`` (None: with nothing)."""
        if end is not None:
            self.append(np.array([end]))
        self._starts.append(self._tokens)

    def finish(self, source: str, tokenizer: str) -> None:
        """Write the offsets and the header."""
        self._file.close()
        np.array(self._starts, dtype="<i8").tofile(self._folder / "documents.bin")
        Header(
            source=source,
            tokenizer=tokenizer,
            vocab=self._vocab,
            dtype=self._dtype.str,
            tokens=self._tokens,
            documents=len(self._starts) - 1,
            max_id=self._max_id,
            checksums=self._checksum.values(),
        ).write(self._folder)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


@dataclass(frozen=True)
class Shard:
    """An open shard: memory-mapped, nothing read yet."""

    header: Header
    tokens: NDArray[Any]
    """[header.tokens]"""
    documents: NDArray[np.int64]
    """[header.documents + 1] offsets."""


def open_shard(folder: Path) -> Shard:
    """Map the shard in ``folder``.

    Raises:
        DataError: a file that is missing, or whose length is not what the header says.
    """
    header = read_header(folder)
    return Shard(
        header,
        map_file(folder / "tokens.bin", np.dtype(header.dtype), header.tokens),
        map_file(folder / "documents.bin", np.dtype("<i8"), header.documents + 1),
    )


def map_file(path: Path, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    """``count`` elements of ``path``, memory-mapped for reading.

    Raises:
        DataError: the file is missing, or longer or shorter than that.
    """
    try:
        size = os.stat(path).st_size
    except OSError:
        raise DataError(f"{path} is missing: {_REMEDY}") from None
    if size != count * dtype.itemsize:
        raise DataError(
            f"{path} is damaged: {size} bytes, but its header says {count * dtype.itemsize}: {_REMEDY}"
        )
    return map_bytes(path).view(dtype)


def map_bytes(path: Path) -> NDArray[np.uint8]:
    """The bytes of ``path``, memory-mapped for reading.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        if os.stat(path).st_size == 0:
            return np.zeros(0, np.uint8)  # an empty file cannot be mapped
        # The plain array keeps the mapping alive, and its slices cost less than memmap's.
        return np.asarray(np.memmap(path, np.uint8, "r"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None


def verify(folder: Path, chunks: int | None = None) -> None:
    """Compare the tokens in ``folder`` with their checksums.

    ``chunks`` limits how many (of `CHUNK_BYTES`, evenly spaced, first and last among them) are
    read; None reads everything.

    Raises:
        DataError: a checksum that differs.
    """
    header = read_header(folder)
    total = len(header.checksums)
    count = total if chunks is None else min(chunks, total)
    path = folder / "tokens.bin"
    with path.open("rb") as file:
        for chunk in np.linspace(0, total - 1, count).astype(np.int64).tolist():
            file.seek(chunk * CHUNK_BYTES)
            if zlib.crc32(file.read(CHUNK_BYTES)) != header.checksums[chunk]:
                raise DataError(f"{path} is damaged: its checksum is not the header's: {_REMEDY}")
