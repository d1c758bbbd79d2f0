"""Placement on clusters of every kind: who sits where, what groups span, what the network leaves them."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrate.config import Recompute, RecomputeConfig, Schedule, ZeroBackend
from orchestrate.plan.layout import AXES, ParallelDims, Placement
from orchestrate.plan.numbers import divisors
from orchestrate.plan.placement.arrangement import Arranger, Reaches
from orchestrate.plan.placement.place import place, reach, require_tp_inside_domains
from orchestrate.plan.placement.reach import Reach
from orchestrate.plan.plan import Plan, StageLayers, load, save
from orchestrate.topology.cluster import Cluster, Node, build_cluster
from orchestrate.topology.fabric import node_orders
from tests.unit.fabric_cases import cluster_of, clusters, layouts, spelled_out
from tests.unit.plan_cases import make_config


def close(one: Reach, other: Reach) -> bool:
    """Equal, but for the rounding of the shares."""

    def exact(reach: Reach) -> Any:
        return (reach.size, reach.together, reach.nodes, reach.per_node, reach.aligned, reach.leaves)

    shares = [(one.network_share, other.network_share), (one.ring_share, other.ring_share)]
    return exact(one) == exact(other) and all(a == pytest.approx(b) for a, b in shares)


@given(st.data())
def test_reach_is_what_every_group_spelled_out_spans(data: st.DataObject) -> None:
    cluster = data.draw(clusters())
    dims = data.draw(layouts(cluster.world))
    for nodes in (*node_orders(cluster), cluster.nodes):
        placement = Placement(tuple(device for node in nodes for device in cluster.devices_of(node)))
        for axis, found in Reaches(cluster, nodes).of(dims).items():
            expected = spelled_out(cluster, dims, placement, axis)
            assert close(found, expected)
            if axis in AXES:
                assert close(reach(cluster, placement, dims.groups(axis), axis), expected)


@given(st.data())
def test_every_device_gets_one_rank_and_nodes_stand_as_they_hang(data: st.DataObject) -> None:
    cluster = data.draw(clusters())
    placement = place(cluster, data.draw(layouts(cluster.world)))
    assert sorted(placement.devices) == sorted(cluster.devices)
    positions = [cluster.node_of(device).position for device in placement.devices]
    assert positions == sorted(positions)


@given(st.data())
def test_tp_that_divides_every_domain_stays_inside_in_every_option(data: st.DataObject) -> None:
    cluster = data.draw(clusters())
    tp = data.draw(st.sampled_from(divisors(cluster.nvlink_domain)))
    pp = data.draw(st.sampled_from(divisors(cluster.world // tp)))
    layout = ParallelDims(tp=tp, pp=pp, dp=cluster.world // tp // pp)
    options = Arranger(cluster).options(layout)
    assert options
    for option in options:
        placement = option.placement(cluster)
        assert sorted(placement.devices) == sorted(cluster.devices)
        require_tp_inside_domains(cluster, option.dims, placement)
        assert option.reach["tp"].local
        assert {axis: option.dims.degree(axis) for axis in AXES} == {a: layout.degree(a) for a in AXES}


@given(st.data())
def test_options_leave_out_only_what_is_no_better(data: st.DataObject) -> None:
    cluster = data.draw(clusters())
    layout = data.draw(layouts(cluster.world))
    options = Arranger(cluster, tp_anywhere=True).options(layout)
    for order in permutations(AXES):
        other = ParallelDims(layout.tp, layout.cp, layout.dp, layout.pp, order=order)
        spans = Reaches(cluster, cluster.nodes_by_position).of(other)
        assert any(all(option.reach[a].no_worse_than(spans[a]) for a in AXES) for option in options)


def test_pinned_axis_order_is_kept() -> None:
    cluster = cluster_of(nodes=8, switches=[{"nodes": 4, "oversubscription": 4}])
    layout = ParallelDims(tp=8, pp=2, dp=4)
    pinned = ("tp", "pp", "cp", "dp")
    assert {option.dims.order for option in Arranger(cluster).options(layout, [pinned])} == {pinned}
    assert len(Arranger(cluster).options(layout)) == 2, "dp or pp below the leaves"


def test_flat_network_leaves_nothing_to_choose_where_tp_fills_the_nodes() -> None:
    layout = ParallelDims(tp=8, pp=2, dp=4)
    (only,) = Arranger(cluster_of(nodes=8)).options(layout)
    assert only.dims == layout


@st.composite
def full_trees(draw: st.DrawFn) -> tuple[Cluster, ParallelDims]:
    """Clusters whose nodes fill a tree of switches, shuffled, and layouts of powers of two, which nest."""
    nodes = 2 ** draw(st.integers(1, 5))
    leaf = draw(st.sampled_from([d for d in (1, 2, 4, 8, 16, 32) if d <= nodes]))
    cluster = cluster_of(
        nodes=nodes,
        gpus_per_node=4,
        switches=[{"nodes": leaf, "oversubscription": draw(st.sampled_from([1, 2, 4, 8]))}],
        positions=draw(st.permutations(range(nodes))),
    )
    tp = draw(st.sampled_from([1, 2, 4]))
    dp = draw(st.sampled_from(divisors(cluster.world // tp)))
    return cluster, ParallelDims(tp=tp, dp=dp, pp=cluster.world // tp // dp)


@given(full_trees())
def test_rings_get_no_less_than_with_nodes_as_given(
    case: tuple[Cluster, ParallelDims],
) -> None:
    cluster, layout = case
    ours = Reaches(cluster, cluster.nodes_by_position).along(layout, "dp")
    assert ours.no_worse_than(Reaches(cluster, cluster.nodes).along(layout, "dp"))


def test_rings_below_a_leaf_keep_their_adapters_where_shuffled_ones_do_not() -> None:
    positions = [i // 2 + 4 * (i % 2) for i in range(8)]
    cluster = cluster_of(nodes=8, switches=[{"nodes": 4, "oversubscription": 4}], positions=positions)
    layout = ParallelDims(tp=8, dp=4, pp=2)
    sorted_, given_ = place(cluster, layout), Placement(cluster.devices)
    assert reach(cluster, sorted_, layout.groups("dp")).network_share == 1.0
    # Below a leaf 4 nodes send up a flow of 4 x 8 adapters each hop, in the place of a quarter of that.
    assert reach(cluster, given_, layout.groups("dp")).network_share == pytest.approx(0.25)


def test_what_all_groups_send_at_once_shares_the_uplinks() -> None:
    # Two leaves of four nodes at 2:1. One group of all 64 devices is one flow of all a node's adapters.
    cluster = cluster_of(nodes=8, switches=[{"nodes": 4, "oversubscription": 2}])
    ranks = cluster.nodes_by_position
    whole = Reaches(cluster, ranks).of(ParallelDims(dp=64))["dp"]
    assert (whole.together, whole.nodes, whole.network_share) == (8, 8, 1.0)
    # Pairs across the leaves: 32 of them at once, each with an adapter, through the place of 16.
    pairs = Reaches(cluster, ranks).of(ParallelDims(dp=32, pp=2))["pp"]
    assert (pairs.network_share, pairs.leaves) == (0.5, (True, True))


def test_stages_in_one_node_hand_over_inside_it() -> None:
    cluster = cluster_of(nodes=2)
    layout = ParallelDims(tp=2, pp=8, dp=1)
    spans = Reaches(cluster, cluster.nodes).of(layout)
    assert spans["pp"].leaves == (False, False, False, True, False, False, False, True)


def test_rails_meet_in_the_spine_unless_the_fast_link_joins_them() -> None:
    # Three stages of three: from the last device of one node to the first of the next, and back.
    layout = ParallelDims(tp=1, dp=3, pp=4)
    switch = {"nodes": 3, "oversubscription": 4}
    sizes: dict[str, Any] = {"nodes": 3, "gpus_per_node": 4, "switches": [switch], "rails": True}
    alone, joined = cluster_of(**sizes, nvlink_domain=1), cluster_of(**sizes)
    pp = [Reaches(cluster, cluster.nodes).of(layout)["pp"] for cluster in (alone, joined)]
    assert [span.aligned for span in pp] == [False, True]
    assert pp[0].network_share < pp[1].network_share == 1.0


def test_ring_through_a_rack_enters_it_once() -> None:
    racks = build_cluster(make_config("gb200_nvl72", **{"cluster.nodes": 36}).cluster)
    span = Reaches(racks, racks.nodes).of(ParallelDims(dp=144))["dp"]
    assert (span.together, span.per_node, span.nodes, span.adapters) == (72, 4, 36, 72)


def test_ring_through_pairs_takes_all_of_a_nodes_adapters() -> None:
    pairs = build_cluster(make_config("h100_nvl_pairs", **{"cluster.nodes": 4}).cluster)
    span = Reaches(pairs, pairs.nodes).of(ParallelDims(dp=32))["dp"]
    assert (span.together, span.per_node, span.adapters) == (2, 8, 8)


def test_shuffled_racks_are_put_together_again() -> None:
    positions = [i // 2 + 18 * (i % 2) for i in range(36)]
    sizes = {"cluster.nodes": 36, "cluster.positions": positions}
    racks = build_cluster(make_config("gb200_nvl72", **sizes).cluster)
    layout = ParallelDims(tp=8, dp=18)
    assert reach(racks, place(racks, layout), layout.groups("tp")).local
    assert not reach(racks, Placement(racks.devices), layout.groups("tp")).local


def test_nodes_below_the_fullest_switches_come_first_where_some_are_missing() -> None:
    cluster = cluster_of(nodes=6, switches=[{"nodes": 4}], positions=[0, 4, 5, 6, 7, 9])
    orders = [[node.position for node in nodes] for nodes in node_orders(cluster)]
    assert orders == [[0, 4, 5, 6, 7, 9], [4, 5, 6, 7, 0, 9]]


def plan_on(cluster: Cluster, layout: ParallelDims, nodes: tuple[Node, ...]) -> Plan:
    return Plan(
        cluster=cluster,
        model=make_config("dgx_h100", "gpt_tiny").model,
        dims=layout,
        placement=Placement(tuple(device for node in nodes for device in cluster.devices_of(node))),
        stages=tuple(StageLayers(i, i + 1) for i in range(layout.pp)),
        schedule=Schedule.gpipe,
        micro_batch=1,
        global_batch=layout.dp,
        sequence_parallel=False,
        zero_stage=0,
        zero_engine=ZeroBackend.deepspeed,
        recompute=RecomputeConfig(Recompute.none),
    )


@given(cluster=clusters())
def test_plan_file_keeps_the_cluster_and_the_placement(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    plan = plan_on(cluster, ParallelDims(dp=cluster.world), cluster.nodes_by_position)
    path = tmp_path_factory.mktemp("plan") / "plan.yaml"
    save(plan, path)
    assert load(path) == plan


def test_plan_file_keeps_devices_of_two_kinds(tmp_path: Path) -> None:
    slower = {"nodes": 1, "gpus_per_node": 4, "device": vars(make_config("selene_a100").cluster.device)}
    cluster = cluster_of(groups=[slower])
    plan = plan_on(cluster, ParallelDims(dp=12), cluster.nodes)
    save(plan, tmp_path / "plan.yaml")
    assert load(tmp_path / "plan.yaml").cluster == cluster
    assert [kind.name for kind in cluster.kinds] == ["H100 SXM 80 GB", "A100 SXM 80 GB"]
