"""Runs processes as one: all end well, or the first failure, a signal or a lost launcher ends all."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

_POLL_S = 0.05


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


def supervise(
    commands: Sequence[Command], grace_s: float, on_tick: Callable[[], None] | None = None
) -> Outcome:
    """Start ``commands``, wait until all have ended, and return how.

    Each process leads a session of its own, so that a Ctrl-C in the terminal reaches only the
    supervisor. When one fails, or SIGINT or SIGTERM arrives, the others get SIGTERM, and SIGKILL
    ``grace_s`` seconds later; a second signal kills at once. Whatever a process started dies with it,
    and should the supervisor itself be killed, `launchers.guard` kills them all.

    ``on_tick`` is called some times a second while processes run.
    """
    with _guard() as tell, _signals() as caught:
        group = _Group(tell)
        try:
            for command in commands:
                group.start(command)
            while group.running and not group.failed and not caught:
                time.sleep(_POLL_S)
                group.poll()
                if on_tick is not None:
                    on_tick()
            told = caught[0] if caught and group.running and not group.failed else None
        finally:
            group.stop(grace_s, hurry=lambda: len(caught) > 1)
        return Outcome(told, group.failed)


class _Group:
    """The processes, and what is known about those that have ended."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell = tell
        self._processes: list[subprocess.Popen[bytes]] = []
        self._stopping = self._killing = False
        self.running: set[int] = set()
        self.failed: dict[int, tuple[int, float]] = {}

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
            _signal_group(process.pid, signal.SIGKILL)  # what it started and left behind
            self._tell(-process.pid)
            if code and not self._asked_for(code):
                self.failed[index] = (code, time.time())

    def _asked_for(self, code: int) -> bool:
        """Whether a process that ended with ``code`` may have done so because it was told to."""
        return self._killing or (self._stopping and (code > 0 or code == -signal.SIGTERM))

    def stop(self, grace_s: float, hurry: Callable[[], bool]) -> None:
        """End all that run: SIGTERM, then SIGKILL after ``grace_s`` seconds or when ``hurry`` says so."""
        self.poll()
        self._stopping = True
        for index in self.running:
            _signal_group(self._processes[index].pid, signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while self.running and time.monotonic() < deadline and not hurry():
            time.sleep(_POLL_S)
            self.poll()
        self._killing = True
        for index in self.running:
            _signal_group(self._processes[index].pid, signal.SIGKILL)
        while self.running:
            time.sleep(_POLL_S)
            self.poll()


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """The SIGINT and SIGTERM caught inside the block, in order; outside the main thread, none are."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def note(number: int, _frame: FrameType | None) -> None:
        caught.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
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
