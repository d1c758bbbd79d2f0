"""Placement on clusters of every kind: who sits where, what groups span, what the network leaves them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrate.plan.arrangement import Reaches
from orchestrate.plan.layout import Placement
from orchestrate.plan.placement import reach
from orchestrate.plan.reach import Reach
from orchestrate.topology.fabric import node_orders
from tests.unit.fabric_cases import clusters, layouts, spelled_out


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
            assert close(reach(cluster, placement, dims.groups(axis), axis), expected)
