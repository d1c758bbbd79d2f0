"""Times by term, against published measurements and plain physics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrate.config import DType, ModelConfig, Recompute, RecomputeConfig, Schedule, ZeroBackend
from orchestrate.plan.choice import Layout
from orchestrate.plan.flops import head_flops, layer_flops, model_flops
from orchestrate.plan.layout import AXES, ParallelDims
from orchestrate.plan.pipeline.stages import split_layers
from orchestrate.plan.placement.place import Reach, place, reach
from orchestrate.plan.plan import TimeEstimate
from orchestrate.plan.time.collectives import Fabric, fabric
from orchestrate.plan.time.micro_batch import Passes
from orchestrate.plan.time.replicas import Held, exposed
from orchestrate.plan.time.step import CostModel
from orchestrate.topology.cluster import build_cluster
from tests.unit.plan_cases import make_config


def time_of(
    model: ModelConfig,
    cluster_name: str = "dgx_a100",
    nodes: int = 1,
    order: tuple[str, ...] = AXES,
    degrees: dict[str, int] | None = None,
    **rest: Any,
) -> TimeEstimate:
    """The estimate of a layout in bf16."""
    dims = ParallelDims(**(degrees or {}), order=order)
    sizes: dict[str, Any] = {"cluster.nodes": nodes, "cluster.gpus_per_node": dims.world // nodes}
    cluster = build_cluster(make_config(cluster_name, **sizes).cluster)
    placement = place(cluster, dims)
    layout = Layout(
        dims=dims,
        **{
            "micro_batch": 1,
            "global_batch": 8 * dims.dp,
            "schedule": Schedule.one_f_one_b,
            "sequence_parallel": False,
            "zero_stage": 0,
            "zero_engine": ZeroBackend.deepspeed,
            "recompute": RecomputeConfig(Recompute.none),
            **rest,
        },
    )
    reaches = {axis: reach(cluster, placement, dims.groups(axis)) for axis in AXES}
    cost = CostModel(cluster, model, DType.bf16, layout, reaches)
    parts = cost.stage_costs
    return cost.estimate(
        split_layers(model.layers, dims.pp * dims.vpp, parts.layer, parts.embedding, parts.head)
    )


GPT3 = make_config(model="gpt3_13b").model
LAYER_22B = ModelConfig(
    "22b",
    layers=48,
    hidden=6144,
    heads=64,
    ffn_hidden=4 * 6144,
    vocab=51200,
    seq=2048,
    dropout=0.1,
    attention_dropout=0.1,
)


@pytest.mark.parametrize(
    ("sequence_parallel", "mode", "measured_ms"),
    [
        (False, Recompute.none, 19.6),
        (True, Recompute.none, 19.0),
        (False, Recompute.full, 27.2),
        (False, Recompute.selective, 20.9),
        (True, Recompute.selective, 20.3),
    ],
)
def test_one_layer_takes_what_was_measured(
    sequence_parallel: bool, mode: Recompute, measured_ms: float
) -> None:
    # Korthikanti et al. 2022 (arXiv:2205.05198), table 4: forward and backward of one layer of the 22B
    # model, micro-batch 4, tensor parallel over 8 A100. One layer is the difference of two depths.
    def step(layers: int) -> float:
        terms = time_of(
            replace(LAYER_22B, layers=layers),
            degrees={"tp": 8},
            micro_batch=4,
            global_batch=4,
            sequence_parallel=sequence_parallel,
            recompute=RecomputeConfig(mode),
        ).terms
        return sum(seconds for name, seconds in terms.items() if name != "optimizer")

    assert (step(9) - step(1)) / 8 * 1e3 == pytest.approx(measured_ms, rel=0.1)


@pytest.mark.parametrize("name", ["gpt2_124m", "gpt3_175b", "gpt_1t"])
def test_model_flops_are_those_of_the_published_formula(name: str) -> None:
    # Korthikanti et al. 2022 (arXiv:2205.05198), equation 7: 72 B L s h^2 (1 + s / 6h + v / 12hL).
    model = make_config(model=name).model
    layers, h, s, v = model.layers, model.hidden, model.seq, model.vocab
    published = 72 * 4 * layers * s * h**2 * (1 + s / (6 * h) + v / (12 * h * layers))
    assert model_flops(model, 4 * s) == pytest.approx(published)


def test_gated_layers_and_grouped_heads_count_their_own_matrices() -> None:
    model = make_config(model="llama3_8b").model
    weights = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336
    assert layer_flops(model) == 2 * weights + 4 * 4096 * 8192
    assert layer_flops(model, attention=0.5) == 2 * weights + 2 * 4096 * 8192
    assert head_flops(model) == 2 * 4096 * 128256


def test_ring_sends_each_byte_twice_and_starts_once() -> None:
    ring = Fabric(size=8, bandwidth=100.0, latency=1.0, local=400.0, start=3.0)
    assert ring.reduce_scatter(800) == ring.all_gather(800) == pytest.approx(7 / 8 * 8 + 2 + 1 + 3)
    assert ring.all_reduce(800) == pytest.approx(2 * (7 / 8 * 8 + 2 + 1) + 3)


def test_switches_that_sum_are_used_where_they_are_faster() -> None:
    ring = Fabric(size=8, bandwidth=100.0, latency=1.0)
    slower, faster = (replace(ring, in_switch=speed) for speed in (50.0, 200.0))
    assert slower.all_reduce(800) == ring.all_reduce(800)
    assert faster.all_reduce(800) == pytest.approx(2 * 7 / 8 * 4 + 2)
    assert faster.all_gather(800) == ring.all_gather(800)


@given(size=st.floats(0, 1e12))
def test_nobody_to_talk_to_costs_nothing(size: float) -> None:
    alone = Fabric(1, 1e9, 1e-6, start=1.0, in_switch=1e9)
    assert alone.all_reduce(size) == alone.all_gather(size) == 0


@pytest.mark.parametrize(
    ("devices", "mib", "measured_us"),
    [(2, 1, 44.2), (2, 1024, 5443), (4, 64, 543.8), (4, 1024, 7259), (8, 16, 232.4), (8, 1024, 8193)],
)
def test_all_reduce_takes_what_nccl_took(devices: int, mib: int, measured_us: float) -> None:
    # NCCL on A100 with NVLink 3 (vTrain's profiling tables, github.com/VIA-Research/vTrain).
    cluster = build_cluster(make_config("selene_a100").cluster)
    predicted = fabric(cluster, Reach(devices, devices)).all_reduce(mib * 2**20) * 1e6
    assert predicted == pytest.approx(measured_us, rel=0.15)


@given(size=st.floats(1, 1e12), members=st.integers(2, 512))
def test_all_reduce_sends_what_a_ring_sends(size: float, members: int) -> None:
    # 2 (n - 1) / n of the message through every link (Patarasuk and Yuan 2009).
    link = Fabric(members, 1e9, 0.0)
    assert link.all_reduce(size) == pytest.approx(2 * (members - 1) / members * size / 1e9)


def test_group_across_nodes_uses_the_adapters_of_all_its_members() -> None:
    cluster = build_cluster(make_config(**{"cluster.nodes": 2}).cluster)
    inside = fabric(cluster, Reach(8, 8))
    lone, four, all_eight = (fabric(cluster, Reach(16, together)) for together in (1, 4, 8))
    assert lone.bandwidth * 4 == four.bandwidth
    assert lone.message == four.message == lone.bandwidth, "a message to the next takes one"
    assert lone.bandwidth < four.bandwidth < all_eight.bandwidth <= inside.bandwidth


@pytest.mark.parametrize(("tp", "share"), [(1, 1.0), (2, 1 / 2), (4, 1 / 4), (8, 1.0)])
def test_rings_through_some_devices_of_a_node_use_part_of_shared_adapters(tp: int, share: float) -> None:
    # Eight devices with four adapters. A node's groups of replicas have 8 / tp of its devices each.
    cluster = build_cluster(make_config(**{"cluster.nodes": 4, "cluster.network.shared_by": 2}).cluster)
    own = build_cluster(make_config(**{"cluster.nodes": 4}).cluster)
    dims = ParallelDims(tp=tp, dp=32 // tp)
    shared, alone = (
        fabric(one, reach(one, place(one, dims), dims.groups("dp"))).bandwidth for one in (cluster, own)
    )
    assert shared == pytest.approx(share * alone)


def test_gradients_hide_behind_the_backward_pass_but_for_the_last_bucket() -> None:
    link, layer = Fabric(64, 1e9, 0.0), Passes(forward=1.0, backward=2.0)
    held = Held(parameters=10**9, layers=10, layer_parameters=10**8, weight_bytes=2, gradient_bytes=2)
    summing = link.all_reduce(2e9)
    assert exposed(link, held, layer, 0, 1, hidden=False) == summing
    # 64 replicas fill buckets of 64 million parameters; all others travel within the 20 s.
    assert exposed(link, held, layer, 0, 1, hidden=True) == pytest.approx(0.064 * summing)
    short = replace(layer, backward=0.1)
    assert exposed(link, held, short, 0, 1, hidden=True) == pytest.approx(summing - 1.0)


def test_an_optimizer_that_sums_whole_gradients_talks_more() -> None:
    link, held = Fabric(8, 1e9, 0.0), Held(10**9, 10, 10**8, 2, 4)
    cut, whole = (
        exposed(link, held, Passes(1.0, 2.0), 1, 1, hidden=False, whole_sums=sums) for sums in (False, True)
    )
    assert whole - cut == pytest.approx(link.all_reduce(4e9) - link.reduce_scatter(4e9))


def test_tensor_parallelism_across_nodes_is_slower() -> None:
    inside = time_of(GPT3, nodes=2, degrees={"tp": 2, "dp": 2})
    across = time_of(GPT3, nodes=2, degrees={"tp": 2, "dp": 2}, order=("dp", "cp", "tp", "pp"))
    assert across.step > inside.step
    assert across.terms["tp communication"] > 5 * inside.terms["tp communication"]


def test_terms_add_up_to_the_step_and_name_what_is_there() -> None:
    time = time_of(
        GPT3, nodes=2, degrees={"tp": 2, "pp": 2, "dp": 2}, recompute=RecomputeConfig(Recompute.full)
    )
    assert time.step == sum(time.terms.values())
    assert set(time.terms) == {
        "compute",
        "recompute",
        "bubble",
        "tp communication",
        "pp communication",
        "dp communication",
        "optimizer",
    }
    assert set(time_of(GPT3).terms) == {"compute", "optimizer"}


@given(pp=st.sampled_from([2, 4]), micro_batches=st.sampled_from([4, 8, 32]))
def test_bubble_share_is_the_textbook_one(pp: int, micro_batches: int) -> None:
    # Equal stages without head: (p - 1) / m of the ideal time (Narayanan et al. 2021, section 2.2).
    model = replace(GPT3, vocab=1, layers=32)
    terms = time_of(model, degrees={"pp": pp}, global_batch=micro_batches).terms
    busy = terms["compute"] + terms["pp communication"]
    assert terms["bubble"] / busy == pytest.approx((pp - 1) / micro_batches, rel=0.02)


def test_sharded_optimizer_is_faster_and_zero_3_talks_most() -> None:
    times = [
        time_of(GPT3, degrees={"dp": 8}, zero_stage=stage, zero_engine=ZeroBackend.fsdp2).terms
        for stage in range(4)
    ]
    assert times[1]["optimizer"] == pytest.approx(
        times[0]["optimizer"] / 8, rel=0.01
    )  # the host's part is not cut
    talk = [terms["dp communication"] for terms in times]
    assert talk[1] < talk[0] < talk[2] < talk[3]


def test_the_host_of_an_engine_counts_where_the_model_is_small() -> None:
    tiny = make_config(model="gpt_tiny").model

    def slower(model: ModelConfig, stage: int, engine: ZeroBackend) -> float:
        step, plain = (
            time_of(model, degrees={"dp": 2}, zero_stage=zero, zero_engine=engine).terms["compute"]
            for zero in (stage, 0)
        )
        return step / plain

    for engine in ZeroBackend:
        assert slower(tiny, 3, engine) > slower(tiny, 1, engine)
        assert slower(GPT3, 3, engine) == pytest.approx(1, rel=0.001)
    assert slower(tiny, 3, ZeroBackend.deepspeed) > 3


def test_gathering_again_for_the_gradients_of_weights_hides_only_behind_a_gpu() -> None:
    def more(cluster: str) -> float:
        cut, whole = (
            time_of(GPT3, cluster, degrees={"tp": 4}, sequence_parallel=sequence_parallel).terms
            for sequence_parallel in (True, False)
        )
        return cut["tp communication"] / whole["tp communication"]

    # A layer's four sums are as many pairs of a scatter and a gather; two gathers more are half a pair each.
    assert more("two_node_cpu") == pytest.approx(5 / 4, rel=0.02)
    assert more("dgx_a100") < 1.15


def test_shared_cores_do_the_work_of_all_stages_and_wait_for_none() -> None:
    # One core for eight processes. The last stage has the head besides its layer, and takes several times as
    # long as the others: they leave it the core.
    def on_one_core(**degrees: int) -> dict[str, float]:
        sizes = {"cluster.nodes": 1, "cluster.gpus_per_node": 8, "model.layers": 8, "model.vocab": 4096}
        config = make_config("two_node_cpu", "gpt_tiny", **sizes, **{"cluster.device.crowding": 8.0})
        cluster, dims = build_cluster(config.cluster), ParallelDims(**degrees)
        layout = Layout(
            dims=dims,
            micro_batch=1,
            global_batch=16 * dims.dp,
            schedule=Schedule.one_f_one_b,
            sequence_parallel=False,
            zero_stage=0,
            zero_engine=ZeroBackend.deepspeed,
            recompute=RecomputeConfig(Recompute.none),
        )
        placement = place(cluster, dims)
        spans = {axis: reach(cluster, placement, dims.groups(axis)) for axis in AXES}
        cost = CostModel(cluster, config.model, DType.fp32, layout, spans)
        return cost.estimate(split_layers(8, dims.pp, 1.0, 0.0, 0.0)).terms

    replicas, pipeline = on_one_core(dp=8), on_one_core(pp=8)
    # As many samples in all: each replica computes 16, the pipeline 16 together.
    assert 8 * pipeline["compute"] == pytest.approx(replicas["compute"])
    assert pipeline["pp communication"] > 0
    assert "bubble" not in pipeline


def test_a_message_on_a_slow_wire_leaves_the_cores_to_the_other_stages() -> None:
    def step(micro_batches: int, gigabytes_per_s: float) -> float:
        config = make_config(
            "two_node_cpu",
            "gpt_tiny",
            **{"cluster.gpus_per_node": 1, "cluster.device.crowding": 2.0, "model.layers": 8},
            **{"cluster.network.bandwidth_gbps": gigabytes_per_s},
        )
        cluster, dims = build_cluster(config.cluster), ParallelDims(pp=2)
        layout = Layout(
            dims=dims,
            micro_batch=1,
            global_batch=micro_batches,
            schedule=Schedule.one_f_one_b,
            sequence_parallel=False,
            zero_stage=0,
            zero_engine=ZeroBackend.deepspeed,
            recompute=RecomputeConfig(Recompute.none),
        )
        placement = place(cluster, dims)
        spans = {axis: reach(cluster, placement, dims.groups(axis)) for axis in AXES}
        cost = CostModel(cluster, replace(config.model, tied_embeddings=False), DType.fp32, layout, spans)
        stages = split_layers(8, 2, 1.0, 0.0, 0.0)
        assert cost.least(stages) <= cost.estimate(stages).step * (1 + 1e-9)
        return cost.estimate(stages).step

    # A wire that takes less than the stages' work costs nothing; one that takes far longer is all there is.
    assert step(8, 0.15) == pytest.approx(step(8, 0.5), rel=0.01)
    message_s = 128 * 128 * 4 / 0.001e9
    assert step(16, 0.001) - step(8, 0.001) == pytest.approx(8 * 2 * message_s, rel=0.5)


def test_deepspeed_gives_every_replica_the_sum_of_all_gradients() -> None:
    def between_replicas(zero_stage: int, engine: ZeroBackend) -> float:
        found = time_of(GPT3, nodes=2, degrees={"dp": 16}, zero_stage=zero_stage, zero_engine=engine)
        return found.terms["dp communication"]

    sums = between_replicas(0, ZeroBackend.deepspeed)
    shares, whole = (between_replicas(1, engine) for engine in (ZeroBackend.fsdp2, ZeroBackend.deepspeed))
    # Of a ring's all-reduce a reduce-scatter is half, but for the latency of its many messages; weights are
    # gathered either way.
    assert shares < sums < whole
    assert whole - shares == pytest.approx(sums / 2, rel=0.1)
