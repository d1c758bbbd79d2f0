"""What surrounds each step of a run that somebody watches over."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from launchers.heartbeat import Heart
from orchestrate.config import Config
from orchestrate.data.loader import Batch
from orchestrate.parallel.zero.base import Update
from orchestrate.train.resilience.agreement import Agreement
from orchestrate.train.resilience.numbers import NonFinite, Spikes
from orchestrate.train.resilience.replicas import check_replicas
from orchestrate.train.resilience.signals import Requests
from orchestrate.train.resilience.skips import Skip, add_skip, batch_of, read_skips
from orchestrate.train.setup import Replica


class Watch(Protocol):
    """Is told about every step, on every rank and in the same order."""

    def batch_of(self, step: int) -> int:
        """The global batch (0 and up) that optimizer step ``step`` (1 and up) trains on."""

    def begin(self, step: int) -> None:
        """Step ``step`` begins."""

    def end(self, step: int, batch: Batch, rate: float, update: Update) -> bool:
        """The step has ended. Whether to stop after it: the same answer on every rank."""

    def logged(self, step: int, loss: float) -> bool:
        """The mean loss of a logged step is known. Whether to go back to the last checkpoint: the same
        answer on every rank."""


class Unwatched:
    """Nobody watches: steps follow one another."""

    def batch_of(self, step: int) -> int:
        return step - 1

    def begin(self, step: int) -> None:
        pass

    def end(self, step: int, batch: Batch, rate: float, update: Update) -> bool:
        return False

    def logged(self, step: int, loss: float) -> bool:
        return False


class RunWatch(Unwatched):
    """Shows signs of life, stops when asked, and distrusts numbers. Made by every rank together.

    Args:
        start: the step that the run goes on from.
        timeout_s: longest wait for the other ranks to say whether they were asked to stop.
    """

    def __init__(
        self,
        run_dir: Path,
        config: Config,
        replica: Replica,
        heart: Heart,
        requests: Requests,
        start: int,
        timeout_s: float,
    ) -> None:
        self._run_dir, self._replica, self._heart, self._requests = run_dir, replica, heart, requests
        self._start = start
        self._agreement = Agreement(replica.context, timeout_s)
        self._non_finite = NonFinite(config, replica)
        self._spikes = Spikes(config.faults.spike_factor)
        self._replica_check_every = config.faults.replica_check_every
        self._skips = read_skips(run_dir)
        self._astray: int | None = None

    @property
    def astray(self) -> bool:
        """Whether the run is to start again at its last checkpoint."""
        return self._astray is not None

    def batch_of(self, step: int) -> int:
        return batch_of(step, self._start, self._skips)

    def begin(self, step: int) -> None:
        self._heart.begin(step)
        self._agreement.send(self._requests.stop)

    def end(self, step: int, batch: Batch, rate: float, update: Update) -> bool:
        stop = self._agreement.read()
        self._non_finite.check(step, batch, rate, update)
        if self._replica_check_every and step % self._replica_check_every == 0:
            check_replicas(self._replica, step)
        self._heart.end(step)
        return stop

    def logged(self, step: int, loss: float) -> bool:
        if self._spikes.is_one(loss):
            self._astray = step
        return self.astray

    def leave_out(self, checkpoint: int) -> None:
        """Leave out the data from step ``checkpoint`` to the spike when the run starts again; on one rank."""
        assert self._astray is not None
        add_skip(self._run_dir, Skip(checkpoint, self._astray - checkpoint))
