"""All ranks stop after the same step, whichever of them was asked first."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist

from orchestrate.mesh import ParallelContext


class Agreement:
    """One flag that is raised on all ranks in the same step once any rank has raised it.

    The flags travel while the step is computed: a message of a few bytes that is sent before the
    forward pass and read after the update. It goes over the CPU's network, so that on a GPU it neither
    takes a place among the kernels nor makes the host wait for them.

    Collective: every rank makes one, and calls `send` and `read` once per step, in that order.
    """

    def __init__(self, context: ParallelContext, timeout_s: float) -> None:
        self._group = None
        if context.world.group is not None:
            self._group = dist.new_group(
                backend="gloo", timeout=timedelta(seconds=timeout_s), group_desc="control"
            )
        self._flag = torch.zeros(1, dtype=torch.int32)
        self._work: dist.Work | None = None

    def send(self, flag: bool) -> None:
        """Start telling the others."""
        self._flag.fill_(int(flag))
        if self._group is not None:
            self._work = dist.all_reduce(self._flag, op=dist.ReduceOp.MAX, group=self._group, async_op=True)

    def read(self) -> bool:
        """Whether any rank had raised its flag at the last `send`; the same answer on every rank."""
        if self._work is not None:
            self._work.wait()
            self._work = None
        return bool(self._flag.item())
