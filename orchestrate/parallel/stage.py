"""A pipeline stage that holds received tensors only while their micro-batch is under way."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.pipelining import PipelineStage


class Stage(PipelineStage):
    """torch's stage, but a receive buffer lives from the receive to the end of its use.

    torch keeps a buffer per micro-batch and direction, and the input's gradient beside it, for the
    whole run: memory that grows with the number of micro-batches, which 1F1B exists to avoid.
    """

    def _prepare_forward_infra(self, *args: Any, **kwargs: Any) -> Any:
        result = super()._prepare_forward_infra(*args, **kwargs)
        for infos in self.args_recv_info.values():
            _release(infos)
        return result

    def _prepare_backward_infra(self, *args: Any, **kwargs: Any) -> Any:
        result = super()._prepare_backward_infra(*args, **kwargs)
        for infos in self.grad_recv_info.values():
            _release(infos)
        return result

    def get_fwd_recv_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        self._allocate(self.args_recv_info[fwd_chunk_id])
        return super().get_fwd_recv_ops(fwd_chunk_id)

    def get_bwd_recv_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        if self.has_backward and not self.is_last:
            self._allocate(self.grad_recv_info[bwd_chunk_id])
        return super().get_bwd_recv_ops(bwd_chunk_id)

    def forward_one_chunk(self, fwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        output = super().forward_one_chunk(fwd_chunk_id, *args, **kwargs)
        _release(self.args_recv_info[fwd_chunk_id])  # the graph holds the input while it needs it
        return output

    def backward_one_chunk(self, bwd_chunk_id: int, *args: Any, **kwargs: Any) -> None:
        super().backward_one_chunk(bwd_chunk_id, *args, **kwargs)
        _release(self.grad_recv_info.get(bwd_chunk_id, ()))

    def _allocate(self, infos: Iterable[Any]) -> None:
        for info in infos:
            if not info.is_root_arg and info.buffer is None:
                info.buffer = torch.empty(
                    info.tensor_meta.shape, dtype=info.tensor_meta.dtype, device=self.device
                )


def _release(infos: Iterable[Any]) -> None:
    for info in infos:
        if not info.is_root_arg:
            info.buffer = None
