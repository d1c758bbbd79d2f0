"""The action lists are those that torch's schedules run."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.distributed.pipelining import schedules as torch_schedules

from orchestrate.config import Schedule
from orchestrate.plan.layout import stages_by_rank
from orchestrate.plan.pipeline.actions import Action, Kind, action_list

TORCH: dict[Schedule, Any] = {
    Schedule.gpipe: torch_schedules.ScheduleGPipe,
    Schedule.one_f_one_b: torch_schedules.Schedule1F1B,
    Schedule.interleaved: torch_schedules.ScheduleInterleaved1F1B,
    Schedule.zbv: torch_schedules.ScheduleZBVZeroBubble,
}


class Recorder:
    """Stands where torch's schedule expects a stage, and writes down what it is told to do."""

    def __init__(self, index: int, pp: int, stages: int, rank: int, ran: list[Action]) -> None:
        self.stage_index, self.num_stages, self.group_size, self.group_rank = index, stages, pp, rank
        self.is_first, self.is_last = index == 0, index == stages - 1
        self.submod = nn.Identity()
        self._ran = ran

    def _record(self, kind: Kind, micro_batch: int) -> None:
        self._ran.append(Action(kind, self.stage_index, micro_batch))

    def forward_one_chunk(self, micro_batch: int, *_: Any, **__: Any) -> None:
        self._record(Kind.forward, micro_batch)

    def backward_one_chunk(self, micro_batch: int, *, full_backward: bool = True, **_: Any) -> None:
        self._record(Kind.backward if full_backward else Kind.inputs, micro_batch)

    def backward_weight_one_chunk(self, micro_batch: int, **_: Any) -> None:
        self._record(Kind.weights, micro_batch)

    def get_fwd_recv_ops(self, _micro_batch: int) -> list[Any]:
        return []

    get_fwd_send_ops = get_bwd_recv_ops = get_bwd_send_ops = get_fwd_recv_ops

    def nothing(self, *_: Any) -> None: ...

    set_local_fwd_input = set_local_bwd_input = get_local_bwd_output = perform_reduce_grad = nothing


def torchs_list(schedule: Schedule, pp: int, vpp: int, micro_batches: int, rank: int) -> tuple[Action, ...]:
    """What torch's own loop does on ``rank``."""
    ran: list[Action] = []
    held = stages_by_rank(schedule, pp, pp * vpp)[rank]
    stages = [Recorder(index, pp, pp * vpp, rank, ran) for index in held]
    looped = schedule in (Schedule.interleaved, Schedule.zbv)
    built = TORCH[schedule](stages if looped else stages[0], micro_batches)
    # The first step would tell the stages each other's shapes; there are no shapes here.
    built._initialize_stage = built._initialize_stages = lambda *_: None
    built._step_microbatches([()] * micro_batches, [{}] * micro_batches)
    return tuple(ran)


@given(
    schedule=st.sampled_from(list(Schedule)),
    pp=st.integers(2, 7),
    vpp=st.integers(2, 4),
    micro_batches=st.integers(1, 24),
)
def test_every_rank_runs_the_list(schedule: Schedule, pp: int, vpp: int, micro_batches: int) -> None:
    vpp = {Schedule.interleaved: vpp, Schedule.zbv: 2}.get(schedule, 1)
    if schedule is Schedule.one_f_one_b:
        micro_batches = max(micro_batches, pp)
    try:
        ours = action_list(schedule, pp, vpp, micro_batches)
    except ValueError:
        with pytest.raises(ValueError, match="multiple of the number of rounds"):
            torchs_list(schedule, pp, vpp, micro_batches, 0)
        return
    assert len(ours) == pp
    for rank in range(pp):
        assert ours[rank] == torchs_list(schedule, pp, vpp, micro_batches, rank)


@pytest.mark.parametrize(
    ("schedule", "pp", "vpp", "micro_batches", "message"),
    [
        (Schedule.zbv, 4, 1, 8, "needs vpp=2"),
        (Schedule.interleaved, 4, 2, 9, "not a multiple of the 2 rounds"),
        (Schedule.one_f_one_b, 4, 2, 8, "vpp must be 1"),
        (Schedule.gpipe, 4, 2, 8, "vpp must be 1"),
        (Schedule.interleaved, 1, 2, 8, "pp of at least 2"),
        (Schedule.gpipe, 2, 1, 0, "at least 1"),
    ],
)
def test_what_no_schedule_can_run_is_refused(
    schedule: Schedule, pp: int, vpp: int, micro_batches: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        action_list(schedule, pp, vpp, micro_batches)


def test_fewer_micro_batches_than_stages_run_under_1f1b_as_in_megatron() -> None:
    first, *_, last = action_list(Schedule.one_f_one_b, 4, 1, 2)
    assert [str(action) for action in first] == ["F0.0", "F0.1", "B0.0", "B0.1"]
    assert [str(action) for action in last] == ["F3.0", "B3.0", "F3.1", "B3.1"]


def test_one_rank_takes_micro_batches_one_by_one() -> None:
    (only,) = action_list(Schedule.one_f_one_b, 1, 1, 2)
    assert [str(action) for action in only] == ["F0.0", "B0.0", "F0.1", "B0.1"]
