"""Saving while training goes on: it waits only for the copy to host memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import torch
import torch.distributed as dist

from orchestrate import __version__
from orchestrate.config import Config, dump
from orchestrate.mesh import ParallelContext
from orchestrate.parallel.zero.base import ZeroEngine
from orchestrate.plan.plan import SEARCHED, Plan
from orchestrate.resources import revision
from orchestrate.train.checkpoint.format import FOLDER, State
from orchestrate.train.checkpoint.keep import tidy
from orchestrate.train.checkpoint.parts import HostCopy, Part, written
from orchestrate.train.checkpoint.write import WRITER, save

Notify = Callable[[str], None]


class Saver:
    """Saves one rank's part of a run's checkpoints, one at a time; the same calls on every rank.

    A context manager: it waits for the last save at its end, unless an error ends it.

    Args:
        notify: is told of checkpoints that could not be written; called on one rank, from the thread
            that writes.
        damaged: steps of checkpoints in ``run_dir`` that are known not to be whole.
    """

    def __init__(
        self,
        run_dir: Path,
        plan: Plan,
        config: Config,
        context: ParallelContext,
        data_fingerprint: str,
        notify: Notify | None = None,
        damaged: Iterable[int] = (),
    ) -> None:
        self._folder = run_dir / FOLDER
        self._config = config
        self._plan_values = {key: value for key, value in dump(plan).items() if key not in SEARCHED}
        self._config_values = dump(config)
        self._fingerprint = data_fingerprint
        self._notify = notify if context.rank == WRITER else None
        self._rank = context.rank
        self._revision = revision() if context.rank == WRITER else None
        self._saves = 0
        self._damaged = set(damaged)
        self._copy = HostCopy()
        self._pending: Future[None] | None = None
        token: list[str] = [f"{os.getpid()}-{time.time_ns():x}"]
        dist.broadcast_object_list(token, src=WRITER)
        self._token = token[0]
        # Collectives of the thread must not meet those of training, nor need its devices.
        self._group = dist.new_group(backend="gloo")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")

    def due(self, step: int, steps: int) -> bool:
        """Whether update ``step`` of ``steps`` is one to save after."""
        every = self._config.checkpoint.every
        return every is not None and (step == steps or (every > 0 and step % every == 0))

    def save(self, step: int, samples: int, engine: ZeroEngine) -> float:
        """Save the state after update ``step``, with so many global ``samples`` consumed.

        Waits first where the save before is still being written.

        Returns:
            Seconds that training stood still on this rank.
        """
        started = time.perf_counter()
        self.wait()
        state = self._state(step, samples, engine)
        parts = written(engine.fragments())
        self._saves += 1
        if self._config.checkpoint.asynchronous:
            self._pending = self._thread.submit(self._write, self._copy.take(parts), state, self._saves)
        else:
            self._write(parts, state, self._saves)
        return time.perf_counter() - started

    def wait(self) -> None:
        """Until the last save has been written, or has failed to be."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.wait()
        self._thread.shutdown(wait=error is None)

    def _write(self, parts: list[Part], state: State, number: int) -> None:
        try:
            save(parts, state, self._folder, f"{self._token}-{number}", self._group)
            if self._rank == WRITER:
                self._damaged.discard(state.step)
                keep = self._config.checkpoint
                tidy(self._folder, keep.keep, keep.keep_every, self._damaged)
        except OSError as error:
            # Training is worth more than one checkpoint: the next may find room again.
            if self._notify is not None:
                self._notify(
                    f"the checkpoint after step {state.step} could not be written to {self._folder}"
                    f" ({error.strerror or error}): training goes on without it"
                )

    def _state(self, step: int, samples: int, engine: ZeroEngine) -> State:
        counters = engine.counters()
        return State(
            step=step,
            samples=samples,
            seed=self._config.train.seed,
            data_fingerprint=self._fingerprint,
            updates=counters.updates,
            loss_scale=counters.loss_scale,
            good_steps=counters.good_steps,
            config=self._config_values,
            plan=self._plan_values,
            revision=self._revision,
            versions={"orchestrate": __version__, "torch": str(torch.__version__)},
            time=time.time(),
        )
