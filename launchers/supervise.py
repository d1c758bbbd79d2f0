"""Watches ranks as one: all end well, or the first failure, a hang or a signal ends all."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import FrameType

from launchers.exits import AGREED
from launchers.ranks import Ranks

_POLL_S = 0.05
_CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_FAILED_GRACE_S = 5.0
"""Longest that the others are waited for once a process has failed: no step can be finished without it."""


@dataclass(frozen=True)
class Outcome:
    """How a set of processes ended."""

    signal: int | None
    """The signal that told the supervisor to stop them; None when nothing did."""
    failed: Mapping[int, tuple[int, float]]
    """Return code and time seen (seconds since the epoch) of each process that failed of its own accord."""
    hung: tuple[int, ...] = ()
    """The processes that showed no progress for too long; all were ended for that."""
    codes: Mapping[int, int] = field(default_factory=dict)
    """Return code of every process."""
    lost: frozenset[str] = frozenset()
    """Hosts that went down meanwhile."""


Stalled = Callable[[Set[int], Ranks], Sequence[int]]
"""Is given the numbers of those that run some times a second; those that make no progress."""


def supervise(
    start: AbstractContextManager[Ranks],
    grace_s: float,
    on_tick: Callable[[], None] | None = None,
    stalled: Stalled | None = None,
    told: Sequence[int] = (),
) -> Outcome:
    """Enter ``start``, wait until all of its processes have ended, and return how.

    The first SIGTERM, SIGUSR1 or Ctrl-C is passed on to all of them, which have ``grace_s`` seconds to
    end in good order; a second one kills at once. When one fails, the others are told to leave and
    killed soon after; when ``stalled`` names some, all are killed.

    ``on_tick`` is called some times a second while processes run. ``told`` are signals that came before,
    and count as if they came now.
    """
    with noted_signals() as caught, start as ranks:
        # Only now, for until then they went there.
        caught[:0] = told
        watched = _Watched(ranks)
        hung: tuple[int, ...] = ()
        stopping: int | None = None
        deadline = math.inf
        try:
            while watched.running and not watched.failed and not ranks.lost() and not hung:
                time.sleep(_POLL_S)
                watched.poll()
                if on_tick is not None:
                    on_tick()
                if caught and stopping is None and watched.running and not watched.failed:
                    stopping, deadline = caught[0], time.monotonic() + grace_s
                    watched.ask(signal.SIGTERM if stopping == signal.SIGINT else stopping)
                if len(caught) > 1 or time.monotonic() > deadline:
                    break
                if stalled is not None:
                    hung = tuple(stalled(watched.running, ranks))
        finally:
            at_once = bool(hung) or len(caught) > 1 or time.monotonic() > deadline
            watched.stop(0.0 if at_once else min(grace_s, _FAILED_GRACE_S), hurry=lambda: len(caught) > 1)
        return Outcome(stopping, watched.failed, hung, watched.codes, frozenset(ranks.lost()))


def pause(seconds: float, on_tick: Callable[[], None] | None = None) -> int | None:
    """Wait, with ``on_tick`` called meanwhile; the signal that cut it short, if one did."""
    deadline = time.monotonic() + seconds
    with noted_signals() as caught:
        while time.monotonic() < deadline and not caught:
            time.sleep(min(_POLL_S, seconds))
            if on_tick is not None:
                on_tick()
        return caught[0] if caught else None


class _Watched:
    """Ranks, and what is known about those that have ended."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._stopping = self._killing = False
        self._sent: set[int] = set()
        self.running: set[int] = set(range(ranks.count))
        self.failed: dict[int, tuple[int, float]] = {}
        self.codes: dict[int, int] = {}

    def poll(self) -> None:
        """Note which processes have ended since the last call."""
        for index, code in sorted(self._ranks.ended().items()):
            self.running.discard(index)
            self.codes[index] = code
            if code and not self._asked_for(code):
                self.failed[index] = (code, time.time())

    def _asked_for(self, code: int) -> bool:
        """Whether a process that ended with ``code`` may have done so because it was told to."""
        if self._killing or code in AGREED:
            return True
        return (self._stopping and code > 0) or -code in self._sent

    def ask(self, number: int) -> None:
        self._sent.add(number)
        self._ranks.ask(number)

    def stop(self, grace_s: float, hurry: Callable[[], bool]) -> None:
        """End all that run: SIGTERM, then SIGKILL after ``grace_s`` seconds or when ``hurry`` says so."""
        self.poll()
        self._stopping = True
        again, deadline = 0.0, time.monotonic() + grace_s
        while self.running and time.monotonic() < deadline and not hurry():
            if time.monotonic() >= again:
                self._sent.add(signal.SIGTERM)
                self._ranks.end(signal.SIGTERM)
                again = time.monotonic() + self._ranks.again_s
            time.sleep(_POLL_S)
            self.poll()
        self._killing = True
        if self.running:
            self._ranks.end(signal.SIGKILL)
        while self.running:
            time.sleep(_POLL_S)
            self.poll()


@contextlib.contextmanager
def noted_signals() -> Iterator[list[int]]:
    """The SIGINT, SIGTERM and SIGUSR1 caught inside the block, in order; outside the main thread, none."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def note(number: int, _frame: FrameType | None) -> None:
        caught.append(number)

    before = {number: signal.signal(number, note) for number in _CAUGHT}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
