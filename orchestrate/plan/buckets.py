"""How large the buffers are that gradients travel in: the ZeRO engines ask, and memory is counted with it."""

from __future__ import annotations

_SMALLEST = 1 << 20
_LARGEST = 25 << 20


def bucket_elements(parameters: int) -> int:
    """Most elements in one bucket for a rank that holds ``parameters`` elements.

    An eighth of them, so that filling, sending and emptying overlap and buffers stay small beside
    the model; at least 1 Mi, below which messages are too short for the link; at most 25 Mi (100 MiB
    in fp32), beyond which they gain nothing.
    """
    return max(1, min(parameters, max(_SMALLEST, min(_LARGEST, parameters // 8))))
