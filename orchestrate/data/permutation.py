"""A shuffle that is computed instead of stored."""

from __future__ import annotations

import hashlib
import struct
from functools import lru_cache
from math import isqrt

ROUNDS = 8
_MASK = (1 << 64) - 1


def shuffled(index: int, size: int, key: str) -> int:
    """Where ``index`` (0 … size-1) goes under the permutation of 0 … size-1 that ``key`` picks.

    A Feistel network (Luby & Rackoff 1988) over pairs of digits in base ceil(sqrt(size)), walked
    until it lands below ``size``: the generalised-Feistel cipher of Black & Rogaway, "Ciphers with
    arbitrary finite domains" (2002). No memory and the same cost for any size.
    """
    assert 0 <= index < size, f"index {index} of {size}"
    base = isqrt(size - 1) + 1
    keys = _round_keys(key)
    while True:
        high, low = divmod(index, base)
        for round_key in keys:
            high, low = low, (high + _mix(low ^ round_key)) % base
        index = high * base + low
        if index < size:
            return index


@lru_cache(maxsize=64)
def _round_keys(key: str) -> tuple[int, ...]:
    digest = hashlib.blake2b(key.encode(), digest_size=8 * ROUNDS).digest()
    return struct.unpack(f"<{ROUNDS}Q", digest)


def _mix(x: int) -> int:
    """The 64-bit finaliser of SplitMix (Steele, Lea & Flood 2014)."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)
