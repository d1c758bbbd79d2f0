"""A schedule's actions in one order for all ranks, told as what runs once and what repeats.

Once a pipeline is full, every round of micro-batches runs the same actions with the same dependencies.
So a step of many rounds is a short list and a number of repetitions, which `orchestrate.plan.pipeline.pace`
runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from orchestrate.config import Schedule
from orchestrate.plan.layout import pipeline_rank
from orchestrate.plan.pipeline.actions import Action, Kind, action_list
from orchestrate.plan.pipeline.schedule import interleaved_rounds

F, W = Kind.forward, Kind.weights

Node = tuple[int, int, int, int]
"""An action in the order: how far back its rank's last action stands and the one that sends its input
(negative; the same where nothing is sent), its work (index into `Program.work`), and that work after
the one before it on its rank (index into `Program.turns`)."""


@dataclass(frozen=True)
class Work:
    """What tells an action's cost."""

    kind: Kind
    stage: int
    link: int | None
    """The boundary of stages i and i + 1 over which its input comes; none where no other rank sends it."""
    onward: int | None
    """The boundary over which its output goes."""


@dataclass(frozen=True)
class Repeat:
    """A round of actions that comes again and again in a longer step."""

    nodes: tuple[Node, ...]
    at: int
    """The place in the order before which it comes."""
    settled: int
    """From this place on the order up to there repeats itself."""
    within: int
    """How many places its actions look back at most."""
    after: int
    """How many places before ``at`` anything later looks back."""


@dataclass(frozen=True)
class Program:
    """The actions of one step, each after what it waits for."""

    nodes: tuple[Node, ...]
    work: tuple[Work, ...]
    turns: tuple[tuple[int | None, int], ...]
    repeats: tuple[Repeat, ...]


