"""Memory by term, against published formulas and against torch's own schedules."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.pipelining import schedules as torch_schedules

from orchestrate.config import (
    Activation,
    DeviceKind,
    DType,
    ModelConfig,
    Norm,
    Position,
    Recompute,
    RecomputeConfig,
    Schedule,
    ZeroBackend,
)
from orchestrate.plan.choice import Layout
from orchestrate.plan.layout import ParallelDims
from orchestrate.plan.memory.activations import embedding_activations, head_activations, layer_activations
from orchestrate.plan.memory.model import MemoryModel
from orchestrate.plan.parameters import count_parameters
from orchestrate.plan.pipeline.schedule import in_flight
from orchestrate.plan.pipeline.stages import split_layers
from orchestrate.plan.search.candidate import Models
from orchestrate.plan.units import GIB
from orchestrate.topology.cluster import build_cluster
from tests.unit.plan_cases import make_config
from tests.unit.stage_modules import kept_by_autograd

H, HEADS, SEQ = 6144, 64, 2048
KORTHIKANTI = ModelConfig(
    "22b", layers=48, hidden=H, heads=HEADS, ffn_hidden=4 * H, vocab=51200, seq=SEQ, dropout=0.1
)
"""The 22B model of Korthikanti et al. 2022 (arXiv:2205.05198), table 3."""


@pytest.mark.parametrize("tp", [1, 2, 8])
def test_activations_are_those_of_the_published_formula(tp: int) -> None:
    # Table 2 of arXiv:2205.05198, per token; fused attention keeps no 5 a s / t, but fp32 sums: 4 a / t.
    sums = 4 * HEADS / tp
    plain = layer_activations(KORTHIKANTI, tp, False, 2)
    assert plain.kept == pytest.approx(H * (10 + 24 / tp) + sums)
    cut = layer_activations(KORTHIKANTI, tp, True, 2)
    assert cut.kept == pytest.approx(H * 34 / tp + sums)
    assert cut.under(Recompute.selective) == pytest.approx(H * 34 / tp)
    assert plain.under(Recompute.full) == pytest.approx(2 * H)
    assert cut.under(Recompute.full) == pytest.approx(2 * H / tp)


def test_unfused_attention_keeps_its_probabilities() -> None:
    model = replace(KORTHIKANTI, attention_dropout=0.1)
    kept = layer_activations(model, 8, True, 2)
    # arXiv:2205.05198 counts 5 a s / t; here the probabilities stay in fp32, two bytes more.
    assert kept.core == pytest.approx(7 * HEADS * SEQ / 8)
    assert kept.under(Recompute.selective) == pytest.approx(H * 34 / 8)


def test_grouped_key_value_heads_and_gated_layers_count_what_they_have() -> None:
    model = replace(make_config(model="llama3_8b").model)
    h, kv, f, e = model.hidden, 1024, model.ffn_hidden, 2
    expected = (4 * h + 2 * h + 3 * kv + 4 * f) * e + 4 * model.heads
    assert layer_activations(model, 1, False, e).kept == pytest.approx(expected)


SMALL = ModelConfig("small", layers=2, hidden=64, heads=8, ffn_hidden=96, vocab=50, seq=64)
VARIANTS = {
    "gpt": SMALL,
    "dropout": replace(SMALL, dropout=0.1),
    "unfused": replace(SMALL, attention_dropout=0.1),
    "llama": replace(
        SMALL,
        kv_heads=2,
        norm=Norm.rmsnorm,
        activation=Activation.swiglu,
        position=Position.rotary,
        bias=False,
        tied_embeddings=False,
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [DType.fp32, DType.bf16])
@pytest.mark.parametrize("mode", Recompute)
def test_activations_are_what_autograd_keeps(variant: str, dtype: DType, mode: Recompute) -> None:
    model, micro_batch = VARIANTS[variant], 4
    torch_dtype = {DType.fp32: torch.float32, DType.bf16: torch.bfloat16}[dtype]
    two, four = (
        kept_by_autograd(replace(model, layers=layers), layers, micro_batch, mode, torch_dtype)
        / (micro_batch * model.seq)
        for layers in (2, 4)
    )
    layer = layer_activations(model, 1, False, dtype.bytes, DeviceKind.cpu).under(mode)
    # Left out: norms' statistics, masks and angles that do not depend on the batch, token ids.
    assert (four - two) / 2 == pytest.approx(layer, rel=0.02)
    ends = embedding_activations(model) + head_activations(model, 1, False, dtype.bytes, DeviceKind.cpu)
    assert two == pytest.approx(2 * layer + ends, rel=0.04)


@given(
    schedule=st.sampled_from([Schedule.interleaved, Schedule.zbv]),
    pp=st.integers(2, 6),
    vpp=st.integers(2, 4),
    micro_batches=st.integers(1, 20),
)
def test_in_flight_is_what_torch_schedules(schedule: Schedule, pp: int, vpp: int, micro_batches: int) -> None:
    if schedule is Schedule.zbv:
        vpp, kind = 2, torch_schedules.ScheduleZBVZeroBubble
    else:
        kind = torch_schedules.ScheduleInterleaved1F1B
    rounds = max(1, micro_batches // pp)
    if schedule is Schedule.interleaved and micro_batches % rounds:
        return
    for rank in range(pp):
        # Its list of actions follows from these numbers alone; the constructor wants live stages.
        built: Any = object.__new__(kind)
        built.pp_group_size, built.n_local_stages, built.num_stages, built.rank = pp, vpp, pp * vpp, rank
        built._n_microbatches, built.number_of_rounds = micro_batches, rounds
        built.microbatches_per_round = micro_batches // rounds
        actions = built._calculate_single_rank_operations(rank)
        assert in_flight(schedule, pp, vpp, rank, micro_batches) == at_the_peak(actions)


def at_the_peak(actions: list[Any]) -> tuple[float, ...]:
    """Micro-batches alive by local stage when most are."""
    done = ("FULL_BACKWARD", "BACKWARD_WEIGHT")
    alive = {action.stage_index: 0 for action in actions if action is not None}
    peak = dict(alive)
    for action in filter(None, actions):
        kind = action.computation_type.name
        alive[action.stage_index] += (kind == "FORWARD") - (kind in done)
        if sum(alive.values()) > sum(peak.values()):
            peak = dict(alive)
    return tuple(float(peak[stage]) for stage in sorted(peak))


@pytest.mark.parametrize(
    ("schedule", "alive"),
    [(Schedule.gpipe, [8, 8, 8, 8]), (Schedule.one_f_one_b, [4, 3, 2, 1])],
)
def test_gpipe_holds_all_and_1f1b_what_is_on_its_way(schedule: Schedule, alive: list[int]) -> None:
    assert [in_flight(schedule, 4, 1, rank, 8) for rank in range(4)] == [(float(n),) for n in alive]


def test_without_a_pipeline_one_micro_batch_is_alive() -> None:
    assert {in_flight(schedule, 1, 1, 0, 8) for schedule in Schedule if schedule is not Schedule.zbv} == {
        (1.0,)
    }


def memory_of(
    dtype: DType = DType.bf16, stage: int = 0, engine: ZeroBackend = ZeroBackend.deepspeed, **rest: Any
) -> MemoryModel:
    """llama3_8b over 64 replicas of one stage, or as told."""
    model = rest.pop("model", make_config(model="llama3_8b").model)
    degrees = {"dp": 64, **rest.pop("degrees", {})}
    layout = Layout(
        dims=ParallelDims(**degrees),
        zero_stage=stage,
        zero_engine=engine,
        **{
            "micro_batch": 1,
            "global_batch": 512,
            "schedule": Schedule.one_f_one_b,
            "sequence_parallel": False,
            "recompute": RecomputeConfig(Recompute.none),
            **rest,
        },
    )
    stages = split_layers(model.layers, layout.dims.pp * layout.dims.vpp, 1.0)
    cluster = build_cluster(make_config(**{"cluster.nodes": 8}).cluster)
    return MemoryModel(cluster, model, dtype, layout, stages)


def state(memory: MemoryModel) -> float:
    (estimate,) = memory.estimate()
    return sum(
        estimate.terms.get(name, 0) for name in ("weights", "gradients", "master weights", "optimizer")
    )


@pytest.mark.parametrize("engine", ZeroBackend)
@pytest.mark.parametrize(
    ("stage", "bytes_per_parameter"),
    # Rajbhandari et al. 2020 (arXiv:1910.02054), figure 1, with K = 12, but gradients of four bytes.
    [(0, 2 + 4 + 12), (1, 2 + 4 + 12 / 64), (2, 2 + (4 + 12) / 64), (3, (2 + 4 + 12) / 64)],
)
def test_model_state_is_cut_as_zero_says(engine: ZeroBackend, stage: int, bytes_per_parameter: float) -> None:
    parameters = count_parameters(make_config(model="llama3_8b").model).total
    if engine is ZeroBackend.fsdp2 and stage == 3:
        bytes_per_parameter = (4 + 12) / 64  # its fp32 masters are all the weights it keeps
    assert state(memory_of(stage=stage, engine=engine)) == pytest.approx(parameters * bytes_per_parameter)


@pytest.mark.parametrize(
    ("dtype", "bytes_per_parameter"), [(DType.fp32, 16), (DType.fp64, 32), (DType.fp16, 18)]
)
def test_precise_weights_need_no_master(dtype: DType, bytes_per_parameter: int) -> None:
    parameters = count_parameters(make_config(model="llama3_8b").model).total
    assert state(memory_of(dtype)) == pytest.approx(parameters * bytes_per_parameter)


def test_terms_add_up_and_are_compared_with_the_card() -> None:
    (estimate,) = memory_of(stage=1).estimate()
    assert estimate.total == sum(estimate.terms.values())
    assert estimate.capacity == 80 * GIB
    assert estimate.terms["reserved"] == 1.5 * GIB
    assert estimate.fits == (estimate.total <= estimate.capacity)


def test_recomputation_saves_activations() -> None:
    kept = [
        memory_of(recompute=RecomputeConfig(mode)).estimate()[0].terms["activations"]
        for mode in (Recompute.none, Recompute.selective, Recompute.full)
    ]
    assert kept == sorted(kept, reverse=True)
    partly = RecomputeConfig(Recompute.full, layers=8)
    some = memory_of(recompute=partly).estimate()[0].terms["activations"]
    assert kept[2] < some < kept[0]
    whole = RecomputeConfig(Recompute.full, layers=32)
    assert memory_of(recompute=whole).estimate()[0].terms["activations"] == kept[2]


@pytest.mark.parametrize("stage", range(4))
def test_checkpoints_are_written_out_of_a_copy_in_host_memory(stage: int) -> None:
    # Only on CPUs is that the device's memory. A replica saves its share of masters and two moments.
    cpu = build_cluster(make_config(cluster="local_cpu").cluster)
    without = replace(memory_of(stage=stage, degrees={"dp": 4}), cluster=cpu)
    (plain,), (copied,) = (replace(without, saved_from_copy=copies).estimate() for copies in (False, True))
    parameters = count_parameters(without.model).total
    assert copied.total - plain.total == pytest.approx(12 * parameters / 4)
    (card,) = replace(memory_of(stage=stage), saved_from_copy=True).estimate()
    assert "checkpoint copy" not in card.terms


def test_a_plan_counts_the_copy_unless_training_waits_for_the_disk() -> None:
    def planned(**changes: Any) -> dict[str, float]:
        config = make_config(cluster="local_cpu", model="gpt_tiny", **changes)
        models = Models(config, build_cluster(config.cluster))
        (estimate,) = models.memory(
            replace(memory_of().layout, dims=ParallelDims(dp=4), micro_batch=1, global_batch=4)
        )
        return estimate.terms

    assert "checkpoint copy" in planned()
    assert "checkpoint copy" not in planned(**{"checkpoint.asynchronous": False})
    assert "checkpoint copy" not in planned(**{"checkpoint.every": None})


def test_pipelines_hold_what_they_sent_on_for_micro_batches_in_flight_alone() -> None:
    memory = memory_of(degrees={"dp": 1, "pp": 4}, global_batch=16)
    hidden = 8192 * 4096 * 2
    # 1F1B: 4, 3, 2 outputs wait for their backward, however many micro-batches; one tensor per border
    # comes in.
    expected = [(4 + 1) * hidden, (3 + 2) * hidden, (2 + 2) * hidden, 1 * hidden]
    assert [e.terms["pipeline buffers"] for e in memory.estimate()] == expected


def test_tied_embeddings_weigh_on_both_ends_of_a_pipeline() -> None:
    model = make_config(model="gpt2_124m").model
    memory = memory_of(model=model, degrees={"dp": 1, "pp": 2}, global_batch=16)
    weights = [estimate.terms["weights"] for estimate in memory.estimate()]
    count = count_parameters(model)
    assert sum(weights) == 2 * (count.total + count.word)


def test_v_shaped_schedule_ties_embeddings_on_one_rank() -> None:
    model = make_config(model="gpt2_124m").model
    degrees = {"dp": 1, "pp": 2, "vpp": 2}
    memory = memory_of(model=model, degrees=degrees, schedule=Schedule.zbv, global_batch=16)
    assert sum(e.terms["weights"] for e in memory.estimate()) == 2 * count_parameters(model).total


@given(tp=st.sampled_from([1, 2, 4, 8]), micro=st.sampled_from([1, 2, 4]), stage=st.integers(0, 3))
def test_memory_falls_with_tp_and_rises_with_the_micro_batch(tp: int, micro: int, stage: int) -> None:
    def total(tp: int, micro: int) -> float:
        return memory_of(stage=stage, degrees={"tp": tp, "dp": 8}, micro_batch=micro).estimate()[0].total

    assert total(2 * tp, micro) < total(tp, micro) < total(tp, 2 * micro)
