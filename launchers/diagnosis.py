"""From what the ranks of a hung run were doing: which of them never came, and who waits for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launchers.hang import State, read_states

_ASIDE = "control"
"""The group over which ranks agree to stop: its messages are always under way, so it explains little."""
_FRAMES = 6


@dataclass(frozen=True)
class Group:
    name: str
    """As torch has it, such as ``mesh_dp``."""
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """A collective that a rank has begun."""

    number: int
    """Counted from 1 in its group, the same for the same collective on all members."""
    name: str
    pending: bool
    """Whether the rank still waits in it."""


@dataclass(frozen=True)
class Diagnosis:
    """What is known about a hang."""

    states: tuple[State, ...]
    """By rank."""
    calls: Mapping[int, Mapping[Group, Call]]
    """By rank that answered: the last collective that it began in each of its groups."""
    stacks: Mapping[int, tuple[str, ...]]
    """By rank that answered: the main thread's frames, innermost first."""
    missing: tuple[int, ...]
    """The ranks that never came."""
    group: Group | None
    """The group whose other members wait for them; None where no collective tells."""

    @property
    def waiting(self) -> tuple[int, ...]:
        """The ranks of the stuck group that wait."""
        return () if self.group is None else tuple(r for r in self.group.ranks if r not in self.missing)

    @property
    def headline(self) -> str:
        """One line: who never came, and where the others wait."""
        if not self.missing:
            return "no rank stands out: every rank has begun the same collectives"
        by_rank = {state.rank: state for state in self.states}
        who = ", ".join(f"rank {r} on {by_rank[r].host} device {by_rank[r].device}" for r in self.missing)
        held = ["it is stopped"] if any(by_rank[r].stopped for r in self.missing) else []
        if not held and not any(by_rank[r].answered for r in self.missing):
            held = ["it does not answer"]
        if self.group is None:
            return "; ".join([f"{who} never came", *held])
        calls = [self.calls[r][self.group] for r in self.waiting if self.group in self.calls.get(r, {})]
        last = max(calls, key=lambda call: call.number, default=None)
        waiting = f"{'ranks' if len(self.waiting) > 1 else 'rank'} {', '.join(map(str, self.waiting))}"
        where = f"{waiting} of group {self.group.name} {'wait' if len(self.waiting) > 1 else 'waits'}"
        what = "" if last is None else f" in {last.name} number {last.number}"
        return "; ".join([f"{who} never came", *held, f"{where}{what}"])


def diagnose(folder: Path) -> Diagnosis:
    """Read what `launchers.hang.collect` left in ``folder``.

    Raises:
        OSError, ValueError: there is nothing there, or it is damaged.
    """
    states = tuple(sorted(read_states(folder), key=lambda state: state.rank))
    calls = {s.rank: found for s in states if (found := _calls(folder / f"flight-{s.process}.json"))}
    stacks = {s.rank: frames for s in states if (frames := _frames(folder / f"stacks-{s.process}.txt"))}
    missing = _missing(states, calls, stacks)
    return Diagnosis(states, calls, stacks, missing, _stuck(calls, missing))


def _missing(
    states: tuple[State, ...],
    calls: Mapping[int, Mapping[Group, Call]],
    stacks: Mapping[int, tuple[str, ...]],
) -> tuple[int, ...]:
    for silent in (
        [state.rank for state in states if state.stopped],
        [state.rank for state in states if not state.answered],
    ):
        if silent:
            return tuple(silent)
    behind = {rank for group, ranks in _behind(calls).items() if group.name != _ASIDE for rank in ranks}
    # Who is behind only because somebody else is, waits for them somewhere.
    roots = [rank for rank in sorted(behind) if not _waits(rank, calls, stacks)]
    idle = [state.rank for state in states if not _waits(state.rank, calls, stacks)]
    if roots or (idle and len(idle) < len(states)):
        return tuple(roots or idle)
    earliest = min((state.step for state in states), default=0)
    late = tuple(state.rank for state in states if state.step == earliest)
    return late if len(late) < len(states) else ()


def _waits(
    rank: int, calls: Mapping[int, Mapping[Group, Call]], stacks: Mapping[int, tuple[str, ...]]
) -> bool:
    """Whether ``rank`` sits in a collective, or in a message to or from another stage."""
    if any(call.pending for group, call in calls.get(rank, {}).items() if group.name != _ASIDE):
        return True
    # Messages between stages are not in gloo's flight recorder; the stack has them.
    innermost = stacks.get(rank, ("",))[0]
    return "torch/distributed/" in innermost


def _behind(calls: Mapping[int, Mapping[Group, Call]]) -> dict[Group, list[int]]:
    """Of each group whose members have not all begun as many collectives: those with fewer."""
    found: dict[Group, list[int]] = {}
    for group in dict.fromkeys(group for known in calls.values() for group in known):
        numbers = {r: calls[r][group].number if group in calls[r] else 0 for r in group.ranks if r in calls}
        if len(set(numbers.values())) > 1:
            most = max(numbers.values())
            found[group] = [rank for rank, number in numbers.items() if number < most]
    return found


def _stuck(calls: Mapping[int, Mapping[Group, Call]], missing: tuple[int, ...]) -> Group | None:
    """The group in which somebody waits for one of the ``missing``."""
    waits: list[tuple[bool, int, Group]] = []
    for rank, known in calls.items():
        for group, call in known.items():
            absent = set(missing) & set(group.ranks)
            if rank in missing or not absent or not call.pending:
                continue
            came = any(group in calls.get(r, {}) and calls[r][group].number >= call.number for r in absent)
            if not came:
                waits.append((group.name != _ASIDE, -len(group.ranks), group))
    return max(waits, key=lambda wait: wait[:2])[2] if waits else None


def _calls(file: Path) -> dict[Group, Call]:
    """The last collective of each group in one rank's file; empty where there is none or it is damaged."""
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        groups = {
            name: Group(str(known["what"]), tuple(known["ranks"])) for name, known in values["groups"].items()
        }
        found: dict[Group, Call] = {}
        for entry in values["trace"].get("entries", ()):
            name, _description = entry["process_group"]
            if entry["is_p2p"] or name not in groups:
                continue
            number = int(entry["collective_seq_id"])
            call = Call(number, str(entry["profiling_name"]).partition(":")[2], not entry["retired"])
            earlier = found.get(groups[name])
            # Of several under way, the first is the one that does not end.
            if earlier is None or (not earlier.pending and number > earlier.number):
                found[groups[name]] = call
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _frames(file: Path) -> tuple[str, ...]:
    """The main thread's frames in what faulthandler wrote last, innermost first."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    frames: tuple[str, ...] = ()
    for block in text.split("\n\n"):
        lines = [line.strip() for line in block.splitlines() if line.startswith("  File ")]
        if lines and any("<module>" in line or "<frozen runpy>" in line for line in lines[-3:]):
            frames = tuple(lines)
    return frames


def shown_frames(frames: tuple[str, ...]) -> tuple[str, ...]:
    """The innermost of ``frames``, as many as are worth showing."""
    return frames[:_FRAMES]
