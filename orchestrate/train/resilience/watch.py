"""What surrounds each step of a run that somebody watches over."""

from __future__ import annotations

from typing import Protocol

from launchers.heartbeat import Heart
from orchestrate.data.loader import Batch
from orchestrate.mesh import ParallelContext
from orchestrate.parallel.zero.base import Update
from orchestrate.train.resilience.agreement import Agreement
from orchestrate.train.resilience.signals import Requests


class Watch(Protocol):
    """Is told about every step, on every rank and in the same order."""

    def batch_of(self, step: int) -> int:
        """The global batch (0 and up) that optimizer step ``step`` (1 and up) trains on."""

    def begin(self, step: int) -> None:
        """Step ``step`` begins."""

    def end(self, step: int, batch: Batch, rate: float, update: Update) -> bool:
        """The step has ended. Whether to stop after it: the same answer on every rank."""

    def logged(self, step: int, loss: float) -> None:
        """The mean loss of a logged step is known: the same on every rank."""


class Unwatched:
    """Nobody watches: steps follow one another."""

    def batch_of(self, step: int) -> int:
        return step - 1

    def begin(self, step: int) -> None:
        pass

    def end(self, step: int, batch: Batch, rate: float, update: Update) -> bool:
        return False

    def logged(self, step: int, loss: float) -> None:
        pass


class RunWatch(Unwatched):
    """Shows signs of life, and stops when asked. Made by every rank together."""

    def __init__(self, context: ParallelContext, heart: Heart, requests: Requests, timeout_s: float) -> None:
        self._heart, self._requests = heart, requests
        self._agreement = Agreement(context, timeout_s)

    def begin(self, step: int) -> None:
        self._heart.begin(step)
        self._agreement.send(self._requests.stop)

    def end(self, step: int, batch: Batch, rate: float, update: Update) -> bool:
        stop = self._agreement.read()
        self._heart.end(step)
        return stop
