"""One start of all ranks, and what came of it: the exit status, and the failure that came first."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from launchers.exits import AGREED, PORT_TAKEN
from launchers.failure import Failure, Suspect, first_failure, memory_of
from launchers.heartbeat import forget_beats
from launchers.ranks import Launcher, Start
from launchers.supervise import Outcome, Stalled, supervise

FAILED, MISTAKE = 1, 2
MEETINGS = 5
"""Ports that are tried for the ranks to meet at, where others listen."""


@dataclass(frozen=True)
class Attempt:
    """How one start of all ranks ended."""

    status: int
    """0: well. 1: a rank failed or hung. 2: over a mistake of the user's. `REQUEUE` and `GO_BACK` of
    `launchers.exits`, where all ranks left with it. 128 plus the signal: told to stop, and not saved."""
    failure: Failure | None = None
    """Where one failed: which came first."""
    hung: tuple[int, ...] = ()
    """Where they were ended over it: the processes that made no progress."""
    signal: int | None = None
    """The signal that told this process to stop."""
    lost: frozenset[str] = frozenset()
    """The hosts that went down, which then are to blame."""


def attempt(
    launcher: Launcher,
    start: Start,
    on_tick: Callable[[], None] | None = None,
    stalled: Stalled | None = None,
    told: Sequence[int] = (),
) -> Attempt:
    """Let ``launcher`` make ``start``, and wait until all of its processes have ended.

    Args:
        on_tick: called some times a second meanwhile.
        stalled: says which of the running processes make no progress; see `launchers.supervise`.
        told: the signals to stop that came before; it may grow until the ranks are started.

    Raises:
        ConfigError: the plan needs devices that the launcher has not.
    """
    launcher.check(start.plan)
    for _ in range(MEETINGS):
        ended, met = _once(launcher, start, on_tick, stalled, told)
        if met:
            break
    return ended


def _once(
    launcher: Launcher,
    start: Start,
    on_tick: Callable[[], None] | None,
    stalled: Stalled | None,
    told: Sequence[int],
) -> tuple[Attempt, bool]:
    """How one start ended, and whether the ranks had a place to meet at."""
    logs = start.run_dir / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    for stale in logs.glob("failure-*.json"):
        stale.unlink()
    forget_beats(start.run_dir)
    paths = [start.log(process) for process in range(len(start.devices))]
    log_starts = [path.stat().st_size if path.exists() else 0 for path in paths]
    outcome = supervise(launcher.start(start), start.config.launcher.grace_s, on_tick, stalled, told)
    met = PORT_TAKEN not in {code for code, _seen in outcome.failed.values()}
    return _attempt(start, outcome, log_starts), met or outcome.signal is not None


def _attempt(start: Start, outcome: Outcome, log_starts: list[int]) -> Attempt:
    if outcome.lost:
        return Attempt(FAILED, signal=outcome.signal, lost=outcome.lost)
    if outcome.hung:
        return Attempt(FAILED, hung=outcome.hung)
    if not outcome.failed:
        return Attempt(_status(outcome), signal=outcome.signal)
    failure = first_failure(_suspects(start, outcome, log_starts))
    if failure.out_of_memory:
        failure = replace(failure, memory=memory_of(start.plan, failure.suspect.rank))
    status = FAILED if failure.mistake is None else MISTAKE
    return Attempt(status, failure, signal=outcome.signal)


def _suspects(start: Start, outcome: Outcome, log_starts: list[int]) -> list[Suspect]:
    suspects = []
    for process, (device, log_start) in enumerate(zip(start.devices, log_starts, strict=True)):
        code, seen = outcome.failed.get(process, (None, math.inf))
        rank, log = start.plan.placement.rank_of(device), start.log(process)
        suspects.append(Suspect(rank, process, device.host, device.index, log, log_start, code, seen))
    return suspects


def _status(outcome: Outcome) -> int:
    codes = set(outcome.codes.values())
    if outcome.signal == signal.SIGINT:
        return 128 + outcome.signal
    if len(codes) == 1 and codes <= AGREED:
        return codes.pop()
    return 0 if outcome.signal is None or codes == {0} else 128 + outcome.signal
