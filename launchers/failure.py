"""Which rank failed first, and what it had to say."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_LOST_PEER = re.compile(
    r"closed by peer|reset by peer|connection refused|broken pipe|connectFullMesh failed|"
    r"remote process exited|socketPollConnect|store.*(timeout|failed)|Timed out waiting|"
    r"DistNetworkError|DistStoreError",
    re.IGNORECASE,
)
"""How an error reads on a rank that only lost the rank which failed: never the one to show first."""

_TRACEBACK = ("Traceback (most recent", "Fatal Python error")
_TAIL_LINES = 40


@dataclass(frozen=True)
class Suspect:
    """A process of a failed run that may be the one that brought it down."""

    rank: int
    """The logical rank, as in the plan."""
    process: int
    """Position in launch order; its files are ``rank-<process>.log`` and ``failure-<process>.json``."""
    host: str
    device: int
    log: Path
    log_start: int
    """Bytes that the log held before this run."""
    returncode: int | None
    """As `subprocess` has it: minus the signal, or the exit status; None when it ended only on request."""
    seen: float
    """When its end was seen, seconds since the epoch."""


@dataclass(frozen=True)
class Failure:
    """The failure that brought a run down, ready to be shown."""

    suspect: Suspect
    time: float
    """Seconds since the epoch."""
    traceback: str
    """What the rank itself recorded, else the last traceback or the last lines of its log."""
    recorded: bool
    """Whether the rank recorded it itself."""
    mistake: str | None = None
    """The one line to show instead, where the rank met a mistake of the user's."""

    @property
    def headline(self) -> str:
        """One line: which rank, where it sat, how it ended, and its log."""
        who, code = self.suspect, self.suspect.returncode
        process = "" if who.rank == who.process else f" (process {who.process})"
        how = "an exception" if self.recorded or code is None else _how(code)
        where = f"{who.host} device {who.device}"
        return f"rank {who.rank}{process} on {where} failed first: {how}; log: {who.log}"

    @property
    def text(self) -> str:
        """All that is worth showing: the headline and the traceback, or the one line about a mistake."""
        if self.mistake is not None:
            return f"orchestrate: {' '.join(self.mistake.split())}"
        return f"{self.headline}\n{self.traceback}" if self.traceback else self.headline


def first_failure(suspects: Sequence[Suspect]) -> Failure:
    """The failure among ``suspects`` that came first, with its traceback.

    A rank that writes ``failure-<process>.json`` tells when it failed; one killed by a signal cannot,
    so there the launcher's own clock counts. Ranks that merely lost the connection to a dead one come
    after all others, whatever the clocks say.

    Raises:
        ValueError: no suspect failed of its own accord.
    """
    return min(filter(None, map(_read, suspects)), key=lambda failure: (_lost_peer(failure), failure.time))


def _lost_peer(failure: Failure) -> bool:
    return failure.recorded and bool(_LOST_PEER.search(failure.traceback[-2000:]))


def _how(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    try:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (
            ", as the system does when memory runs out" if name == "SIGKILL" else ""
        )
    except ValueError:
        return f"killed by signal {-code}"


def _read(suspect: Suspect) -> Failure | None:
    record = suspect.log.with_name(f"failure-{suspect.process}.json")
    try:
        values = json.loads(record.read_text(encoding="utf-8"))
        traceback = str(values["traceback"]).rstrip()
        return Failure(suspect, float(values["time"]), traceback, True, values.get("user_error"))
    except (OSError, ValueError, KeyError, TypeError):
        # No record, or one that was cut short: the log has to do.
        if suspect.returncode is None:
            return None
        return Failure(suspect, suspect.seen, _tail(suspect.log, suspect.log_start), recorded=False)


def _tail(log: Path, start: int) -> str:
    """The last traceback in ``log`` after byte ``start``, or its last lines where it has none."""
    try:
        lines = log.read_bytes()[start:].decode(errors="replace").rstrip().splitlines()
    except OSError:
        return ""
    tracebacks = [i for i, line in enumerate(lines) if line.startswith(_TRACEBACK)]
    return "\n".join(lines[tracebacks[-1] if tracebacks else -_TAIL_LINES :])
