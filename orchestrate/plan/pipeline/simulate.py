"""The pipeline of one step, action by action, over stages that need not be equal.

An action starts when its rank has done the one before and its input is there: for a forward pass the
output of the stage before, for a backward pass the gradient of the stage after. What crosses between
two ranks arrives a send later; stages on one rank hand over at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrate.config import Schedule
from orchestrate.plan.layout import pipeline_rank
from orchestrate.plan.pipeline.actions import Action, Kind, action_list
from orchestrate.plan.pipeline.pace import last_end
from orchestrate.plan.pipeline.rounds import program


@dataclass(frozen=True)
class StageTimes:
    """Seconds of one micro-batch by virtual stage."""

    forward: tuple[float, ...]
    backward: tuple[float, ...]
    """The whole backward pass, the gradients of the weights included."""
    weight: tuple[float, ...]
    """The part of ``backward`` that no other stage waits for: what ZBV puts off."""
    send: tuple[float, ...]
    """From stage i to stage i + 1, and back: one fewer than stages. Not taken where both sit on one rank."""

    def __post_init__(self) -> None:
        stages = len(self.forward)
        assert len(self.backward) == len(self.weight) == stages == len(self.send) + 1

    def of(self, kind: Kind, stage: int) -> float:
        """Seconds of one action."""
        match kind:
            case Kind.forward:
                return self.forward[stage]
            case Kind.backward:
                return self.backward[stage]
            case Kind.inputs:
                return self.backward[stage] - self.weight[stage]
            case Kind.weights:
                return self.weight[stage]


@dataclass(frozen=True)
class Event:
    """An action as it ran: seconds from the start of the step."""

    kind: Kind
    stage: int
    micro_batch: int
    start: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """What every pipeline rank did when."""

    actions: tuple[tuple[Event, ...], ...]

    @property
    def seconds(self) -> float:
        """The end of the last action."""
        return max(events[-1].end for events in self.actions)


def simulate(
    schedule: Schedule,
    pp: int,
    vpp: int,
    micro_batches: int,
    times: StageTimes,
    *,
    blocking: bool = False,
) -> Timeline:
    """Every action of one step on its pipeline rank.

    With ``blocking``, a send keeps both sides busy: the sender from the end of its action, the receiver
    from when it has nothing else to do and the sender is done. What a rank sends and receives between
    two actions of its own crosses at the same time, as the links carry both directions at once.

    Raises:
        ValueError: ``vpp`` or the number of micro-batches does not suit the schedule.
    """
    lists = action_list(schedule, pp, vpp, micro_batches)
    assert len(times.forward) == pp * vpp, "times are by virtual stage"
    rank_of = [pipeline_rank(schedule, pp, stage) for stage in range(pp * vpp)]
    ended: dict[tuple[bool, int, int], float] = {}  # by direction, stage and micro-batch
    events: list[list[Event]] = [[] for _ in lists]
    sends = [0.0] * pp  # what keeps each rank after its latest action
    ready = list(range(pp))
    waiting: dict[tuple[bool, int, int], int] = {}  # the rank that waits for this output
    while ready:
        rank = ready.pop()
        mine, done = lists[rank], events[rank]
        while len(done) < len(mine):
            action = mine[len(done)]
            start = done[-1].end if done else 0.0
            needed = input_of(action, pp * vpp)
            if needed is not None:
                if needed not in ended:
                    waiting[needed] = rank
                    break
                source = needed[1]
                apart = rank_of[source] != rank
                send = times.send[min(source, action.stage)] if apart else 0.0
                busy = max(sends[rank], send) if blocking else 0.0
                start = max(start + busy, ended[needed] + send)
            elif blocking:
                start += sends[rank]
            event = Event(*action, start, start + times.of(action.kind, action.stage))
            done.append(event)
            sends[rank] = _sent(action, rank_of, times)
            if action.kind is not Kind.weights:
                output = action.kind is Kind.forward, action.stage, action.micro_batch
                ended[output] = event.end
                if output in waiting:
                    ready.append(waiting.pop(output))
    assert not waiting, "a schedule of torch's never waits for itself"
    return Timeline(tuple(map(tuple, events)))


def input_of(action: Action, stages: int) -> tuple[bool, int, int] | None:
    """Whose output (forward or not, stage, micro-batch) the action waits for."""
    if action.kind is Kind.forward:
        return (True, action.stage - 1, action.micro_batch) if action.stage > 0 else None
    if action.kind is Kind.weights:
        return None  # its input gradient came before it on the same rank
    if action.stage == stages - 1:
        return True, action.stage, action.micro_batch
    return False, action.stage + 1, action.micro_batch


def _sent(action: Action, rank_of: list[int], times: StageTimes) -> float:
    """Seconds of sending on what the action made."""
    if action.kind is Kind.weights:
        return 0.0
    target = action.stage + (1 if action.kind is Kind.forward else -1)
    if not 0 <= target < len(rank_of) or rank_of[target] == rank_of[action.stage]:
        return 0.0
    return times.send[min(target, action.stage)]


def makespan(
    schedule: Schedule,
    pp: int,
    vpp: int,
    micro_batches: int,
    times: StageTimes,
    *,
    blocking: bool = False,
) -> float:
    """The seconds of `simulate`, without the timeline: what repeats is not run again and again.

    Raises:
        ValueError: as `simulate`.
    """
    plan, repeats = program(schedule, pp, vpp, micro_batches)
    assert len(times.forward) == pp * vpp, "times are by virtual stage"
    costs = [(0.0, _link(times, work.link), times.of(work.kind, work.stage)) for work in plan.work]
    if blocking:
        sent = [_link(times, work.onward) for work in plan.work]
        costs = [
            (max(0.0 if before is None else sent[before], costs[now][1]), *costs[now][1:])
            for before, now in plan.turns
        ]
    return last_end(plan, repeats, costs, blocking)


def _link(times: StageTimes, boundary: int | None) -> float:
    return 0.0 if boundary is None else times.send[boundary]
