"""What every pipeline rank does, in order: the compute actions that torch's schedules run.

The orders are those of ``torch.distributed.pipelining`` (torch 2.13), worked out here without torch;
a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from orchestrate.config import Schedule
from orchestrate.plan.layout import stages_by_rank
from orchestrate.plan.pipeline.schedule import interleaved_rounds


class Kind(str, Enum):
    """What an action computes; the letters are torch's."""

    forward = "F"
    backward = "B"
    """The whole backward pass."""
    inputs = "I"
    """The backward pass as far as the stage before waits for it: the gradient of the input."""
    weights = "W"
    """The rest of it: the gradients of the weights."""


class Action(NamedTuple):
    """One micro-batch through one virtual stage."""

    kind: Kind
    stage: int
    micro_batch: int

    def __str__(self) -> str:
        return f"{self.kind.value}{self.stage}.{self.micro_batch}"


F, B, I, W = Kind.forward, Kind.backward, Kind.inputs, Kind.weights  # noqa: E741  (torch's letters)


def action_list(schedule: Schedule, pp: int, vpp: int, micro_batches: int) -> tuple[tuple[Action, ...], ...]:
    """By pipeline rank, the actions of one step.

    1F1B takes fewer micro-batches than stages too, as Megatron-LM does and torch does not.

    Raises:
        ValueError: ``vpp`` or the number of micro-batches does not suit the schedule.
    """
    _check(schedule, pp, vpp, micro_batches)
    held = stages_by_rank(schedule, pp, pp * vpp)
    if pp == 1:
        # No pipeline: every micro-batch forwards and backwards before the next one.
        return (tuple(Action(kind, 0, i) for i in range(micro_batches) for kind in (F, B)),)
    match schedule:
        case Schedule.gpipe:
            lists = (_gpipe(rank, micro_batches) for rank in range(pp))
        case Schedule.one_f_one_b:
            lists = (_one_f_one_b(pp, rank, micro_batches) for rank in range(pp))
        case Schedule.interleaved:
            lists = (_interleaved(pp, rank, held[rank], micro_batches) for rank in range(pp))
        case Schedule.zbv:
            lists = (_zbv(pp, rank, held[rank], micro_batches) for rank in range(pp))
    return tuple(map(tuple, lists))


def _check(schedule: Schedule, pp: int, vpp: int, micro_batches: int) -> None:
    shape = f"{schedule.value} with pp={pp} vpp={vpp} and {micro_batches} micro-batches"
    if pp < 1 or vpp < 1 or micro_batches < 1:
        raise ValueError(f"{shape}: each is at least 1")
    if pp == 1 and vpp > 1:
        raise ValueError(f"{shape}: virtual stages need pp of at least 2")
    if schedule is Schedule.zbv and pp > 1 and vpp != 2:
        raise ValueError(f"{shape}: zbv needs vpp=2")
    if schedule in (Schedule.gpipe, Schedule.one_f_one_b) and vpp != 1:
        raise ValueError(f"{shape}: vpp must be 1")
    if schedule is Schedule.interleaved and micro_batches % interleaved_rounds(micro_batches, pp):
        raise ValueError(f"{shape}: not a multiple of the {interleaved_rounds(micro_batches, pp)} rounds")


def _gpipe(rank: int, micro_batches: int) -> Iterator[Action]:
    for kind in (F, B):
        for i in range(micro_batches):
            yield Action(kind, rank, i)


def _one_f_one_b(pp: int, rank: int, micro_batches: int) -> Iterator[Action]:
    """Forward passes until the first gradient is due, then one backward and one forward in turn."""
    ahead = min(pp - 1 - rank, micro_batches)
    for i in range(ahead):
        yield Action(F, rank, i)
    for i in range(micro_batches):
        if ahead + i < micro_batches:
            yield Action(F, rank, ahead + i)
        yield Action(B, rank, i)


def _interleaved(pp: int, rank: int, held: tuple[int, ...], micro_batches: int) -> Iterator[Action]:
    """The same over all local stages: a round of micro-batches through each of them in turn."""
    per_round = micro_batches // interleaved_rounds(micro_batches, pp)
    ahead = min((len(held) - 1) * per_round + 2 * (pp - 1 - rank), micro_batches * len(held))

    def through(kind: Kind, stages: tuple[int, ...]) -> list[Action]:
        return [
            Action(kind, stage, i)
            for first in range(0, micro_batches, per_round)
            for stage in stages
            for i in range(first, first + per_round)
        ]

    forward, backward = through(F, held), through(B, held[::-1])
    yield from forward[:ahead]
    for both in zip(forward[ahead:], backward, strict=False):
        yield from both
    yield from backward[len(forward) - ahead :]


def _zbv(pp: int, rank: int, held: tuple[int, ...], micro_batches: int) -> Iterator[Action]:
    """Two stages, one down the V and one up it; weight gradients fill what would be a bubble.

    The pattern is laid out for enough micro-batches to fill the pipeline; those that there are not
    are left out of it.
    """
    for action in _zbv_full(pp, rank, held, max(2 * pp - 1, micro_batches)):
        if action.micro_batch < micro_batches:
            yield action


def _zbv_full(pp: int, rank: int, held: tuple[int, ...], micro_batches: int) -> Iterator[Action]:
    down, up = held
    started, turned = 2 * (pp - rank) - 1, 0  # forward passes done on the way down and up
    for i in range(started):
        yield Action(F, down, i)
    for _ in range(rank):
        yield Action(F, up, turned)
        yield Action(F, down, started)
        turned, started = turned + 1, started + 1
    for i in range(pp - rank):
        yield Action(F, up, turned)
        turned += 1
        yield Action(I, up, i)
        yield Action(W, up, i)
    back_down, back_up = 0, pp - rank  # backward passes done, down's and up's stage
    while turned < started or started < micro_batches:
        if started < micro_batches:
            yield Action(F, down, started)
            started += 1
        yield Action(I, down, back_down)
        yield Action(W, down, back_down)
        yield Action(F, up, turned)
        yield Action(I, up, back_up)
        yield Action(W, up, back_up)
        back_down, turned, back_up = back_down + 1, turned + 1, back_up + 1
    weights_down, weights_up = back_down, back_up
    for _ in range(rank):
        yield Action(I, down, back_down)
        yield Action(I, up, back_up)
        back_down, back_up = back_down + 1, back_up + 1
    for _ in range(pp - rank):
        yield Action(I, down, back_down)
        yield Action(W, down, weights_down)
        back_down, weights_down = back_down + 1, weights_down + 1
    for i in range(weights_up, back_up):
        yield Action(W, up, i)
    for i in range(weights_down, back_down):
        yield Action(W, down, i)
