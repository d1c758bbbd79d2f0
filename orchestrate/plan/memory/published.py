"""What of an estimate shows in a figure that somebody measured."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrate.plan.memory.traits import TRAITS, Counted
from orchestrate.plan.plan import MemoryEstimate
from orchestrate.plan.toolkits import Toolkit

OUTSIDE_TORCH = ("reserved", "communication buffers")
"""Terms of which torch's allocator knows nothing."""
NOT_TENSORS = ("allocator slack", "held by communication")
"""Terms that torch's allocator has, but not for tensors that still exist."""


def allocated(estimate: MemoryEstimate) -> float:
    """Bytes of ``estimate`` that ``torch.cuda.max_memory_allocated`` counts: tensors and workspaces."""
    return estimate.total - sum(estimate.terms.get(name, 0.0) for name in (*OUTSIDE_TORCH, *NOT_TENSORS))


def published(estimates: Sequence[MemoryEstimate], toolkit: Toolkit) -> float:
    """Bytes that ``toolkit`` would publish of ranks that take ``estimates``, which are by pipeline rank."""
    traits = TRAITS[toolkit]
    if traits.first_stage:
        estimates = estimates[:1]
    if traits.counted is Counted.allocated:
        return max(map(allocated, estimates))
    return max(e.total - sum(e.terms.get(name, 0.0) for name in OUTSIDE_TORCH) for e in estimates)
