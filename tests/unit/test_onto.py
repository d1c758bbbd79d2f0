"""A plan onto the machines that a scheduler gave: any names, any order."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrate.config import SwitchConfig
from orchestrate.plan.placement.onto import Host, made_of, matched, moved
from orchestrate.topology.cluster import Cluster, Node
from tests.equivalence.layouts import Layout, plan_of

PLAN = plan_of(Layout(dp=4, tp=2))


def cluster(nodes: int, leaf: int | None, devices: int = 8, gaps: int = 0) -> Cluster:
    """Nodes n0, n1, … of which ``leaf`` share a switch; ``gaps`` places of each leaf stay empty."""
    used = nodes if leaf is None else leaf - gaps
    positions = [i if leaf is None else i // used * leaf + i % used for i in range(nodes)]
    return dataclasses.replace(
        PLAN.cluster,
        nodes=tuple(Node(f"n{i}", devices, devices, place) for i, place in enumerate(positions)),
        switches=() if leaf is None else (SwitchConfig(leaf), SwitchConfig(leaf * 4)),
    )


def hosts(*leaves: int, devices: int = 8) -> list[Host]:
    """So many machines below each leaf switch, all leaves below one spine."""
    return [
        Host(f"h{leaf}-{i}", devices, (f"leaf{leaf}", "spine"))
        for leaf, count in enumerate(leaves)
        for i in range(count)
    ]


def keeps_switches(planned: Cluster, given: list[Host], names: dict[str, str]) -> bool:
    by_name = {host.name: host for host in given}
    size = planned.switches[0].nodes
    leaves: dict[int, set[str]] = {}
    for node in planned.nodes:
        leaves.setdefault(node.position // size, set()).add(by_name[names[node.host]].switches[0])
    return all(len(found) == 1 for found in leaves.values())


@given(st.randoms(use_true_random=False), st.integers(1, 4), st.integers(1, 5), st.integers(0, 2))
def test_any_order_of_the_right_machines_gives_an_equal_placement(
    random: object, leaves: int, leaf: int, spare: int
) -> None:
    planned = cluster(leaves * leaf, leaf)
    given_hosts = hosts(*[leaf] * leaves, spare)
    random.shuffle(given_hosts)  # type: ignore[attr-defined]
    names = matched(planned, given_hosts)
    assert names is not None
    assert len(set(names.values())) == len(planned.nodes)
    assert keeps_switches(planned, given_hosts, names)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.integers(1, 4), st.integers(1, 4))
def test_an_equal_placement_is_found_exactly_where_there_is_one(
    given_leaves: list[int], leaves: int, leaf: int
) -> None:
    names = matched(cluster(leaves * leaf, leaf), hosts(*given_leaves))
    assert (names is not None) == (sum(count // leaf for count in given_leaves) >= leaves)


def test_groups_that_fit_only_one_way_are_dealt_so() -> None:
    # Leaves of 3, 3 and 2 nodes onto switches of 5 and 3: the two is with the three.
    nodes = tuple(Node(f"n{i}", 8, 8, place) for i, place in enumerate((0, 1, 2, 4, 5, 6, 8, 9)))
    planned = dataclasses.replace(PLAN.cluster, nodes=nodes, switches=(SwitchConfig(4),))
    given_hosts = hosts(5, 3)
    names = matched(planned, given_hosts)
    assert names is not None
    assert keeps_switches(planned, given_hosts, names)
    assert matched(planned, hosts(4, 4)) is None


def test_names_that_fit_stay() -> None:
    planned = cluster(4, 2)
    given_hosts = [Host(f"n{i}", 8, (f"leaf{i // 2}", "spine")) for i in (3, 0, 2, 1)]
    assert matched(planned, given_hosts) == {f"n{i}": f"n{i}" for i in range(4)}


def test_unknown_switches_hold_nobody_back() -> None:
    assert matched(cluster(4, 2), [Host(f"h{i}", 8) for i in range(4)]) is not None
    assert matched(cluster(4, None), hosts(1, 3)) is not None


@pytest.mark.parametrize(("devices", "fits"), [([8, 4, 8], True), ([4, 4, 8], False), ([16, 8, 4], True)])
def test_machines_need_the_devices(devices: list[int], fits: bool) -> None:
    nodes = tuple(Node(f"n{i}", count, count, i) for i, count in enumerate((4, 8, 8)))
    planned = dataclasses.replace(PLAN.cluster, nodes=nodes)
    names = matched(planned, [Host(f"h{i}", count) for i, count in enumerate(devices)])
    assert (names is not None) == fits


def test_a_moved_plan_is_the_same_plan_elsewhere() -> None:
    names = {node.host: f"far-{node.host}" for node in PLAN.cluster.nodes}
    there = moved(PLAN, names)
    assert [d.index for d in there.placement.devices] == [d.index for d in PLAN.placement.devices]
    assert moved(there, {far: near for near, far in names.items()}) == PLAN
    assert there.cluster.world == PLAN.cluster.world


def test_a_cluster_made_of_machines_has_their_switches() -> None:
    made = made_of(cluster(4, 4), hosts(3, 2)[::-1])
    assert [node.position for node in made.nodes] == [0, 1, 4, 5, 6]
    assert [node.host for node in made.nodes] == ["h1-1", "h1-0", "h0-2", "h0-1", "h0-0"]
