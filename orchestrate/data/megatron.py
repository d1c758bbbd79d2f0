"""Megatron's indexed datasets (``.bin`` and ``.idx``), read as they are.

The index: magic ``MMIDIDX\\0\\0``, version 1 (uint64), a code of the ids' type (uint8), the number of
sequences and of document boundaries (uint64 each); then by sequence the length in tokens (int32) and
the byte offset in the ``.bin`` (int64), and the sequence that each document starts at (int64, from 0
to the number of sequences); all little-endian. Multimodal files end with one int8 per sequence.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrate.data.meter import Meter
from orchestrate.data.shard import CHUNK_BYTES, Checksum, Header, map_bytes
from orchestrate.data.stream import Part
from orchestrate.errors import DataError

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
ID_TYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
"""Codes 6 and 7 are floats, which cannot be token ids."""
_HEAD = struct.Struct("<9sQBQQ")


@dataclass(frozen=True)
class Pair:
    """An open ``.bin``/``.idx`` pair: memory-mapped, nothing but the index's head read yet."""

    index: Path
    tokens: NDArray[Any]
    """[tokens]"""
    lengths: NDArray[np.int32]
    """[sequences], tokens."""
    pointers: NDArray[np.int64]
    """[sequences], bytes."""
    boundaries: NDArray[np.int64]
    """[documents + 1], sequences."""

    def part(self) -> Part:
        """Tokens and documents, for a stream. Right only for a pair that `check` accepted."""
        return Part(self.tokens, _Starts(self))

    def check(self) -> None:
        """Read the whole index and see that it describes the data from end to end.

        Raises:
            DataError: sequences that are not back to back, or documents that do not cover them.
        """
        lengths = self.lengths.astype(np.int64)
        width = self.tokens.dtype.itemsize
        expected = (np.cumsum(lengths) - lengths) * width
        wrong = np.flatnonzero((self.pointers != expected) | (lengths < 0))
        if len(wrong):
            raise DataError(
                f"{self.index} is damaged: sequence {wrong[0]} starts at byte {self.pointers[wrong[0]]}, "
                f"but the ones before it end at {expected[wrong[0]]}"
            )
        bounds = self.boundaries
        if bounds[0] != 0 or bounds[-1] != len(lengths) or (np.diff(bounds) < 0).any():
            raise DataError(
                f"{self.index} is damaged: its documents do not cover sequences 0 to {len(lengths)}"
            )


class _Starts:
    """Offset of each document, looked up in the mapped index: nothing of its size is in memory."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair

    def __len__(self) -> int:
        return len(self._pair.boundaries)

    def __getitem__(self, documents: NDArray[np.int64], /) -> NDArray[np.int64]:
        pair = self._pair
        sequences = pair.boundaries[documents]
        last = len(pair.pointers) - 1
        starts = pair.pointers[np.minimum(sequences, last)] // pair.tokens.dtype.itemsize
        return np.where(sequences <= last, starts, len(pair.tokens))


def open_pair(index: Path) -> Pair:
    """Map the pair whose index is ``index`` (``.idx``).

    Raises:
        DataError: a missing file, an index that is not one, or lengths of the files that do not
            fit what the index says.
    """
    data = index.with_suffix(".bin")
    if not data.is_file():
        raise DataError(f"{data}: no such file, but its index {index.name} is there")
    raw, tokens = map_bytes(index), map_bytes(data)
    head = raw[: _HEAD.size].tobytes()
    if len(head) < _HEAD.size or not head.startswith(MAGIC):
        raise DataError(f"{index} is not a Megatron index: it starts with {head[:9]!r}, not {MAGIC!r}")
    _, version, code, sequences, boundaries = _HEAD.unpack(head)
    if version != VERSION:
        raise DataError(f"{index} has version {version}; only version {VERSION} is known")
    if code not in ID_TYPES:
        raise DataError(f"{index} has element type code {code}; token ids have one of {sorted(ID_TYPES)}")
    expected = _HEAD.size + sequences * (4 + 8) + boundaries * 8
    if len(raw) not in (expected, expected + sequences):
        raise DataError(f"{index} is damaged: {len(raw)} bytes, but its head says {expected}")
    if sequences == 0 or boundaries == 0:
        raise DataError(f"{index} is empty: no sequences")
    cuts = np.cumsum([_HEAD.size, sequences * 4, sequences * 8, boundaries * 8]).tolist()
    lengths, pointers, bounds = (raw[a:b] for a, b in pairwise(cuts))
    dtype = np.dtype(ID_TYPES[code])
    pair = Pair(index, tokens[:0], lengths.view("<i4"), pointers.view("<i8"), bounds.view("<i8"))
    end = int(pair.pointers[-1]) + int(pair.lengths[-1]) * dtype.itemsize
    if len(tokens) != end or end % dtype.itemsize:
        raise DataError(f"{data} is damaged: {len(tokens)} bytes, but its index says {end}")
    if end == 0:
        raise DataError(f"{data} is empty")
    return replace(pair, tokens=tokens.view(dtype))


def scan(pairs: list[Pair], source: str, meter: Meter) -> Header:
    """Read every token of ``pairs`` once: the header that says what is in them.

    Raises:
        DataError: an index that does not fit its data, or a negative token id.
    """
    checksum = Checksum()
    largest = 0
    for pair in pairs:
        pair.check()
        step = CHUNK_BYTES // pair.tokens.dtype.itemsize
        for start in range(0, len(pair.tokens), step):
            chunk = pair.tokens[start : start + step]
            checksum.update(chunk.tobytes())
            if int(chunk.min()) < 0:
                raise DataError(
                    f"{pair.index.with_suffix('.bin')} is damaged: token id {chunk.min()} is below 0"
                )
            largest = max(largest, int(chunk.max()))
            meter.advance(chunk.nbytes)
    return Header(
        source=source,
        tokenizer="",
        vocab=largest + 1,
        dtype=",".join(sorted({pair.tokens.dtype.str for pair in pairs})),
        tokens=sum(len(pair.tokens) for pair in pairs),
        documents=sum(len(pair.boundaries) - 1 for pair in pairs),
        max_id=largest,
        checksums=checksum.values(),
    )
