"""Batches of one replica, read ahead in the background when asked to."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import torch

from orchestrate.data.sampler import Sampler


@dataclass(frozen=True)
class Batch:
    """One replica's share of a global batch."""

    tokens: torch.Tensor
    """int64 [n, seq + 1]: inputs are all but the last, labels all but the first."""
    samples: torch.Tensor
    """int64 [n]: the global number of each sample."""


class Loader:
    """Replica ``dp_rank`` of ``dp`` gets, at step s, the global samples
    ``position(s) + dp_rank * n`` up to but not including ``+ n``, n = global_batch / dp.

    ``position(s)`` is ``s * global_batch + shift``: a run that went on with another global batch, or
    left samples out, is that many samples further (or, below zero, less far).

    ``workers`` threads read that many steps ahead; 0 reads when asked. Any step may be asked for
    in any order; only steps in order are found read already.
    """

    def __init__(
        self, sampler: Sampler, global_batch: int, dp_rank: int, dp: int, workers: int = 0, shift: int = 0
    ) -> None:
        assert global_batch % dp == 0, f"dp {dp} divides the global batch {global_batch}"
        assert 0 <= dp_rank < dp, f"replica {dp_rank} of {dp}"
        self._sampler = sampler
        self._global_batch = global_batch
        self._shift = shift
        self._share = global_batch // dp
        self._offset = dp_rank * self._share
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="loader") if workers else None
        self._ahead: dict[int, Future[Batch]] = {}

    def position(self, step: int) -> int:
        """The first global sample of optimizer step ``step`` (0 and up): so many were consumed before."""
        return step * self._global_batch + self._shift

    def batch(self, step: int) -> Batch:
        """The samples of optimizer step ``step`` (0 and up)."""
        if self._pool is None:
            return self._read(step)
        wanted = range(step, step + 1 + self._workers)
        for other in [s for s in self._ahead if s not in wanted]:
            self._ahead.pop(other).cancel()
        for s in wanted:
            if s not in self._ahead:
                self._ahead[s] = self._pool.submit(self._read, s)
        return self._ahead.pop(step).result()

    def close(self) -> None:
        """Stop reading ahead."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, step: int) -> Batch:
        first = self.position(step) + self._offset
        last = first + self._share
        tokens = np.stack([self._sampler.sample(n) for n in range(first, last)])
        return Batch(torch.from_numpy(tokens), torch.arange(first, last))
