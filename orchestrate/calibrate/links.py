"""Actions that move bytes between ranks, through the very functions that training uses."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist

from orchestrate.calibrate.samples import Exchange
from orchestrate.mesh import Axis
from orchestrate.model.collectives import all_gather, all_reduce, reduce_scatter

Action = Callable[[], object]


class Links:
    """The process groups of some exchanges; building it is collective."""

    def __init__(self, cases: Iterable[Exchange], device: torch.device) -> None:
        self._device = device
        self._rank = dist.get_rank()
        self._axes: dict[tuple[tuple[int, ...], ...], Axis | None] = {}
        for groups in dict.fromkeys(case.groups for case in cases):
            mine = None
            for ranks in groups:
                group = dist.new_group(list(ranks))
                if self._rank in ranks:
                    mine = Axis("calibration", ranks.index(self._rank), len(ranks), ranks, group)
            self._axes[groups] = mine

    def action(self, case: Exchange) -> Action | None:
        """What this rank does in `case`; None where it has no part in it. A ``send`` goes there and back."""
        axis = self._axes[case.groups]
        if axis is None:
            return None
        elements = max(axis.size, case.size // 4 // axis.size * axis.size)
        if case.kind == "all_gather":
            part = torch.zeros(elements // axis.size, device=self._device)
            return lambda: all_gather(part, axis).wait()
        whole = torch.zeros(elements, device=self._device)
        if case.kind == "send":
            return lambda: _there_and_back(whole, axis)
        exchange = {"all_reduce": all_reduce, "reduce_scatter": reduce_scatter}[case.kind]
        return lambda: exchange(whole, axis).wait()


def _there_and_back(tensor: torch.Tensor, axis: Axis) -> None:
    other = axis.ranks[1 - axis.rank]
    for sends in (axis.rank == 0, axis.rank == 1):
        if sends:
            dist.send(tensor, other, group=axis.group)
        else:
            dist.recv(tensor, other, group=axis.group)
