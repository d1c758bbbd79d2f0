"""Whether data-parallel replicas still hold the same weights, bit by bit.

Devices that compute wrongly say nothing of it. Replicas start alike and make the same updates, so one
that differs has seen a wrong bit. A checksum of each parameter is compared, a few bytes per parameter.
"""

from __future__ import annotations

from collections import Counter

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from orchestrate.parallel.zero.slices import named_slices
from orchestrate.train.setup import Replica

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_CHUNK = 1 << 22
"""Elements summed at a time: sums are made in 64 bits, which takes room."""


class CorruptionError(RuntimeError):
    """This rank's weights are not those of its replicas."""


def check_replicas(replica: Replica, step: int) -> None:
    """Compare the weights of all replicas; collective.

    Where ZeRO keeps one copy of the weights, cut over the replicas, there is nothing to compare.

    Raises:
        CorruptionError: on the ranks whose weights differ from those of most others; on all that hold
            the same slices where there is no majority.
    """
    dp = replica.context.dp
    slices, _shardings = named_slices(replica.stages)
    if dp.group is None or any(isinstance(p, DTensor) or not p.numel() for p in slices.values()):
        return
    mine = torch.stack([_checksum(slices[name].detach()) for name in slices]).to(replica.context.device)
    everyone = [torch.empty_like(mine) for _ in dp.ranks]
    dist.all_gather(everyone, mine, group=dp.group)
    sums = [tuple(theirs.flatten().tolist()) for theirs in everyone]
    (usual, votes), *others = Counter(sums).most_common()
    if not others:
        return
    tie = others[0][1] == votes
    different = [rank for rank, known in zip(dp.ranks, sums, strict=True) if tie or known != usual]
    if replica.context.rank not in different:
        return
    reference = next(known for known in sums if known != sums[dp.rank]) if tie else usual
    changed = [
        name for i, name in enumerate(slices) if tuple(mine[i].tolist()) != reference[2 * i : 2 * i + 2]
    ]
    who = f"rank{'s' if len(different) > 1 else ''} {', '.join(map(str, different))}"
    against = "each other, and nobody can tell which is right" if tie else "the other replicas"
    raise CorruptionError(
        f"step {step}: {who} hold{'' if len(different) > 1 else 's'} other weights than {against}:"
        f" {changed[0]} and {len(changed) - 1} more parameters differ"
    )


def _checksum(tensor: Tensor) -> Tensor:
    """Two sums [2] of the bits of ``tensor``: plain, and weighted by place, so that order counts."""
    bits = tensor.contiguous().view(-1).view(_BITS[tensor.element_size()])
    total = torch.zeros(2, dtype=torch.int64, device=bits.device)
    for start in range(0, bits.numel(), _CHUNK):
        part = bits[start : start + _CHUNK].long()
        place = torch.arange(start + 1, start + 1 + part.numel(), device=part.device)
        total += torch.stack([part.sum(), (part * place).sum()])
    return total
