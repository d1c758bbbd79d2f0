"""Memory of other toolkits' layouts against published figures, and rules that hold for every toolkit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrate.config import (
    Activation,
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
from orchestrate.plan.memory.model import MemoryModel
from orchestrate.plan.memory.published import allocated, published
from orchestrate.plan.memory.traits import HELD_AT_MOST, TRAITS
from orchestrate.plan.parameters import count_parameters
from orchestrate.plan.pipeline.stages import from_sizes, split_layers
from orchestrate.plan.plan import MemoryEstimate
from orchestrate.plan.toolkits import Toolkit
from orchestrate.plan.units import GIB
from orchestrate.topology.cluster import build_cluster
from tests.unit.plan_cases import make_config

CLUSTER = build_cluster(make_config(**{"cluster.nodes": 8}).cluster)
LLAMA = ModelConfig(
    "llama",
    layers=16,
    hidden=2048,
    heads=32,
    ffn_hidden=8192,
    vocab=131072,
    seq=4096,
    norm=Norm.rmsnorm,
    activation=Activation.swiglu,
    position=Position.rotary,
    bias=False,
)
GPT = ModelConfig(
    "gpt",
    layers=16,
    hidden=4096,
    heads=32,
    ffn_hidden=16384,
    vocab=51200,
    seq=2048,
    dropout=0.1,
    attention_dropout=0.1,
)


def layout_of(**choices: Any) -> Layout:
    """A layout of degrees and settings; the degrees that are not named are 1."""
    degrees = {axis: choices.pop(axis) for axis in ("tp", "cp", "dp", "pp", "vpp") if axis in choices}
    dims = ParallelDims(**degrees)
    defaults: dict[str, Any] = {
        "micro_batch": 1,
        "global_batch": 256,
        "schedule": Schedule.interleaved if dims.vpp > 1 else Schedule.one_f_one_b,
        "sequence_parallel": dims.tp > 1,
        "zero_stage": 0,
        "zero_engine": ZeroBackend.deepspeed,
        "recompute": RecomputeConfig(Recompute.none),
    }
    return Layout(dims=dims, **{**defaults, **choices})


def memory(
    toolkit: Toolkit,
    model: ModelConfig = LLAMA,
    *,
    dtype: DType = DType.bf16,
    sizes: tuple[int, ...] | None = None,
    fp32_gradients: bool | None = None,
    **choices: Any,
) -> tuple[MemoryEstimate, ...]:
    layout = layout_of(**choices)
    stages = layout.dims.pp * layout.dims.vpp
    split = from_sizes(sizes) if sizes else split_layers(model.layers, stages, 1.0)
    return MemoryModel(CLUSTER, model, dtype, layout, split, toolkit, fp32_gradients).estimate()


@pytest.mark.parametrize(
    ("choices", "measured"),
    # SimuMax's release v1.2 (github.com/MooreThreads/SimuMax), Megatron-Core on 8 B200: peaks of
    # torch.cuda.max_memory_allocated in GiB, of 12 layers of Llama 3 70B.
    [
        ({"pp": 2, "dp": 4}, 66.55),
        ({"tp": 2, "dp": 4}, 60.68),
        ({"tp": 4, "dp": 2}, 39.07),
        ({"tp": 8}, 28.29),
    ],
)
def test_megatron_core_allocates_what_was_measured(choices: dict[str, int], measured: float) -> None:
    model = replace(
        LLAMA,
        layers=12,
        hidden=8192,
        heads=64,
        kv_heads=8,
        ffn_hidden=28672,
        vocab=128256,
        tied_embeddings=False,
    )
    batch = 4 * choices.get("dp", 1)
    toolkit = Toolkit.megatron_core
    found = memory(toolkit, model, global_batch=batch, zero_stage=1, fp32_gradients=True, **choices)
    assert published(found, toolkit) / GIB == pytest.approx(measured, rel=0.01)


@pytest.mark.parametrize(
    ("choices", "sizes", "measured"),
    # The Ultra-Scale Playbook's sweep (huggingface.co/spaces/nanotron/ultrascale-playbook), nanotron on
    # H100: GiB of rank 0, of Llama 1B. Stages as nanotron cuts them.
    [
        ({"dp": 8}, None, 36.7),
        ({"dp": 8, "zero_stage": 1}, None, 24.2),
        ({"tp": 4, "dp": 16, "micro_batch": 16}, None, 58.7),
        ({"tp": 8, "dp": 2, "micro_batch": 16}, None, 40.2),
        ({"tp": 16, "dp": 8, "micro_batch": 16, "zero_stage": 1}, None, 25.3),
        ({"pp": 2, "dp": 4}, (10, 6), 26.8),
        ({"pp": 2, "dp": 16, "micro_batch": 4, "zero_stage": 1}, (10, 6), 41.1),
        ({"tp": 8, "pp": 2, "dp": 16, "micro_batch": 4, "zero_stage": 1}, (10, 6), 5.4),
    ],
)
def test_nanotron_holds_what_was_measured(
    choices: dict[str, int], sizes: tuple[int, ...] | None, measured: float
) -> None:
    found = memory(Toolkit.nanotron, sizes=sizes, fp32_gradients=True, **choices)
    # The median error over the sweep's 1,027 runs is 5 %. Two standard deviations:
    tolerance = 2 * TRAITS[Toolkit.nanotron].spread
    assert published(found, Toolkit.nanotron) / GIB == pytest.approx(measured, rel=tolerance)


def test_a_layout_that_ran_out_of_memory_is_not_taken_to_fit() -> None:
    # Same sweep: both were tried, the second failed.
    fits, fails = (memory(Toolkit.nanotron, tp=8, dp=2, micro_batch=size) for size in (16, 64))
    assert all(estimate.fits for estimate in fits)
    assert not any(estimate.fits for estimate in fails)
    assert fits[0].probability_of_running_out < 0.01
    assert fails[0].probability_of_running_out > 0.99


@pytest.mark.parametrize(
    ("dtype", "stage", "bytes_per_parameter"),
    # BF16_Optimizer: 2 of weights, 4 of gradients, and the share of 12; fp16: gradients in place.
    [
        (DType.bf16, 1, 2 + 4 + 12 / 8),
        (DType.bf16, 0, 2 + 4 + 12 / 8),
        (DType.fp16, 1, 2 + 2 + 12 / 8),
        (DType.fp16, 0, 2 + 2 + 12),
    ],
)
def test_deepspeed_keeps_gradients_by_precision(dtype: DType, stage: int, bytes_per_parameter: float) -> None:
    full = RecomputeConfig(Recompute.full)
    (found,) = memory(Toolkit.megatron_deepspeed, GPT, dtype=dtype, zero_stage=stage, dp=8, recompute=full)
    state = sum(found.terms[name] for name in ("weights", "gradients", "master weights", "optimizer"))
    assert state == pytest.approx(count_parameters(GPT).total * bytes_per_parameter)


def test_deepspeed_reduces_gradients_out_of_one_flat_copy() -> None:
    # MEMORY_OPT_ALLREDUCE_SIZE of deepspeed/runtime/engine.py: 5e8 elements.
    (fp16,), (bf16,), (alone,) = (
        memory(Toolkit.megatron_deepspeed, GPT, dtype=dtype, dp=dp)
        for dtype, dp in ((DType.fp16, 8), (DType.bf16, 8), (DType.bf16, 1))
    )
    assert fp16.terms["gradient buckets"] == 5e8 * 2
    assert bf16.terms["gradient buckets"] == 5e8 * 4
    assert "gradient buckets" not in alone.terms


def test_gradients_in_fp32_can_be_asked_for() -> None:
    habit, asked = (memory(Toolkit.nemo, fp32_gradients=wanted)[0] for wanted in (None, True))
    assert asked.terms["gradients"] == 2 * habit.terms["gradients"]


def test_unfused_attention_of_megatron_keeps_what_the_published_formula_says() -> None:
    # Table 2 of arXiv:2205.05198: s b h (10 + 24 / t + 5 a s / (h t)) per layer.
    tp, tokens = 8, GPT.seq
    two, three = (
        memory(Toolkit.megatron_lm, replace(GPT, layers=layers), tp=tp, sequence_parallel=False)[0]
        for layers in (2, 3)
    )
    layer = three.terms["activations"] - two.terms["activations"]
    h, scores = GPT.hidden, 5 * GPT.heads * GPT.seq
    assert layer == pytest.approx(tokens * (h * (10 + 24 / tp) + scores / tp))


def test_a_stage_that_is_built_whole_needs_room_for_that() -> None:
    # Sharded over 64 replicas little is left of the weights, but each rank first builds all of them.
    model = replace(LLAMA, layers=64, hidden=8192, ffn_hidden=28672, heads=64)
    sharded: dict[str, Any] = {"zero_stage": 3}
    full = RecomputeConfig(Recompute.full)
    (found,) = memory(Toolkit.orchestrate, model, dp=64, recompute=full, **sharded)
    inside = found.total - found.terms["reserved"]
    assert inside == pytest.approx(count_parameters(model).total * 2)
    # FSDP fills layer by layer what it cuts.
    (cut,) = memory(
        Toolkit.orchestrate, model, dp=64, recompute=full, zero_engine=ZeroBackend.fsdp2, **sharded
    )
    assert "whole while built" not in cut.terms
    (small,) = memory(Toolkit.orchestrate, dp=2, **sharded)
    assert "whole while built" not in small.terms


def test_what_is_published_leaves_out_what_torch_does_not_count() -> None:
    found = memory(Toolkit.megatron_core, tp=2, dp=4, zero_stage=1)
    terms = found[0].terms
    outside = ("reserved", "communication buffers", "allocator slack")
    expected = found[0].total - sum(terms[name] for name in outside)
    assert published(found, Toolkit.megatron_core) == allocated(found[0]) == pytest.approx(expected)
    first, last = memory(Toolkit.nanotron, pp=2, dp=4, sizes=(2, 14))
    assert last.total > first.total
    held = first.total - first.terms["reserved"] - first.terms["communication buffers"]
    assert published((first, last), Toolkit.nanotron) == pytest.approx(held)


def held(**choices: Any) -> float:
    """Of rank 0, tensors of a whole micro-batch's hidden state that communication holds."""
    first = memory(Toolkit.nanotron, **choices)[0]
    tensor = choices.get("micro_batch", 1) * LLAMA.seq * LLAMA.hidden * 2
    return first.terms.get("held by communication", 0.0) / tensor