def program(schedule: Schedule, pp: int, vpp: int, micro_batches: int) -> tuple[Program, int]:
    """The program of a step, and how often each of its repeats comes besides.

    Raises:
        ValueError: as `action_list`.
    """
    unit = 1
    if schedule is Schedule.interleaved:
        unit = micro_batches // interleaved_rounds(micro_batches, pp)
    if pp > 1 and micro_batches % unit == 0:
        for rounds in range(_filling(schedule, pp), micro_batches // unit):
            shorter = _program(schedule, pp, vpp, rounds * unit, unit)
            if shorter.repeats:
                return shorter, micro_batches // unit - rounds
    return _program(schedule, pp, vpp, micro_batches, unit), 0


def _filling(schedule: Schedule, pp: int) -> int:
    """The fewest rounds that fill and drain the pipeline and may repeat themselves between."""
    match schedule:
        case Schedule.gpipe:
            return pp + 4
        case Schedule.one_f_one_b:
            return 2 * pp + 4
        case Schedule.interleaved:
            return 3
        case Schedule.zbv:
            return 2 * pp + 4


@lru_cache(maxsize=128)
def _program(schedule: Schedule, pp: int, vpp: int, micro_batches: int, unit: int) -> Program:
    lists = action_list(schedule, pp, vpp, micro_batches)
    ranks = [pipeline_rank(schedule, pp, stage) for stage in range(pp * vpp)]
    split = schedule is Schedule.zbv and pp > 1
    kinds = (Kind.forward, Kind.inputs, Kind.weights) if split else (Kind.forward, Kind.backward)
    work = tuple(_work(kind, stage, ranks) for kind in kinds for stage in range(len(ranks)))
    nodes, turns = _ordered([_steps(actions, work, micro_batches) for actions in lists], work, micro_batches)
    # GPipe has two kinds of rounds, all forward and all backward; the others have both in each.
    phases = 2 if schedule is Schedule.gpipe else 1
    per_round = len(nodes) // micro_batches * unit // phases
    return Program(tuple(nodes), work, turns, _repeats(nodes, per_round, phases))


def _work(kind: Kind, stage: int, ranks: Sequence[int]) -> Work:
    def boundary(other: int) -> int | None:
        apart = 0 <= other < len(ranks) and ranks[other] != ranks[stage]
        return min(stage, other) if apart else None

    match kind:
        case Kind.forward:
            return Work(kind, stage, link=boundary(stage - 1), onward=boundary(stage + 1))
        case Kind.weights:
            return Work(kind, stage, link=None, onward=None)
        case _:
            return Work(kind, stage, link=boundary(stage + 1), onward=boundary(stage - 1))


Step = tuple[int, int, int]
"""An action told by numbers: its work, the output that another rank sends it, and its own output; -1
where there is none."""


def _steps(actions: Sequence[Action], work: Sequence[Work], micro_batches: int) -> list[Step]:
    # Outputs are numbered by stage and micro-batch, first the forward passes', then the gradients'.
    stages = max(w.stage for w in work) + 1
    needs = [
        -1
        if w.link is None
        else (w.stage - 1 if w.kind is Kind.forward else w.stage + 1 + stages) * micro_batches
        for w in work
    ]
    makes = [
        -1 if w.onward is None else (w.stage + (0 if w.kind is Kind.forward else stages)) * micro_batches
        for w in work
    ]
    steps = []
    for kind, stage, i in actions:
        code = stage if kind is F else stage + stages if kind is not W else stage + 2 * stages
        needed, made = needs[code], makes[code]
        steps.append((code, needed + i if needed >= 0 else -1, made + i if made >= 0 else -1))
    return steps


def _ordered(
    lists: Sequence[Sequence[Step]], work: Sequence[Work], micro_batches: int
) -> tuple[list[Node], tuple[tuple[int | None, int], ...]]:
    """All ranks' actions as they would start if each took the same time: then every round stands in the
    same order. And the turns, each an action's work after that before it on its rank."""
    placed = [-1] * (len(work) * micro_batches)
    nodes: list[Node] = []
    known: dict[Node, Node] = {}  # rounds share their nodes: they need no memory, and are quick to compare
    turns: dict[tuple[int | None, int], int] = {}
    latest: list[tuple[int, int | None]] = [(-1, None)] * len(lists)
    done = [0] * len(lists)
    total = sum(map(len, lists))
    while len(nodes) < total:
        place = now = len(nodes)
        for rank, steps in enumerate(lists):
            if done[rank] == len(steps):
                continue
            code, needed, made = steps[done[rank]]
            before, previous = latest[rank]
            source = before if needed < 0 else placed[needed]
            if needed >= 0 and not 0 <= source < now:
                continue  # it is not sent yet, or only now
            node = before - place, source - place, code, turns.setdefault((previous, code), len(turns))
            nodes.append(known.setdefault(node, node))
            if made >= 0:
                placed[made] = place
            latest[rank] = place, code
            done[rank] += 1
            place += 1
        assert place > now, "none of torch's schedules waits for itself"
    return nodes, tuple(turns)


def _repeats(nodes: Sequence[Node], length: int, phases: int) -> tuple[Repeat, ...]:
    """The ``phases`` longest stretches in which the order repeats itself after ``length`` nodes, if
    what follows each looks back no further than to its start."""
    stretches: list[tuple[int, int]] = []
    start = 0
    for i in range(len(nodes) - length + 1):
        if i == len(nodes) - length or nodes[i] is not nodes[i + length]:
            stretches.append((start, i))
            start = i + 1
    longest = sorted(sorted(stretches, key=lambda stretch: stretch[0] - stretch[1])[:phases])
    if len(longest) < phases:
        return ()
    repeats = []
    for settled, end in longest:
        at = end + length
        look = [min(rank, source) for rank, source, _, _ in nodes[at - length :]]
        within = -min(look[:length])
        after = -min(i + back for i, back in enumerate([*look[length:], 0]))
        if settled + max(within + length, after) > at:
            return ()  # too short to tell whether it goes on
        repeats.append(Repeat(tuple(nodes[at - length : at]), at, settled, within, after))
    return tuple(repeats)


def forget_programs() -> None:
    """Programs are kept from call to call; this lets them go."""
    _program.cache_clear()
