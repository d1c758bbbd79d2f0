"""The ranks of one start as one step of a job: one task per device."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from pathlib import Path

from launchers.exits import AGREED
from launchers.slurm.commands import signal_step, steps_of
from launchers.slurm.reports import Aborted, NodeLost, Tail, TaskEnded, parse

_VANISHED_S = 5.0
"""After a SIGKILL, tasks that srun has not reported by then are on a node that is away, if it is."""
_GIVEN_UP_S = 60.0
"""And by then in any case."""
_ASK_AGAIN_S = 5.0
"""Between one request to stop and the next: a rank that is starting does not listen yet."""
_CLEAR_S = 2.0


RANKS = "ranks-"
"""What the names of the ranks' steps begin with."""


class Running:
    """`launchers.ranks.Reachable`: the ranks of a job, as somebody outside of it reaches them."""

    def __init__(self, step: str) -> None:
        self._step = step

    @classmethod
    def of(cls, job: str) -> Running | None:
        """Those of ``job``; None where none runs."""
        # An earlier one may be left where a node is away.
        starts = {int(n.removeprefix(RANKS)): s for n, s in steps_of(job).items() if n.startswith(RANKS)}
        return cls(starts[max(starts)]) if starts else None

    def ask(self, number: int) -> None:
        signal_step(self._step, number)

    def held(self) -> Set[int]:
        return frozenset()


class Step:
    """`launchers.ranks.Ranks` that run as a step.

    Args:
        srun: runs.
        tail: what it says on stderr.
        hosts: by process.
        name: of the step, the only one of the job.
        silent: which of some hosts do not answer.
    """

    again_s = 3.0

    def __init__(
        self,
        srun: subprocess.Popen[bytes],
        tail: Tail,
        hosts: Sequence[str],
        job: str,
        name: str,
        silent: Callable[[Collection[str]], Set[str]],
    ) -> None:
        self._srun, self._tail, self._hosts, self._silent = srun, tail, tuple(hosts), silent
        self._job, self._name = job, name
        self._id: str | None = None
        self._running = set(range(len(hosts)))
        self._lost: set[str] = set()
        self._reported = self._aborted = False
        self._killed: float | None = None
        self._looked = self._asked = float("inf")
        self.failed: set[int] = set()
        """Those that ended with an exit status of their own that is not agreed on."""
        self.never_began = False
        """Whether srun ended without having started anything."""

    @property
    def count(self) -> int:
        return len(self._hosts)

    def held(self) -> Set[int]:
        return frozenset()

    def lost(self) -> Set[str]:
        return self._lost

    def ask(self, number: int) -> None:
        # Two SIGTERMs mean "at once", and Slurm sends some of its own.
        asked = signal.SIGUSR1 if number == signal.SIGTERM else number
        self._signal(asked)
        if asked == signal.SIGUSR1:
            self._asked = time.monotonic()

    def end(self, number: int) -> None:
        self._asked = float("inf")
        if number == signal.SIGKILL and self._killed is None:
            self._killed = time.monotonic()
            self._looked = self._killed + _VANISHED_S
        self._signal(number)

    def ended(self) -> Mapping[int, int]:
        if time.monotonic() > self._asked + _ASK_AGAIN_S:
            self.ask(signal.SIGUSR1)
        over = self._srun.poll()
        codes = self._read()
        if over is None and self._killed is not None and time.monotonic() > self._looked:
            self._look_for_vanished(codes)
        left = self._running - codes.keys()
        codes |= {process: -signal.SIGKILL for process in left if self._hosts[process] in self._lost}
        if over is not None:
            codes |= self._last_words(over, self._running - codes.keys())
        self._running -= codes.keys()
        self.failed |= {process for process, code in codes.items() if 0 < code < 128 and code not in AGREED}
        return codes

    def _read(self) -> dict[int, int]:
        """The tasks that srun reports."""
        codes: dict[int, int] = {}
        for line in self._tail.lines():
            for report in parse(line):
                match report:
                    case TaskEnded(task, code):
                        self._reported = True
                        if task in self._running:
                            codes[task] = code
                    case NodeLost(host):
                        self._lost.add(host)
                    case Aborted():
                        self._aborted = True
        return codes

    def _last_words(self, code: int, left: Collection[int]) -> dict[int, int]:
        """How those ended that srun did not report before it ended with ``code`` itself: well, as a rule."""
        if code < 0 and self._killed is None:
            return dict.fromkeys(left, code)  # somebody ended srun itself, and so what it would have said
        if self._aborted:
            # They were out of its reach, and the others were not: their hosts are to blame.
            self._lost.update(self._hosts[process] for process in left)
            return dict.fromkeys(left, -signal.SIGKILL)
        if code and not self._reported and self._killed is None:
            self.never_began = True
            return dict.fromkeys(left, code)
        return dict.fromkeys(left, 0)

    def _look_for_vanished(self, codes: Mapping[int, int]) -> None:
        assert self._killed is not None
        self._signal(signal.SIGKILL)  # Slurm may have been too busy for the one before
        left = {self._hosts[process] for process in self._running - codes.keys()}
        waited = time.monotonic() - self._killed
        self._lost |= left if waited > _GIVEN_UP_S else self._silent(left)
        self._looked = time.monotonic() + _VANISHED_S

    def _signal(self, number: int) -> None:
        if self._id is None:
            self._id = steps_of(self._job).get(self._name)
        if self._id is not None:
            signal_step(self._id, number)
        elif number in (signal.SIGTERM, signal.SIGKILL):
            self._srun.send_signal(signal.SIGTERM)  # it still waits for its step

    def clear(self) -> None:
        """Let go of the step: nothing of it is left on any node that can be reached."""
        over = self._srun.poll()
        if over is not None and over < 0:
            self._end_orphans()
        if over is not None:
            return
        self.end(signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._srun.wait(_CLEAR_S)
        self._srun.kill()
        self._srun.wait()

    def _end_orphans(self) -> None:
        """End the step of an srun that somebody killed: its tasks would go on beside those of the next."""
        deadline = time.monotonic() + _GIVEN_UP_S
        while (step := steps_of(self._job).get(self._name)) and time.monotonic() < deadline:
            signal_step(step, signal.SIGKILL)
            time.sleep(_CLEAR_S)


@contextlib.contextmanager
def started(
    argv: Sequence[str],
    environment: Mapping[str, str],
    words: Path,
    hosts: Sequence[str],
    job: str,
    name: str,
    silent: Callable[[Collection[str]], Set[str]],
) -> Iterator[Step]:
    """Start srun with ``argv``, process K on ``hosts[K]``; see `Step`."""
    order = words.with_suffix(".hosts")
    order.write_text("".join(f"{host}\n" for host in hosts))
    tail = Tail(words)  # of earlier starts' words the end
    with words.open("ab") as file:
        srun = subprocess.Popen(
            argv,
            env={**environment, "SLURM_HOSTFILE": str(order.absolute())},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    step = Step(srun, tail, hosts, job, name, silent)
    try:
        yield step
    finally:
        step.clear()
