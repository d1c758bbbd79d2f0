"""One line of tokens out of one or more arrays, and the parts of it that a split may read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

FEWEST_DOCUMENTS = 8
"""Validation documents below which the split is by tokens instead."""


class Offsets(Protocol):
    """Rising offsets that may be worked out as they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: NDArray[np.int64], /) -> NDArray[np.int64]: ...


@dataclass(frozen=True)
class Part:
    """An array of tokens and the documents in it."""

    tokens: NDArray[Any]
    """[tokens], any integer type, mostly memory-mapped."""
    documents: Offsets
    """[documents + 1] offsets into ``tokens``, from 0 to its length."""


class Stream:
    """The tokens of ``parts`` one after another."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = tuple(parts)
        self._starts = np.cumsum([0, *(len(part.tokens) for part in parts)], dtype=np.int64)
        self._first_documents = np.cumsum([0, *(len(part.documents) - 1 for part in parts)], dtype=np.int64)

    @property
    def tokens(self) -> int:
        return int(self._starts[-1])

    @property
    def documents(self) -> int:
        return int(self._first_documents[-1])

    def document_starts(self, documents: NDArray[np.int64]) -> NDArray[np.int64]:
        """The offset at which each of ``documents`` [n], counted over all parts, starts; [n]."""
        starts = np.empty_like(documents)
        owner = np.searchsorted(self._first_documents, documents, side="right") - 1
        for index, part in enumerate(self._parts):
            mine = owner == index
            starts[mine] = (
                part.documents[documents[mine] - self._first_documents[index]] + self._starts[index]
            )
        starts[documents == self.documents] = self.tokens
        return starts

    def read_into(self, out: NDArray[np.int64], start: int) -> None:
        """Fill ``out`` [n] with the tokens from offset ``start`` on."""
        part = int(np.searchsorted(self._starts, start, side="right")) - 1
        filled = 0
        while filled < len(out):
            offset = start + filled - int(self._starts[part])
            tokens = self._parts[part].tokens[offset : offset + len(out) - filled]
            out[filled : filled + len(tokens)] = tokens
            filled += len(tokens)
            part += 1


class View:
    """Segments of a stream read as if they were one: ``starts`` and ``lengths`` [segments], in order."""

    def __init__(self, stream: Stream, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        kept = lengths > 0
        self._stream = stream
        self._starts = starts[kept]
        self._ends = np.cumsum(lengths[kept], dtype=np.int64)

    @property
    def tokens(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def segments(self) -> list[tuple[int, int]]:
        """(start, end) of each segment in the stream."""
        lengths = np.diff(self._ends, prepend=0)
        return [(int(s), int(s + n)) for s, n in zip(self._starts, lengths, strict=True)]

    def read(self, start: int, count: int) -> NDArray[np.int64]:
        """``count`` tokens from offset ``start`` of the view on; [count]."""
        assert 0 <= start <= self.tokens - count, "a window inside the view"
        out = np.empty(count, dtype=np.int64)
        segment = int(np.searchsorted(self._ends, start, side="right"))
        filled = 0
        while filled < count:
            left = int(self._ends[segment]) - start - filled
            take = min(left, count - filled)
            length = int(self._ends[segment] - (self._ends[segment - 1] if segment else 0))
            self._stream.read_into(out[filled : filled + take], int(self._starts[segment]) + length - left)
            filled += take
            segment += 1
        return out


def split(stream: Stream, validation_fraction: float) -> tuple[View, View]:
    """Training and validation tokens of ``stream``: together all of it, with nothing in both.

    Of many documents every k-th is for validation, k the inverse of the fraction; where that would
    leave fewer than `FEWEST_DOCUMENTS`, the last tokens of the stream are.
    """
    # As typed: 0.1 is a tenth, not the binary number nearest to it. The limit keeps products in 64 bits.
    fraction = Fraction(str(validation_fraction)).limit_denominator(10**6)
    count = int(stream.documents * fraction)
    if count >= FEWEST_DOCUMENTS:
        ordinals = np.arange(1, count + 1, dtype=np.int64)
        chosen = -(-ordinals * fraction.denominator // fraction.numerator) - 1  # ceil(k / fraction) - 1
        starts, ends = stream.document_starts(chosen), stream.document_starts(chosen + 1)
    else:
        starts = np.array([stream.tokens - round(stream.tokens * fraction)], dtype=np.int64)
        ends = np.array([stream.tokens], dtype=np.int64)
    between = np.concatenate([np.zeros(1, np.int64), ends])
    until = np.concatenate([starts, np.array([stream.tokens], dtype=np.int64)])
    return View(stream, between, until - between), View(stream, starts, ends - starts)
