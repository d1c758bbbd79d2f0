"""Processes on this machine, each the leader of a session of its own; should their parent die, so do they."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from orchestrate.errors import UserError

_POLL_S = 0.05
_ORPHANS_S = 1.0
"""Longest wait for what the processes started and left behind, once it has been killed."""
_GIVEN_UP_S = 120.0
"""Longest that a process may outlive SIGKILL: one that gives back much memory takes its time."""


class Stuck(UserError):
    """A process that not even SIGKILL ends: a driver or a file system that hangs holds it."""


@dataclass(frozen=True)
class Command:
    """One process to start."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    """Gets its stdout and stderr, appended."""


@contextlib.contextmanager
def started(commands: Sequence[Command]) -> Iterator[Processes]:
    """Start ``commands``.

    Each leads a session of its own, so that a Ctrl-C in the terminal reaches only this process.
    Whatever a process started dies with it; all that is left when the block ends is killed, and should
    this process itself be killed, `launchers.guard` kills them all.
    """
    with _guard() as tell:
        processes = Processes(tell)
        try:
            for command in commands:
                processes.start(command)
            yield processes
        finally:
            processes.clear()


class Known:
    """Processes of this machine, by number and process id, that somebody else started."""

    def __init__(self, pids: Mapping[int, int]) -> None:
        self._pids = pids

    def ask(self, number: int) -> None:
        for pid in self._pids.values():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)

    def held(self) -> Set[int]:
        return {process for process, pid in self._pids.items() if _is_stopped(pid)}


class Processes:
    """What `started` yields: `launchers.ranks.Ranks` on this machine."""

    again_s = 0.5

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell = tell
        self._processes: list[subprocess.Popen[bytes]] = []
        self._running: set[int] = set()
        self._orphans: set[int] = set()
        self._killed: float | None = None

    @property
    def count(self) -> int:
        return len(self._processes)

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
        self._running.add(len(self._processes))
        self._processes.append(process)

    def ended(self) -> Mapping[int, int]:
        codes: dict[int, int] = {}
        for index in sorted(self._running):
            process = self._processes[index]
            if (code := process.poll()) is None:
                continue
            self._running.discard(index)
            if _signal_group(process.pid, signal.SIGKILL):  # what it started and left behind
                self._orphans.add(process.pid)
            self._tell(-process.pid)
            codes[index] = code
        if self._killed is not None and time.monotonic() > self._killed + _GIVEN_UP_S and self._running:
            raise Stuck(self._held_up())
        return codes

    def _held_up(self) -> str:
        those = ", ".join(f"{index} (pid {self._processes[index].pid})" for index in sorted(self._running))
        return (
            f"process {those} has not ended {_GIVEN_UP_S:g} s after SIGKILL: a driver or a file system that"
            " hangs holds it; the kernel's log may say which"
        )

    def ask(self, number: int) -> None:
        for index in self._running:
            with contextlib.suppress(ProcessLookupError):
                self._processes[index].send_signal(number)

    def held(self) -> Set[int]:
        return {index for index in self._running if _is_stopped(self._processes[index].pid)}

    def end(self, number: int) -> None:
        if number == signal.SIGKILL and self._killed is None:
            self._killed = time.monotonic()
        for index in self._running:
            _signal_group(self._processes[index].pid, number)

    def lost(self) -> Set[str]:
        return frozenset()

    def clear(self) -> None:
        """Kill what runs, and wait until it and all that it started are gone.

        Raises:
            Stuck: it does not go.
        """
        self.end(signal.SIGKILL)
        while self._running:
            self.ended()
            time.sleep(_POLL_S if self._running else 0.0)
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


def _is_stopped(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] in ("T", "t")


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
