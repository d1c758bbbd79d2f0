"""What a micro-batch costs in each part of the model, over shapes and degrees."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrate.config import DType, ModelConfig, Recompute
from orchestrate.plan.flops import head_flops, layer_flops
from orchestrate.plan.placement.place import Reach
from orchestrate.plan.time.collectives import Fabric, fabric
from orchestrate.plan.time.layer import HEAD_OPERATORS
from orchestrate.plan.time.micro_batch import MicroBatchCosts, micro_batch_costs
from orchestrate.plan.time.operators import processor
from orchestrate.plan.time.traits import TRAITS, TimeTraits
from orchestrate.plan.toolkits import Toolkit
from orchestrate.topology.cluster import build_cluster
from tests.unit.plan_cases import make_config

CLUSTER = build_cluster(make_config("dgx_h100").cluster)
H100 = processor(CLUSTER.device, DType.bf16)
LLAMA = make_config(model="llama3_8b").model
OURS = TRAITS[Toolkit.orchestrate]


def link(size: int) -> Fabric:
    return fabric(CLUSTER, Reach(size, size))


def costs(
    model: ModelConfig = LLAMA,
    tp: int = 1,
    cp: int = 1,
    sequences: int = 1,
    sequence_parallel: bool = False,
    recompute: Recompute = Recompute.none,
    traits: TimeTraits = OURS,
) -> MicroBatchCosts:
    return micro_batch_costs(
        H100, model, traits, link(tp), link(cp), sequences, sequence_parallel, recompute, 4
    )


@settings(max_examples=40, deadline=None)
@given(
    tp=st.sampled_from([1, 2, 4, 8]),
    cp=st.sampled_from([1, 2, 4]),
    sequences=st.integers(1, 8),
    sequence_parallel=st.booleans(),
    recompute=st.sampled_from(Recompute),
    toolkit=st.sampled_from(Toolkit),
)
def test_parts_of_a_pass_are_within_it(
    tp: int, cp: int, sequences: int, sequence_parallel: bool, recompute: Recompute, toolkit: Toolkit
) -> None:
    parts = costs(LLAMA, tp, cp, sequences, sequence_parallel and tp > 1, recompute, TRAITS[toolkit])
    for part in (parts.layer, parts.embedding, parts.head):
        assert 0 <= part.weights <= part.backward
        assert 0 <= part.recompute <= part.backward
        assert 0 <= part.tp <= part.forward + part.backward
        assert part.forward > 0
    assert (parts.layer.tp > 0) == (tp > 1)


@given(sequences=st.integers(1, 8), tp=st.sampled_from([1, 2, 4, 8]))
def test_no_layer_beats_its_arithmetic(sequences: int, tp: int) -> None:
    tokens = sequences * LLAMA.seq
    parts = costs(tp=tp, sequences=sequences)
    # Attention's kernels may reach more or less than products do; everything else cannot.
    matrices = layer_flops(LLAMA, attention=0.0) * tokens / tp / H100.flops
    assert parts.layer.forward > matrices
    assert parts.layer.backward > 2 * matrices
    assert parts.head.forward > head_flops(LLAMA) * tokens / tp / H100.flops


def test_full_recomputation_is_one_more_forward_pass() -> None:
    kept, again = costs(tp=4), costs(tp=4, recompute=Recompute.full)
    assert again.layer.forward == kept.layer.forward
    assert again.layer.recompute == pytest.approx(kept.layer.forward, rel=0.05)
    assert again.layer.once == pytest.approx(kept.layer.once)


def test_selective_recomputation_repeats_the_core_where_it_is_not_fused() -> None:
    unfused = replace(LLAMA, attention_dropout=0.1)
    assert costs(recompute=Recompute.selective).layer.recompute == 0
    part = costs(unfused, recompute=Recompute.selective).layer
    assert 0 < part.recompute < costs(unfused, recompute=Recompute.full).layer.recompute


def test_sequence_parallelism_saves_the_norms_and_sends_as_much() -> None:
    plain, cut = costs(tp=8), costs(tp=8, sequence_parallel=True)
    assert cut.layer.forward - cut.layer.tp / 2 < plain.layer.forward - plain.layer.tp / 2
    ring = replace(link(8), in_switch=None, start=0.0)
    one = ring.reduce_scatter(plain.hidden_bytes) + ring.all_gather(plain.hidden_bytes)
    assert one == pytest.approx(ring.all_reduce(plain.hidden_bytes))


def test_context_parallelism_hides_its_ring_behind_long_sequences_only() -> None:
    # The ring's traffic grows with the tokens, attention with their square.
    long, short = replace(LLAMA, seq=131072), replace(LLAMA, seq=512)
    assert costs(long, cp=8).layer.cp == 0
    assert costs(short, cp=8).layer.cp > 0


def test_small_layers_take_what_the_host_takes() -> None:
    small = replace(LLAMA, hidden=256, heads=4, kv_heads=4, ffn_hidden=1024, seq=128)
    slow = replace(OURS, launch_us=50.0)
    host = processor(CLUSTER.device, DType.bf16, slow.launch_us)
    one, two = (
        micro_batch_costs(host, small, slow, link(1), link(1), n, False, Recompute.none, 4) for n in (1, 2)
    )
    assert one.layer.forward == pytest.approx(two.layer.forward, rel=1e-3)


def test_the_device_waits_for_the_host_around_the_loss() -> None:
    quick, slow = (
        micro_batch_costs(
            processor(CLUSTER.device, DType.bf16, launch),
            LLAMA,
            OURS,
            link(1),
            link(1),
            1,
            False,
            Recompute.none,
            4,
        ).head
        for launch in (5.0, 50.0)
    )
    assert slow.forward - quick.forward == pytest.approx(HEAD_OPERATORS / 2 * 45e-6)
    assert slow.backward - quick.backward == pytest.approx(HEAD_OPERATORS / 2 * 45e-6)


def test_long_rows_of_scores_cost_more_than_their_bytes() -> None:
    unfused = replace(LLAMA, attention_dropout=0.1)
    long = replace(OURS, scores_row=4096.0)
    for seq, times in ((4096, 2.0), (1024, 1.25)):
        model = replace(unfused, seq=seq)
        plain, slow = (
            micro_batch_costs(
                H100, model, traits, link(1), link(1), 1, False, Recompute.none, 4
            ).layer.forward
            for traits in (OURS, long)
        )
        moved = model.heads * seq**2 * 9.0
        assert slow - plain == pytest.approx((times - 1) * moved / H100.bandwidth, rel=1e-3)


def test_fused_attention_does_the_causal_half_of_the_work() -> None:
    # Everything else grows with the tokens: 4 x 32k and 1 x 128k tokens differ in attention alone, which is
    # 2 h (s / 2) multiply-adds per token for scores and values together, causal half.
    short, long = replace(LLAMA, seq=32768), replace(LLAMA, seq=131072)
    more = costs(long).layer.forward - costs(short, sequences=4).layer.forward
    flops = 2 * LLAMA.hidden * (131072 - 32768) * 131072
    assert more == pytest.approx(flops / (H100.flops * OURS.flash_forward), rel=0.02)
