"""Notices ranks that make no progress, and collects what they were doing.

Every rank's files are asked for by a signal (`orchestrate.train.resilience.signals`): its Python stacks
and the collectives that it has begun, from torch's flight recorder. A rank that cannot answer, because
it is stopped or its machine hangs, leaves neither, which says enough.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path

from launchers.heartbeat import Beat, read_beat
from launchers.ranks import Reachable, launch_order
from orchestrate.plan.plan import Plan

ANSWER_S = 10.0
"""Longest wait for the ranks' answers."""
START_S = 600.0
"""Least time that a rank gets for its first step, which takes what happens once."""
_POLL_S = 0.02


@dataclass(frozen=True)
class State:
    """One process of a run when somebody looked."""

    process: int
    rank: int
    host: str
    device: int
    step: int
    """That it works on, or has ended last."""
    silent_s: float
    """Seconds since its last sign of life."""
    answered: bool
    """Whether it wrote its stacks when asked."""
    stopped: bool
    """Whether the system holds it, as after SIGSTOP."""


class HangWatch:
    """Says which processes have made no progress for ``hang_s`` seconds, once it has seen to them.

    Time is counted from when a beat was seen to change: ranks may run on machines whose clocks have
    nothing to do with this one's. ``on_hang`` is called before they are ended.
    """

    def __init__(self, run_dir: Path, hang_s: float, on_hang: Callable[[Set[int], Reachable], None]) -> None:
        self._run_dir, self._hang_s, self._on_hang = run_dir, hang_s, on_hang
        self._started = time.monotonic()
        self._seen: dict[int, tuple[Beat | None, float]] = {}

    def __call__(self, running: Set[int], ranks: Reachable) -> Sequence[int]:
        """Of the ``running`` processes those that hang."""
        if not self._hang_s:
            return ()
        now = time.monotonic()
        stuck = [process for process in sorted(running) if self._hangs(process, now, ranks)]
        if stuck:
            self._on_hang(running, ranks)
        return stuck

    def _hangs(self, process: int, now: float, ranks: Reachable) -> bool:
        beat = read_beat(self._run_dir, process)
        before, since = self._seen.get(process, (None, self._started))
        if beat != before:
            self._seen[process] = beat, now
            return False
        if beat is not None and beat.leaving:
            return False
        silent_s = now - since
        if (beat is not None and beat.done) or silent_s > START_S:
            return silent_s > self._hang_s
        # What happens once takes its time, but not while the system holds the process.
        return silent_s > self._hang_s and process in ranks.held()


def collect(run_dir: Path, plan: Plan, running: Set[int], ranks: Reachable) -> Path:
    """Ask the ``running`` processes where they are; the folder in ``diagnosis/`` that holds the answers."""
    logs = run_dir / "logs"
    before = {process: _written(logs, process) for process in running}
    held = ranks.held()
    ranks.ask(signal.SIGUSR2)
    waiting = set(running) - held
    deadline = time.monotonic() + ANSWER_S
    while waiting and time.monotonic() < deadline:
        waiting = {process for process in waiting if _written(logs, process) == before[process]}
        time.sleep(_POLL_S)
    folder = _new_folder(run_dir / "diagnosis")
    states = []
    for process, device in enumerate(launch_order(plan)):
        beat = read_beat(run_dir, process)
        answered = process in running and _stacks_size(logs, process) > 0 and process not in held
        for name in (f"stacks-{process}.txt", f"flight-{process}.json"):
            if answered and (logs / name).exists():
                shutil.copyfile(logs / name, folder / name)
        states.append(
            State(
                process=process,
                rank=plan.placement.rank_of(device),
                host=device.host,
                device=device.index,
                step=0 if beat is None else beat.step,
                silent_s=0.0 if beat is None else max(0.0, time.time() - beat.time),
                answered=answered,
                stopped=process in held,
            )
        )
    text = json.dumps([asdict(state) for state in states], indent=1)
    (folder / "states.json").write_text(text, encoding="utf-8")
    return folder


def read_states(folder: Path) -> list[State]:
    """What `collect` wrote about the processes.

    Raises:
        OSError, ValueError, TypeError: it is not there, or damaged.
    """
    return [State(**values) for values in json.loads((folder / "states.json").read_text(encoding="utf-8"))]


def folders(run_dir: Path) -> list[Path]:
    """The folders that `collect` made, oldest first."""
    found = [path for path in (run_dir / "diagnosis").glob("*") if path.name.isdecimal()]
    return sorted(found, key=lambda path: int(path.name))


def _written(logs: Path, process: int) -> tuple[int, int]:
    """Changes when a rank has written everything: the flight recorder comes last."""
    try:
        # Opened, for what a network file system knows of a file without that may be old.
        with (logs / f"flight-{process}.json").open("rb") as file:
            status = os.fstat(file.fileno())
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_ino


def _stacks_size(logs: Path, process: int) -> int:
    try:
        return (logs / f"stacks-{process}.txt").stat().st_size
    except OSError:
        return 0


def _new_folder(base: Path) -> Path:
    number = 1
    while True:
        folder = base / str(number)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
            continue
        return folder
