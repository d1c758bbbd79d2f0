"""Which rank failed first, and what it had to say."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrate.plan.plan import Plan
from orchestrate.plan.units import GIB

_LOST_PEER = re.compile(
    r"closed by peer|reset by peer|connection refused|broken pipe|connectFullMesh failed|"
    r"remote process exited|socketPollConnect|store.*(timeout|failed)|Timed out waiting|"
    r"DistNetworkError|DistStoreError",
    re.IGNORECASE,
)
"""How an error reads on a rank that only lost the rank which failed: never the one to show first."""

_OUT_OF_MEMORY = re.compile(
    r"OutOfMemoryError|CUDA out of memory|MemoryError|can't allocate memory|Cannot allocate memory"
)
_BROKEN_DEVICE = re.compile(
    r"CUDA error|CUDNN_STATUS|CUBLAS_STATUS|uncorrectable|NVML|Xid|fallen off the bus|"
    r"unhandled system error|CorruptionError"
)

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
    final: bool = False
    """Whether the rank knows that another try would end alike."""
    memory: str = ""
    """Where memory ran out: what the plan expects of that stage."""

    @property
    def headline(self) -> str:
        """One line: which rank, where it sat, how it ended, and its log."""
        who, code = self.suspect, self.suspect.returncode
        process = "" if who.rank == who.process else f" (process {who.process})"
        how = "an exception" if self.recorded or code is None else _how(code)
        where = f"{who.host} device {who.device}"
        return f"rank {who.rank}{process} on {where} failed first: {how}; log: {who.log}"

    @property
    def cause(self) -> str:
        """In a few words: the last line of the traceback, or how the process ended."""
        if self.mistake is not None:
            return self.mistake
        if self.out_of_memory:
            return "out of memory"
        code = self.suspect.returncode
        if self.recorded or code is None:
            return self.traceback.rstrip().splitlines()[-1] if self.traceback else "an exception"
        return _how(code)

    @property
    def out_of_memory(self) -> bool:
        """Whether memory ran out, as far as the rank itself could tell."""
        return bool(_OUT_OF_MEMORY.search(self.traceback[-4000:]))

    @property
    def suspects_device(self) -> bool:
        """Whether the device may be to blame: a signal ended it, or it complained of its hardware. A program
        that is not there, or that srun does not start, ends with an exit status, on any device."""
        if self.mistake is not None or self.out_of_memory:
            return False
        code = self.suspect.returncode
        killed = not self.recorded and code is not None and code < 0
        return killed or bool(_BROKEN_DEVICE.search(self.traceback[-4000:]))

    @property
    def text(self) -> str:
        """All that is worth showing: the headline and the traceback, or the one line about a mistake."""
        if self.mistake is not None:
            return f"orchestrate: {' '.join(self.mistake.split())}"
        return "\n".join(part for part in (self.headline, self.memory, self.traceback) if part)


def first_failure(suspects: Sequence[Suspect]) -> Failure:
    """The failure among ``suspects`` that came first, with its traceback.

    A rank that writes ``failure-<process>.json`` tells when it failed; one killed by a signal cannot,
    so there the launcher's own clock counts. Ranks that merely lost the connection to a dead one come
    after all others, whatever the clocks say.

    Raises:
        ValueError: no suspect failed of its own accord.
    """
    return min(filter(None, map(_read, suspects)), key=lambda failure: (_lost_peer(failure), failure.time))


def memory_of(plan: Plan, rank: int) -> str:
    """What ``plan`` expects the memory of ``rank`` to hold; empty where it has no estimate."""
    stage = plan.dims.coordinates(rank).pp
    if stage >= len(plan.memory):
        return ""
    estimate = plan.memory[stage]
    rows = [f"  {name:<28}{size / GIB:>9.3f} GiB" for name, size in estimate.terms.items() if size]
    total = f"{estimate.total / GIB:.3f} of {estimate.capacity / GIB:.3f} GiB"
    return "\n".join([f"out of memory in stage {stage}, where the plan expects {total}:", *rows])


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
        final = bool(values.get("final"))
        return Failure(suspect, float(values["time"]), traceback, True, values.get("user_error"), final)
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
