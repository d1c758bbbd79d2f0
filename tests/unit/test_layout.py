"""Ranks, groups, placement and stages: properties over all small layouts."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrate.config import Schedule
from orchestrate.errors import ConfigError
from orchestrate.plan.layout import AXES, ParallelDims, Placement, pipeline_rank, stages_by_rank
from orchestrate.plan.pipeline.stages import from_sizes, split_layers
from orchestrate.plan.placement.place import place, reach, require_tp_inside_domains
from orchestrate.topology.cluster import Cluster, Device, build_cluster
from tests.unit.plan_cases import make_config

dims = st.builds(
    ParallelDims,
    tp=st.integers(1, 4),
    cp=st.integers(1, 2),
    dp=st.integers(1, 4),
    pp=st.integers(1, 4),
    vpp=st.integers(1, 2),
    order=st.permutations(AXES).map(tuple),
)


def cluster_of(nodes: int, per_node: int, domain: int | None = None) -> Cluster:
    sizes: dict[str, Any] = {"nodes": nodes, "gpus_per_node": per_node, "nvlink_domain": domain}
    return build_cluster(make_config(**{f"cluster.{key}": size for key, size in sizes.items()}).cluster)


@given(dims)
def test_rank_and_coordinates_are_inverse(layout: ParallelDims) -> None:
    coordinates = [layout.coordinates(rank) for rank in range(layout.world)]
    assert [layout.rank(at) for at in coordinates] == list(range(layout.world))
    assert len(set(coordinates)) == layout.world


@given(dims, st.sampled_from(AXES))
def test_groups_of_an_axis_part_the_ranks(layout: ParallelDims, axis: str) -> None:
    groups = list(layout.groups(axis))
    assert sorted(rank for group in groups for rank in group) == list(range(layout.world))
    for group in groups:
        places = [layout.coordinates(rank) for rank in group]
        assert [getattr(at, axis) for at in places] == list(range(layout.degree(axis)))
        others = {tuple(getattr(at, other) for other in AXES if other != axis) for at in places}
        assert len(others) == 1


@given(dims)
def test_first_axis_of_the_order_varies_fastest(layout: ParallelDims) -> None:
    fastest = layout.order[0]
    assert next(layout.groups(fastest)) == tuple(range(layout.degree(fastest)))


@pytest.mark.parametrize("order", [("tp", "pp", "dp"), ("tp", "tp", "pp", "dp")])
def test_order_must_name_every_axis_once(order: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="must name each"):
        ParallelDims(order=order)


@given(
    nodes=st.integers(1, 4),
    domains=st.integers(1, 2),
    tp=st.sampled_from([1, 2, 3, 4]),
    per_domain=st.integers(1, 3),
    data=st.data(),
)
def test_tp_that_divides_the_domain_stays_inside_it(
    nodes: int, domains: int, tp: int, per_domain: int, data: st.DataObject
) -> None:
    cluster = cluster_of(nodes, tp * per_domain * domains, tp * per_domain)
    share = cluster.world // tp
    pp = data.draw(st.sampled_from([d for d in range(1, share + 1) if share % d == 0]))
    layout = ParallelDims(tp=tp, pp=pp, dp=share // pp)
    placement = place(cluster, layout)
    require_tp_inside_domains(cluster, layout, placement)
    assert reach(cluster, placement, layout.groups("tp")).local
    for device in cluster.devices:
        assert placement.devices[placement.rank_of(device)] == device


def test_tp_that_leaves_its_domain_is_told_by_device() -> None:
    cluster = cluster_of(2, 6)
    layout = ParallelDims(tp=4, dp=3)
    with pytest.raises(ConfigError, match=r"parallel.tp=4.*node0:4, node0:5, node1:0, node1:1.*domain of 6"):
        require_tp_inside_domains(cluster, layout, place(cluster, layout))


def test_tp_that_is_not_the_fastest_axis_leaves_its_domain_too() -> None:
    cluster = cluster_of(2, 4)
    layout = ParallelDims(tp=2, dp=4, order=("dp", "cp", "tp", "pp"))
    with pytest.raises(ConfigError, match="axis order"):
        require_tp_inside_domains(cluster, layout, place(cluster, layout))


def test_layout_must_fill_the_cluster() -> None:
    with pytest.raises(ConfigError, match=r"4 ranks.*8 devices"):
        place(cluster_of(1, 8), ParallelDims(tp=4))


def test_two_ranks_never_share_a_device() -> None:
    with pytest.raises(ValueError, match="one device"):
        Placement((Device("a", 0), Device("a", 0)))


def test_reach_is_that_of_the_worst_group() -> None:
    cluster = cluster_of(2, 4)
    spread = Placement(tuple(cluster.devices[i] for i in (0, 1, 2, 4, 3, 5, 6, 7)))
    layout = ParallelDims(tp=2, dp=4)
    assert reach(cluster, spread, layout.groups("tp")).together == 1
    assert reach(cluster, place(cluster, layout), layout.groups("dp")).together == 2


@pytest.mark.parametrize(
    ("schedule", "ranks"),
    [(Schedule.interleaved, [0, 1, 2, 3, 0, 1, 2, 3]), (Schedule.zbv, [0, 1, 2, 3, 3, 2, 1, 0])],
)
def test_virtual_stages_loop_or_walk_a_v(schedule: Schedule, ranks: list[int]) -> None:
    assert [pipeline_rank(schedule, 4, stage) for stage in range(8)] == ranks
    held = stages_by_rank(schedule, 4, 8)
    assert all(ranks[stage] == rank for rank, stages in enumerate(held) for stage in stages)
    assert sorted(stage for stages in held for stage in stages) == list(range(8))


def costliest(sizes: tuple[int, ...], layer: float, first: float, last: float) -> float:
    costs = [size * layer for size in sizes]
    costs[0] += first
    costs[-1] += last
    return max(costs)


@given(
    layers=st.integers(1, 9),
    stages=st.integers(1, 5),
    layer=st.integers(1, 5),
    first=st.integers(0, 20),
    last=st.integers(0, 20),
)
def test_split_is_the_best_there_is(layers: int, stages: int, layer: int, first: int, last: int) -> None:
    if layers < stages:
        with pytest.raises(ValueError, match="cannot fill"):
            split_layers(layers, stages, layer, first, last)
        return
    split = split_layers(layers, stages, layer, first, last)
    assert [stage.first for stage in split] == [0, *(stage.last for stage in split[:-1])]
    assert split[-1].last == layers
    assert min(map(len, split)) >= 1
    all_splits = [
        tuple(b - a for a, b in zip((0, *cuts), (*cuts, layers), strict=True))
        for cuts in combinations(range(1, layers), stages - 1)
    ]
    best = min(costliest(sizes, layer, first, last) for sizes in all_splits)
    assert costliest(tuple(map(len, split)), layer, first, last) == best


@given(st.integers(1, 200), st.integers(1, 32))
def test_equal_layers_are_split_evenly(layers: int, stages: int) -> None:
    if layers >= stages:
        sizes = [len(stage) for stage in split_layers(layers, stages, 1.0)]
        assert max(sizes) - min(sizes) <= 1
        assert sizes == sorted(sizes), "later stages, which hold fewer activations, take what is left over"


def test_sizes_become_slices() -> None:
    assert [(stage.first, stage.last) for stage in from_sizes((2, 3, 1))] == [(0, 2), (2, 5), (5, 6)]
