"""A run of ``orchestrate train`` as its operator sees it: a command, its ranks, its folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from benchmarks.disturb.lineage import FOLDER
from launchers.exits import REQUEUE
from launchers.heartbeat import Beat, read_beats
from orchestrate.train.notices import read_notices

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 300.0
"""Longest wait for anything; what takes longer is not survived."""
QUIET_S = 20.0
"""Longest that anything may outlive the command."""
_POLL_S = 0.05


class NotSurvived(Exception):
    """The run did not do what it should."""


@dataclass(frozen=True)
class Rank:
    """A process of the run."""

    pid: int
    process: int
    device: str
    """As in ``lost.txt``."""


class Session:
    """The run in ``folder / "run"``, started with ``overrides`` whenever it should run.

    A context manager: the run is ended when it is left.
    """

    def __init__(self, folder: Path, overrides: Sequence[str]) -> None:
        self.folder, self.run_dir, self.witness = folder, folder / "run", folder / "witness"
        self.output = folder / "output.txt"
        self.last_victim = ""
        """The device that a fault began on last."""
        self._overrides = overrides
        # What the command starts inherits it: nobody who is left behind can hide.
        self._mark = f"ORCHESTRATE_DISTURBED={os.path.realpath(folder)}"
        self._command: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the command; it goes on from the last checkpoint."""
        name, _, value = self._mark.partition("=")
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            FOLDER: str(self.witness),
            name: value,
        }
        words = ["train", *self._overrides, f"run.dir={self.run_dir}"]
        argv = [sys.executable, "-m", "benchmarks.disturb.command", *words]
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.output.open("ab") as output:
            self._command = subprocess.Popen(
                argv,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Of the command, which is the ranks' supervisor."""
        assert self._command is not None
        return self._command.pid

    def ranks(self) -> list[Rank]:
        """The ranks that live, in the order of their devices."""
        found = []
        for pid in _children(self.pid):
            environment = _environment(pid)
            if {"RANK", "ORCHESTRATE_DEVICE"} <= environment.keys():
                device = f"{environment['ORCHESTRATE_HOST']}:{environment['ORCHESTRATE_DEVICE']}"
                found.append(Rank(pid, int(environment["RANK"]), device))
        return sorted(found, key=lambda rank: rank.process)

    def left_behind(self) -> list[int]:
        """Every process that the command started, at whatever remove, and that lives."""
        name, _, value = self._mark.partition("=")
        numbers = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())
        marked = [pid for pid in numbers if _environment(pid).get(name) == value]
        return [pid for pid in marked if self._command is None or pid != self.pid]

    def beats(self) -> list[Beat]:
        """The last sign of life of each rank that lives; empty while they start."""
        ranks = self.ranks()
        beats = read_beats(self.run_dir, len(ranks))
        own = [beats[rank.process] for rank in ranks if rank.process in beats]
        return own if own and [beat.pid for beat in own] == [rank.pid for rank in ranks] else []

    def furthest(self) -> int:
        """The furthest step that a rank which lives has begun; 0 while they start."""
        return max((beat.step for beat in self.beats()), default=0)

    def training(self) -> bool:
        """Whether every rank has made a step since the last start."""
        beats = self.beats()
        return bool(beats) and all(beat.done for beat in beats)

    def wait_for_step(self, step: int) -> None:
        """Until ``step`` has begun, and is not the first since a start, which may take long.

        Raises:
            NotSurvived: as `wait`.
        """
        self.wait(lambda: self.training() and self.furthest() >= step, f"step {step}")

    def notices(self) -> list[str]:
        return read_notices(self.run_dir)

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Until ``condition``; a command that was asked to stop is started again meanwhile.

        Raises:
            NotSurvived: the command ended otherwise, or it took too long.
        """
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if (status := self.ended()) is not None and status != REQUEUE:
                raise NotSurvived(f"waiting for {what}, the command ended with {status}: {self.last_words()}")
            if status == REQUEUE:
                self.start()
            if time.monotonic() > deadline:
                raise NotSurvived(f"waited in vain for {what}: {self.last_words()}")
            time.sleep(_POLL_S)

    def wait_to_end(self) -> int:
        """The exit status of the command, once it ends."""
        assert self._command is not None
        return self._command.wait(PATIENCE_S)

    def ended(self) -> int | None:
        """The exit status of the command; None while it runs."""
        assert self._command is not None
        return self._command.poll()

    def wait_for_quiet(self) -> None:
        """Until nothing is left of a command that has ended.

        Raises:
            NotSurvived: something is.
        """
        deadline = time.monotonic() + QUIET_S
        while left := self.left_behind():
            if time.monotonic() > deadline:
                raise NotSurvived(f"the command has ended, and processes {left} live on")
            time.sleep(_POLL_S)

    def last_words(self) -> str:
        lines = self.output.read_text(errors="replace").splitlines()
        return "\n".join(lines[-30:])

    def stop(self) -> None:
        """Have the run save and leave, where it runs.

        Raises:
            NotSurvived: it did something else.
        """
        if self._command is None or self.ended() is not None:
            return
        self._command.send_signal(signal.SIGTERM)
        if (status := self.wait_to_end()) != REQUEUE:
            raise NotSurvived(f"asked to stop, the command ended with {status}: {self.last_words()}")

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._command is not None and self.ended() is None:
            self._command.kill()
            self._command.wait()
            self.wait_for_quiet()


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _environment(pid: int) -> dict[str, str]:
    """What ``pid`` was started with; empty where it has ended."""
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return {name: value for name, _, value in (word.partition("=") for word in words)}
