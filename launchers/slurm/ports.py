"""Ports at which the processes of a job meet, that no other job of the same node uses."""

from __future__ import annotations

PREFLIGHT = 0
"""In place of the number of a start, which counts from 1."""
_FIRST, _COUNT = 10_000, 20_000
"""Below those that Linux gives to outgoing connections."""
_STRIDE = 64


def port_of(job: int, start: int) -> int:
    """Of one start of ``job``'s ranks."""
    return _FIRST + (job * _STRIDE + start % _STRIDE) % _COUNT
