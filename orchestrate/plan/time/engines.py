"""What the Python of a ZeRO engine costs the host beside the model's own operators, in operators' worth.

Measured by ``benchmarks/engine_overhead.py`` on one rank of a model so small that the host is all there is.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrate.config import ZeroBackend


@dataclass(frozen=True)
class EngineHost:
    """In operators, each of which takes the host as long as one of the model's."""

    passes: int = 0
    """Of a layer in a micro-batch, forward and backward: hooks that gather, release and reduce."""
    layer: int = 0
    """Of a layer in an update: each of its tensors cut, its norm taken, copied back."""
    update: int = 0
    """Of an update, whatever the model."""


PLAIN = EngineHost(passes=0, layer=13, update=23)
"""No ZeRO: torch's fused AdamW."""
ENGINES = {
    (ZeroBackend.deepspeed, 1): EngineHost(passes=8, layer=25, update=199),
    (ZeroBackend.deepspeed, 2): EngineHost(passes=81, layer=22, update=111),
    (ZeroBackend.deepspeed, 3): EngineHost(passes=393, layer=59, update=104),
    (ZeroBackend.fsdp2, 1): EngineHost(passes=41, layer=50, update=19),
    (ZeroBackend.fsdp2, 2): EngineHost(passes=51, layer=24, update=42),
    (ZeroBackend.fsdp2, 3): EngineHost(passes=114, layer=23, update=27),
}


def engine_host(engine: ZeroBackend, stage: int) -> EngineHost:
    """Of ``engine`` at ZeRO ``stage``, 0 to 3."""
    return ENGINES[engine, stage] if stage else PLAIN