def test_the_host_starts_collectives_ahead_of_the_device() -> None:
    # Two a layer and pass; another micro-batch's backward pass may be under way; the queue has an end.
    assert held(tp=4, dp=8, micro_batch=4, global_batch=32) == 2 * LLAMA.layers
    assert held(tp=4, dp=8, micro_batch=4, global_batch=64) == HELD_AT_MOST
    assert held(dp=8) == 0  # nothing is cut over tp
    # In a pipeline, of the forward passes up to the first backward one, unless layers are quicker than the
    # host or their collectives cross nodes.
    assert held(tp=4, dp=8, micro_batch=4, sizes=(8, 8), pp=2) == 0
    assert held(tp=4, dp=8, micro_batch=32, global_batch=512, sizes=(8, 8), pp=2) == 2 * 8 * 2
    assert held(tp=16, dp=2, micro_batch=128, sizes=(8, 8), pp=2) == 0


def test_no_communicator_no_buffers() -> None:
    (alone,) = memory(Toolkit.orchestrate)
    assert "communication buffers" not in alone.terms
    (two,) = memory(Toolkit.orchestrate, dp=2)
    (four,) = memory(Toolkit.orchestrate, dp=2, tp=2)
    assert four.terms["communication buffers"] == 2 * two.terms["communication buffers"]


