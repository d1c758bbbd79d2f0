"""Dropout whose mask is a function of *what* is dropped, never of who drops it.

Each element's fate is a hash of the place's name, the global sample number and the element's position
in that sample. So every layout, every rank and every recomputation draws the same mask, and no random
state has to be saved or restored. The mixer is the finaliser of SplitMix64 (Steele, Lea and Flood,
"Fast splittable pseudorandom number generators", OOPSLA 2014).
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def site_key(seed: int, name: str) -> int:
    """A 62-bit key of the place ``name`` in a run with ``seed``."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 2


def dropout(x: Tensor, p: float, key: int, samples: Tensor, first: int, whole: int) -> Tensor:
    """Drop elements of ``x`` with probability ``p`` and scale the rest by 1 / (1 - p).

    Args:
        x: [s, b, features], positions ``first`` … ``first + s - 1`` of ``whole`` in each sample.
        samples: [b] global sample numbers, int64.
    """
    s, _, features = x.shape
    place = torch.arange(first * features, (first + s) * features, device=x.device).view(s, 1, features)
    keep = keep_mask(p, key, samples[None, :, None] * (whole * features) + place)
    return torch.where(keep, x * (1 / (1 - p)), torch.zeros((), dtype=x.dtype, device=x.device))


def keep_mask(p: float, key: int, counters: Tensor) -> Tensor:
    """True with probability 1 - p for each of ``counters`` (int64, any shape), a pure function of both."""
    z = counters * _GOLDEN + key
    z = (z ^ _shift(z, 30)) * _MIX_1
    z = (z ^ _shift(z, 27)) * _MIX_2
    z = z ^ _shift(z, 31)
    return _shift(z, 32) >= int(p * 2**32)


def _signed(x: int) -> int:
    return x - 2**64 if x >= 2**63 else x


def _shift(z: Tensor, bits: int) -> Tensor:
    # int64 shifts drag the sign along; the mask makes the shift logical.
    return (z >> bits) & ((1 << (64 - bits)) - 1)


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)
