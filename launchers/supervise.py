"""Runs processes as one: all end well, or the first failure, a hang, a signal or a lost launcher ends all."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from launchers.exits import AGREED

_POLL_S = 0.05
_CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_AGAIN_S = 0.5
"""Between one SIGTERM and the next: the first asks a rank to finish its step, the second to leave at once."""
_ORPHANS_S = 1.0
"""Longest wait for what the processes started and left behind, once it has been killed."""
_FAILED_GRACE_S = 5.0
"""Longest that the others are waited for once a process has failed: no step can be finished without it."""


@dataclass(frozen=True)
class Command:
    """One process to start."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    """Gets its stdout and stderr, appended."""


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


Stalled = Callable[[Mapping[int, int]], Sequence[int]]
"""Is given the running processes and their ids some times a second; those that make no progress."""


def supervise(
    commands: Sequence[Command],
    grace_s: float,
    on_tick: Callable[[], None] | None = None,
    stalled: Stalled | None = None,
) -> Outcome:
    """Start ``commands``, wait until all have ended, and return how.

    Each process leads a session of its own, so that a Ctrl-C in the terminal reaches only the
    supervisor. The first SIGTERM, SIGUSR1 or Ctrl-C is passed on to all of them, which have ``grace_s``
    seconds to end in good order; a second one kills at once. When one fails, the others are told to
    leave and killed soon after; when ``stalled`` names some, all are killed. Whatever a process started
    dies with it, and should the supervisor itself be killed, `launchers.guard` kills them all.

    ``on_tick`` is called some times a second while processes run.
    """
    with _guard() as tell, _signals() as caught:
        group = _Group(tell)
        hung: tuple[int, ...] = ()
        told: int | None = None
        deadline = math.inf
        try:
            for command in commands:
                group.start(command)
            while group.running and not group.failed and not hung:
                time.sleep(_POLL_S)
                group.poll()
                if on_tick is not None:
                    on_tick()
                if caught and told is None and group.running and not group.failed:
                    told, deadline = caught[0], time.monotonic() + grace_s
                    group.ask(signal.SIGTERM if told == signal.SIGINT else told)
                if len(caught) > 1 or time.monotonic() > deadline:
                    break
                if stalled is not None:
                    hung = tuple(stalled(group.pids))
        finally:
            at_once = bool(hung) or len(caught) > 1 or time.monotonic() > deadline
            group.stop(0.0 if at_once else min(grace_s, _FAILED_GRACE_S), hurry=lambda: len(caught) > 1)
        return Outcome(told, group.failed, hung, group.codes)


def pause(seconds: float, on_tick: Callable[[], None] | None = None) -> int | None:
    """Wait, with ``on_tick`` called meanwhile; the signal that cut it short, if one did."""
    deadline = time.monotonic() + seconds
    with _signals() as caught:
        while time.monotonic() < deadline and not caught:
            time.sleep(min(_POLL_S, seconds))
            if on_tick is not None:
                on_tick()
        return caught[0] if caught else None


class _Group:
    """The processes, and what is known about those that have ended."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell = tell
        self._processes: list[subprocess.Popen[bytes]] = []
        self._stopping = self._killing = False
        self._sent: set[int] = set()
        self._orphans: set[int] = set()
        self.running: set[int] = set()
        self.failed: dict[int, tuple[int, float]] = {}
        self.codes: dict[int, int] = {}

    @property
    def pids(self) -> dict[int, int]:
        """Process ids of those that run."""
        return {index: self._processes[index].pid for index in self.running}

    def start(self, command: Command) -> None:
        with command.log.open("ab") as log:
            process = subprocess.Popen(
                command.argv,
                env=dict(command.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._tell(process.pid)
        self.running.add(len(self._processes))
        self._processes.append(process)

    def poll(self) -> None:
        """Note which processes have ended since the last call."""
        for index in sorted(self.running):
            process = self._processes[index]
            if (code := process.poll()) is None:
                continue
            self.running.discard(index)
            if _signal_group(process.pid, signal.SIGKILL):  # what it started and left behind
                self._orphans.add(process.pid)
            self._tell(-process.pid)
            self.codes[index] = code
            if code and not self._asked_for(code):
                self.failed[index] = (code, time.time())

    def _asked_for(self, code: int) -> bool:
        """Whether a process that ended with ``code`` may have done so because it was told to."""
        if self._killing or code in AGREED:
            return True
        return (self._stopping and code > 0) or -code in self._sent

    def ask(self, number: int) -> None:
        """Send signal ``number`` to all that run, but not to what they started: that is theirs to end."""
        self._sent.add(number)
        for index in self.running:
            with contextlib.suppress(ProcessLookupError):
                self._processes[index].send_signal(number)

    def stop(self, grace_s: float, hurry: Callable[[], bool]) -> None:
        """End all that run: SIGTERM, then SIGKILL after ``grace_s`` seconds or when ``hurry`` says so."""
        self.poll()
        self._stopping = True
        again, deadline = 0.0, time.monotonic() + grace_s
        while self.running and time.monotonic() < deadline and not hurry():
            if time.monotonic() >= again:
                self._sent.add(signal.SIGTERM)
                for index in self.running:
                    _signal_group(self._processes[index].pid, signal.SIGTERM)
                again = time.monotonic() + _AGAIN_S
            time.sleep(_POLL_S)
            self.poll()
        self._killing = True
        for index in self.running:
            _signal_group(self._processes[index].pid, signal.SIGKILL)
        while self.running:
            time.sleep(_POLL_S)
            self.poll()
        # A killed process takes a moment to be gone; one that nobody reaps stays a zombie.
        deadline = time.monotonic() + _ORPHANS_S
        while time.monotonic() < deadline and any(_signal_group(group, 0) for group in self._orphans):
            time.sleep(_POLL_S)


def _signal_group(group: int, number: int) -> bool:
    """Whether there is such a process group, which now has signal ``number``."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
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


@contextlib.contextmanager
def _guard() -> Iterator[Callable[[int], None]]:
    """A function that tells a running `launchers.guard` about process groups."""
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(__file__).with_name("guard.py"))],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    assert guard.stdin is not None

    def tell(number: int) -> None:
        assert guard.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            guard.stdin.write(b"%d\n" % number)
            guard.stdin.flush()

    try:
        yield tell
    finally:
        with contextlib.suppress(BrokenPipeError):
            guard.stdin.close()
        guard.wait()