TOOLKITS = st.sampled_from(Toolkit)
MODELS = st.sampled_from([LLAMA, GPT])
DEGREES = st.fixed_dictionaries(
    {axis: st.sampled_from([1, 2, 4]) for axis in ("tp", "cp", "pp", "dp", "micro_batch")}
)
SETTINGS = st.fixed_dictionaries(
    {
        "zero_stage": st.integers(0, 3),
        "zero_engine": st.sampled_from(ZeroBackend),
        "recompute": st.builds(RecomputeConfig, st.sampled_from(Recompute)),
    }
)


def fullest(estimates: tuple[MemoryEstimate, ...]) -> float:
    return max(estimate.total for estimate in estimates)


@settings(deadline=None, max_examples=150)
@given(TOOLKITS, MODELS, DEGREES, SETTINGS)
def test_terms_are_positive_and_every_toolkit_has_them(
    toolkit: Toolkit, model: ModelConfig, degrees: dict[str, Any], settings: dict[str, Any]
) -> None:
    found = memory(toolkit, model, **degrees, **settings)
    assert len(found) == degrees["pp"]
    for estimate in found:
        assert min(estimate.terms.values()) > 0
        assert estimate.total == sum(estimate.terms.values())
        assert estimate.spread == TRAITS[toolkit].spread
        assert 0 <= estimate.probability_of_running_out <= 1
    assert 0 < published(found, toolkit) < fullest(found)


