"""Sums of gradients over process groups, and the norm of all gradients together.

Everything here works on what has accumulated by the end of a step, in a fixed order, so that two
runs add the same numbers in the same order.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from orchestrate.mesh import Axis
from orchestrate.model.sharding import Sharding

_IN_FLIGHT = 2
"""Buckets travelling at once: one on the wire while the next is filled. More only costs memory."""

_CPU_NORM_CHUNK = 1 << 16
"""Elements per fp32 norm on a CPU, where torch adds squares one after another: a norm of 4 million
elements at once is wrong by 8e-5, one of 65,536 by less than 1e-7."""


def sum_over(tensors: Sequence[Tensor], group: dist.ProcessGroup, bucket_elements: int) -> None:
    """Replace each tensor by its sum over ``group``, a few large messages at a time.

    Args:
        tensors: same shapes in the same order on every rank of ``group``.
        bucket_elements: most elements per message; large tensors travel alone and in place.
    """
    pending: deque[tuple[dist.Work, Tensor, list[Tensor]]] = deque()

    def land() -> None:
        work, flat, bucket = pending.popleft()
        work.wait()
        offset = 0
        for tensor in bucket:
            if flat.data_ptr() != tensor.data_ptr():
                tensor.copy_(flat[offset : offset + tensor.numel()].view_as(tensor))
            offset += tensor.numel()

    for bucket in _buckets(tensors, bucket_elements):
        alone = len(bucket) == 1 and bucket[0].is_contiguous()
        flat = bucket[0].view(-1) if alone else torch.cat([tensor.reshape(-1) for tensor in bucket])
        work = dist.all_reduce(flat, group=group, async_op=True)
        assert work is not None
        pending.append((work, flat, bucket))
        if len(pending) == _IN_FLIGHT:
            land()
    while pending:
        land()


def sum_partial(
    gradients: Mapping[str, Tensor], shardings: Mapping[str, Sharding], bucket_elements: int
) -> None:
    """Sum over its groups every gradient of which this rank holds one summand (`Sharding.partial`).

    One coalesced all-reduce per group. All ranks walk the groups in one order, that of their
    members, so that no two wait for each other; by name within a group.
    """
    members: dict[tuple[tuple[int, ...], str], tuple[dist.ProcessGroup, list[str]]] = {}
    for name in sorted(gradients):
        for group in shardings[name].partial:
            key = (tuple(dist.get_process_group_ranks(group)), str(group.group_name))
            members.setdefault(key, (group, []))[1].append(name)
    for key in sorted(members):
        group, names = members[key]
        sum_over([gradients[name] for name in names], group, bucket_elements)


def local_norm(tensors: Iterable[Tensor]) -> Tensor:
    """The 2-norm of all elements of ``tensors`` taken together: a scalar on their device."""
    pieces = [piece for tensor in tensors for piece in _norm_pieces(tensor)]
    return torch.nn.utils.get_total_norm(pieces)


def global_norm(gradients: Mapping[str, Tensor], shardings: Mapping[str, Sharding], model: Axis) -> float:
    """The 2-norm of the whole model's gradient, each element of each parameter counted once.

    Args:
        gradients: by name, the local slices of one replica; every slice has one owner in ``model``.
        model: the ranks that hold slices of this replica.
    """
    owned = [gradient for name, gradient in gradients.items() if shardings[name].owner]
    device = next(iter(gradients.values())).device
    norm = local_norm(owned) if owned else torch.zeros((), device=device)
    return norm_over(norm, model.group)


def norm_over(local: Tensor, group: dist.ProcessGroup | None) -> float:
    """The norm of slices of which ``local`` [] is this rank's norm, over the ranks of ``group``."""
    squares = local.double().square()
    if group is not None:
        dist.all_reduce(squares, group=group)
    return math.sqrt(squares.item())


def clip_coefficient(norm: float, limit: float) -> float:
    """The factor that brings ``norm`` down to ``limit`` (0: no limit), as torch defines it."""
    return min(1.0, limit / (norm + 1e-6)) if limit > 0 else 1.0


def _norm_pieces(tensor: Tensor) -> Iterator[Tensor]:
    if tensor.device.type == "cpu" and tensor.numel() > _CPU_NORM_CHUNK:
        yield from torch.split(tensor.reshape(-1), _CPU_NORM_CHUNK)
    else:
        yield tensor


def _buckets(tensors: Sequence[Tensor], bucket_elements: int) -> Iterator[list[Tensor]]:
    # A quarter of a bucket is large enough a message: sent in place it spares two copies.
    alone = bucket_elements // 4
    bucket: list[Tensor] = []
    elements = 0
    for tensor in tensors:
        if tensor.numel() >= alone:
            yield [tensor]
            continue
        if bucket and elements + tensor.numel() > bucket_elements:
            yield bucket
            bucket, elements = [], 0
        bucket.append(tensor)
        elements += tensor.numel()
    if bucket:
        yield bucket
