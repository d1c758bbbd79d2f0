"""The simulated pipeline: against the textbook, against its own rules, and against its short cut."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrate.config import Schedule
from orchestrate.plan.layout import pipeline_rank
from orchestrate.plan.pipeline.actions import Kind, action_list
from orchestrate.plan.pipeline.bound import lower_bound
from orchestrate.plan.pipeline.rounds import program
from orchestrate.plan.pipeline.schedule import in_flight, interleaved_rounds
from orchestrate.plan.pipeline.sharing import shared_makespan
from orchestrate.plan.pipeline.simulate import StageTimes, Timeline, makespan, simulate

Shape = tuple[Schedule, int, int, int]


def equal(stages: int, forward: float, backward: float, weight: float = 0.0, send: float = 0.0) -> StageTimes:
    return StageTimes((forward,) * stages, (backward,) * stages, (weight,) * stages, (send,) * (stages - 1))


@st.composite
def shapes(draw: st.DrawFn, most: int = 40) -> Shape:
    """A schedule, pp, vpp and micro-batches that suit each other."""
    schedule = draw(st.sampled_from(list(Schedule)))
    pp = draw(st.integers(2, 7))
    vpp = {Schedule.interleaved: draw(st.integers(2, 4)), Schedule.zbv: 2}.get(schedule, 1)
    micro_batches = draw(st.integers(1, most))
    if schedule is Schedule.interleaved:
        micro_batches -= micro_batches % interleaved_rounds(micro_batches, pp)
    return schedule, pp, vpp, micro_batches


@st.composite
def stage_times(draw: st.DrawFn, stages: int) -> StageTimes:
    """Unequal, nearly equal, or of few values, so that ends tie, drift apart and never settle."""
    one = draw(
        st.sampled_from(
            [st.floats(0.01, 1), st.floats(1, 1.02), st.sampled_from([0.0, 1.0, 1.01]), st.just(1 / 3)]
        )
    )
    scale = draw(st.sampled_from([0.0, 0.05, 1.0, 5.0]))

    def some(number: int) -> tuple[float, ...]:
        return tuple(draw(st.lists(one, min_size=number, max_size=number)))

    weight = some(stages)
    return StageTimes(
        forward=some(stages),
        backward=tuple(a + b for a, b in zip(weight, some(stages), strict=True)),
        weight=weight,
        send=tuple(scale * send for send in some(stages - 1)),
    )


@st.composite
def cases(draw: st.DrawFn, most: int = 40) -> tuple[Shape, StageTimes]:
    shape = draw(shapes(most))
    return shape, draw(stage_times(shape[1] * shape[2]))


@pytest.mark.parametrize("schedule", [Schedule.gpipe, Schedule.one_f_one_b])
@given(pp=st.integers(1, 12), extra=st.integers(0, 30))
def test_equal_stages_take_as_long_as_the_textbook_says(schedule: Schedule, pp: int, extra: int) -> None:
    # Narayanan et al. 2021, arXiv:2104.04473, section 2.2: the bubble is (p - 1) (f + b).
    m = pp + extra
    assert makespan(schedule, pp, 1, m, equal(pp, 1.0, 2.0)) == pytest.approx((m + pp - 1) * 3)


@given(pp=st.integers(2, 8), vpp=st.integers(2, 4), rounds=st.integers(1, 8))
def test_interleaving_divides_the_bubble(pp: int, vpp: int, rounds: int) -> None:
    m = rounds * pp
    times = equal(pp * vpp, 1.0 / vpp, 2.0 / vpp)
    took = makespan(Schedule.interleaved, pp, vpp, m, times)
    assert took == pytest.approx(m * 3 + (pp - 1) * 3 / vpp)


@given(pp=st.integers(2, 8), extra=st.integers(0, 20))
def test_zbv_never_waits_once_it_has_begun(pp: int, extra: int) -> None:
    # arXiv:2401.10241, section 6: forward, input and weight gradients of equal time.
    m = 2 * pp - 1 + extra
    timeline = simulate(Schedule.zbv, pp, 2, m, equal(2 * pp, 1.0, 2.0, 1.0))
    for rank, events in enumerate(timeline.actions):
        assert events[0].start == rank
        assert all(before.end == after.start for before, after in pairwise(events))
    assert timeline.seconds == 6 * m + pp - 1


def test_sends_that_block_are_paid_by_every_micro_batch() -> None:
    # Two stages, 1F1B: the last rank's day is receive, F, B, exchange, F, B, exchange, F, B; then the
    # first rank's last B waits for one more send.
    times = equal(2, 1.0, 2.0, send=0.25)
    assert makespan(Schedule.one_f_one_b, 2, 1, 3, times, blocking=True) == pytest.approx(
        1 + 3 * (0.25 + 3) + 0.25 + 2
    )
    # One that does not block only delays the first and the last: the rank's other work hides the rest.
    times = equal(2, 1.0, 2.0, send=0.25)
    assert makespan(Schedule.gpipe, 2, 1, 3, times) == pytest.approx((3 + 1) * 3 + 2 * 0.25)


def test_what_stays_on_a_rank_is_not_sent() -> None:
    times = StageTimes((1.0,) * 4, (2.0,) * 4, (1.0,) * 4, (0.0, 100.0, 0.0))
    assert makespan(Schedule.zbv, 2, 2, 3, times) == 6 * 3 + 1


def test_the_slowest_stage_sets_the_pace() -> None:
    times = StageTimes((1.0, 1.0, 4.0), (2.0, 2.0, 8.0), (0.0,) * 3, (0.0,) * 2)
    assert makespan(Schedule.one_f_one_b, 3, 1, 10, times) == pytest.approx(10 * 12 + 2 * 3)


def starts_as_early_as_it_may(timeline: Timeline, shape: Shape, times: StageTimes, blocking: bool) -> None:
    """Every action starts at the latest of what it waits for, worked out from the finished timeline."""
    schedule, pp, vpp, _ = shape
    rank_of = [pipeline_rank(schedule, pp, stage) for stage in range(pp * vpp)]
    ends = {(e.kind, e.stage, e.micro_batch): e.end for events in timeline.actions for e in events}

    def sent_before(rank: int, place: int) -> float:
        if place == 0:
            return 0.0
        before = timeline.actions[rank][place - 1]
        target = before.stage + {Kind.forward: 1, Kind.weights: 0}.get(before.kind, -1)
        if not 0 <= target < pp * vpp or rank_of[target] == rank:
            return 0.0
        return times.send[min(target, before.stage)]

    for rank, events in enumerate(timeline.actions):
        for place, event in enumerate(events):
            assert event.end == pytest.approx(event.start + times.of(event.kind, event.stage))
            free = events[place - 1].end if place else 0.0
            gap = sent_before(rank, place) if blocking else 0.0
            there = 0.0
            if event.kind is not Kind.weights:
                other = event.stage + (-1 if event.kind is Kind.forward else 1)
                if 0 <= other < pp * vpp:
                    kinds = [Kind.forward] if event.kind is Kind.forward else [Kind.backward, Kind.inputs]
                    (made,) = (
                        ends[kind, other, event.micro_batch]
                        for kind in kinds
                        if (kind, other, event.micro_batch) in ends
                    )
                    send = 0.0 if rank_of[other] == rank else times.send[min(other, event.stage)]
                    there = made + send
                    gap = max(gap, send) if blocking else 0.0
                elif event.kind is not Kind.forward:
                    there = ends[Kind.forward, event.stage, event.micro_batch]
            assert event.start == pytest.approx(max(free + gap, there))


@given(case=cases(), blocking=st.booleans())
def test_every_action_runs_once_in_order_when_its_input_is_there(
    case: tuple[Shape, StageTimes], blocking: bool
) -> None:
    shape, times = case
    timeline = simulate(*shape, times, blocking=blocking)
    ran = tuple(tuple((e.kind, e.stage, e.micro_batch) for e in events) for events in timeline.actions)
    assert ran == action_list(*shape)
    for events in timeline.actions:
        assert all(before.end <= after.start for before, after in pairwise(events))
    starts_as_early_as_it_may(timeline, shape, times, blocking)


@settings(max_examples=150)
@given(case=cases(most=90), blocking=st.booleans())
def test_the_short_cut_takes_exactly_as_long(case: tuple[Shape, StageTimes], blocking: bool) -> None:
    shape, times = case
    whole = simulate(*shape, times, blocking=blocking).seconds
    assert makespan(*shape, times, blocking=blocking) == pytest.approx(whole, rel=1e-11)


@given(case=cases())
def test_ranks_that_share_nothing_wait_as_ever(case: tuple[Shape, StageTimes]) -> None:
    shape, times = case
    handled = [0.0] * len(times.send)
    assert shared_makespan(*shape, times, handled, 1.0) == pytest.approx(makespan(*shape, times))


@given(case=cases(), crowding=st.floats(1, 8), share=st.floats(0, 1))
def test_shared_cores_do_all_the_work_and_no_rank_is_quicker_than_alone(
    case: tuple[Shape, StageTimes], crowding: float, share: float
) -> None:
    shape, times = case
    schedule, pp, _, m = shape
    took = shared_makespan(*shape, times, [share * send for send in times.send], crowding)
    work = m * (sum(times.forward) + sum(times.backward)) / pp
    alone = StageTimes(
        *(tuple(t / crowding for t in part) for part in (times.forward, times.backward, times.weight)),
        tuple(send * (1 - share) for send in times.send),
    )
    assert took >= max(work, makespan(*shape, alone)) * (1 - 1e-9)
    if crowding >= pp:  # one rank at work has all the cores
        crossed = 2 * sum(
            send
            for stage, send in enumerate(times.send)
            if pipeline_rank(schedule, pp, stage) != pipeline_rank(schedule, pp, stage + 1)
        )
        wires, handling = (1 - share) * m * crossed, share * 2 * m * crossed / pp
        assert took <= (work + handling + wires) * (1 + 1e-9)


@pytest.mark.parametrize("schedule", Schedule)
@pytest.mark.parametrize("send", [0.0, 0.3])
def test_the_short_cut_sees_slow_drifts(schedule: Schedule, send: float) -> None:
    # The first stage is hardly slower: the others run dry only after many rounds.
    pp, vpp = 4, 2 if schedule in (Schedule.interleaved, Schedule.zbv) else 1
    even = equal(pp * vpp, 1.0, 2.0, 1.0, send)
    times = replace(even, forward=(1.003, *even.forward[1:]))
    whole = simulate(schedule, pp, vpp, 400, times).seconds
    assert makespan(schedule, pp, vpp, 400, times) == pytest.approx(whole, rel=1e-11)


@given(shape=shapes(most=70))
def test_a_longer_step_is_a_shorter_one_with_rounds_put_in(shape: Shape) -> None:
    short, times = program(*shape)
    ran = []
    done = 0
    for repeat in short.repeats if times else ():
        ran += [*short.nodes[done : repeat.at], *repeat.nodes * times]
        done = repeat.at
    ran += short.nodes[done:]
    assert sorted(work_of(short, ran)) == sorted(
        (kind.value, stage) for actions in action_list(*shape) for kind, stage, _ in actions
    )
    by_rank: dict[int, list[tuple[str, int]]] = {}
    for kind, stage in work_of(short, ran):
        by_rank.setdefault(pipeline_rank(shape[0], shape[1], stage), []).append((kind, stage))
    for rank, actions in enumerate(action_list(*shape)):
        assert by_rank[rank] == [(kind.value, stage) for kind, stage, _ in actions]


def work_of(short: Any, nodes: list[Any]) -> list[tuple[str, int]]:
    return [(short.work[code].kind.value, short.work[code].stage) for _, _, code, _ in nodes]


@given(case=cases(), more=st.floats(0, 2), at=st.integers(0, 1000), blocking=st.booleans())
def test_more_work_never_ends_sooner(
    case: tuple[Shape, StageTimes], more: float, at: int, blocking: bool
) -> None:
    shape, times = case
    least = makespan(*shape, times, blocking=blocking)
    for name in ("forward", "backward", "send"):
        values = list(getattr(times, name))
        values[at % len(values)] += more
        slower = replace(times, **{name: tuple(values)})
        assert makespan(*shape, slower, blocking=blocking) >= least * (1 - 1e-12)


@given(case=cases())
def test_blocking_costs_what_there_is_to_send(case: tuple[Shape, StageTimes]) -> None:
    shape, times = case
    assert makespan(*shape, times, blocking=True) >= makespan(*shape, times) * (1 - 1e-12)
    free = replace(times, send=(0.0,) * len(times.send))
    assert makespan(*shape, free, blocking=True) == pytest.approx(makespan(*shape, free))


@settings(max_examples=150)
@given(case=cases(most=60), blocking=st.booleans())
def test_the_bound_is_never_above(case: tuple[Shape, StageTimes], blocking: bool) -> None:
    shape, times = case
    least = lower_bound(*shape, times, blocking=blocking)
    assert least <= makespan(*shape, times, blocking=blocking) * (1 + 1e-12)


@given(case=cases())
def test_the_bound_of_gpipe_is_exact(case: tuple[Shape, StageTimes]) -> None:
    (_, pp, vpp, m), times = case
    if vpp == 1:
        took = makespan(Schedule.gpipe, pp, 1, m, times)
        assert lower_bound(Schedule.gpipe, pp, 1, m, times) == pytest.approx(took)


@pytest.mark.parametrize(
    ("schedule", "vpp"), [(Schedule.one_f_one_b, 1), (Schedule.interleaved, 2), (Schedule.zbv, 2)]
)
def test_the_bound_of_equal_stages_is_exact(schedule: Schedule, vpp: int) -> None:
    times = equal(4 * vpp, 1.0, 2.0, 1.0)
    assert lower_bound(schedule, 4, vpp, 16, times) == pytest.approx(makespan(schedule, 4, vpp, 16, times))


def test_one_rank_does_one_thing_after_another() -> None:
    times = StageTimes((1.0,), (2.0,), (1.0,), ())
    assert makespan(Schedule.one_f_one_b, 1, 1, 5, times) == 15
    assert lower_bound(Schedule.one_f_one_b, 1, 1, 5, times) == 15


@given(shape=shapes())
def test_in_flight_is_what_the_action_list_holds(shape: Shape) -> None:
    schedule, pp, vpp, m = shape
    for rank, actions in enumerate(action_list(*shape)):
        alive = dict.fromkeys(sorted({action.stage for action in actions}), 0)
        peak = tuple(alive.values())
        for kind, stage, _ in actions:
            alive[stage] += {Kind.forward: 1, Kind.inputs: 0}.get(kind, -1)
            peak = max(peak, tuple(alive.values()), key=sum)
        assert in_flight(schedule, pp, vpp, rank, m) == peak