@settings(deadline=None, max_examples=150)
@given(TOOLKITS, MODELS, DEGREES, SETTINGS, st.sampled_from(["tp", "cp"]))
def test_memory_falls_with_tp_and_cp_and_rises_with_the_micro_batch(
    toolkit: Toolkit, model: ModelConfig, degrees: dict[str, Any], settings: dict[str, Any], axis: str
) -> None:
    whole = memory(toolkit, model, **degrees, **settings)
    cut = memory(toolkit, model, **{**degrees, axis: 2 * degrees[axis]}, **settings)
    # A first communicator of an axis brings buffers of its own, a first cut the gathers of what is cut.
    if degrees[axis] > 1:
        assert fullest(cut) <= fullest(whole)
    more = memory(toolkit, model, **{**degrees, "micro_batch": 2 * degrees["micro_batch"]}, **settings)
    assert fullest(more) >= fullest(whole)


@settings(deadline=None, max_examples=100)
@given(TOOLKITS, MODELS, DEGREES, SETTINGS)
def test_context_parallelism_divides_activations(
    toolkit: Toolkit, model: ModelConfig, degrees: dict[str, Any], settings: dict[str, Any]
) -> None:
    one, two = (
        memory(toolkit, model, **{**degrees, "cp": cp}, **settings)
        for cp in (degrees["cp"], 2 * degrees["cp"])
    )
    for whole, cut in zip(one, two, strict=True):
        for term in ("activations", "pipeline buffers", "workspace"):
            assert cut.terms.get(term, 0.0) == pytest.approx(whole.terms.get(term, 0.0) / 2)


@settings(deadline=None, max_examples=100)
@given(TOOLKITS, MODELS, DEGREES, st.sampled_from(ZeroBackend))
def test_model_state_falls_with_every_zero_stage(
    toolkit: Toolkit, model: ModelConfig, degrees: dict[str, Any], engine: ZeroBackend
) -> None:
    names = ("weights", "gradients", "master weights", "optimizer", "gradient share")
    totals = []
    for stage in range(1, 4):
        found = memory(toolkit, model, **{**degrees, "dp": 8}, zero_stage=stage, zero_engine=engine)
        totals.append(sum(found[0].terms.get(name, 0.0) for name in names))
    assert totals == sorted(totals, reverse=True)


@settings(deadline=None, max_examples=100)
@given(TOOLKITS, MODELS, st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 4]), st.integers(0, 1))
def test_stages_of_a_deeper_pipeline_hold_less_of_the_model(
    toolkit: Toolkit, model: ModelConfig, pp: int, dp: int, stage: int
) -> None:
    names = ("weights", "gradients", "master weights", "optimizer")

    def most(pp: int) -> float:
        found = memory(toolkit, model, pp=pp, dp=dp, zero_stage=stage)
        return max(sum(estimate.terms.get(name, 0.0) for name in names) for estimate in found)

    assert most(2 * pp) < most(pp)
