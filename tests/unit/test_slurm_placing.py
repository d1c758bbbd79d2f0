"""A plan onto the nodes of a job: as it is, refused with both maps, or made anew."""

from __future__ import annotations

import dataclasses

import pytest

from launchers.slurm.allocation import Allocation
from launchers.slurm.placing import NoEqualPlacement, maps, place_on
from orchestrate.config import Config, LauncherConfig, SwitchConfig
from orchestrate.errors import ConfigError
from orchestrate.plan.placement.onto import Host
from orchestrate.plan.plan import Plan
from tests.equivalence.layouts import Layout, config_of, plan_of

CONFIG = config_of(Layout(dp=4))


def plan() -> Plan:
    """Two nodes of two devices, below one switch."""
    flat = plan_of(Layout(dp=4))
    (node,) = flat.cluster.nodes
    nodes = tuple(
        dataclasses.replace(node, host=f"node{i}", devices=2, nvlink_domain=2, position=i) for i in range(2)
    )
    cluster = dataclasses.replace(flat.cluster, nodes=nodes, switches=(SwitchConfig(4, 2.0),))
    placement = dataclasses.replace(flat.placement, devices=cluster.devices)
    return dataclasses.replace(flat, cluster=cluster, placement=placement)


def allocation(*hosts: Host) -> Allocation:
    return Allocation("12", 12, hosts, {}, {})


def config(**launcher: object) -> Config:
    return dataclasses.replace(CONFIG, launcher=LauncherConfig(**launcher))  # type: ignore[arg-type]


def host(name: str, devices: int = 2, leaf: str = "leaf1") -> Host:
    return Host(name, devices, (leaf, "spine"))


def test_the_plan_goes_where_it_is_worth_the_same() -> None:
    given = allocation(host("far", leaf="leaf2"), host("b"), host("a", 8))
    placed = place_on(plan(), CONFIG, given)
    assert not placed.changed
    assert {device.host for device in placed.plan.placement.devices} == {"a", "b"}


def test_nodes_that_are_out_are_not_used() -> None:
    given = allocation(host("a"), host("b"), host("c"))
    placed = place_on(plan(), CONFIG, given, frozenset({"b"}))
    assert {device.host for device in placed.plan.placement.devices} == {"a", "c"}


@pytest.mark.parametrize(
    ("hosts", "lacks"),
    [
        ([host("a")], "1 of 2 nodes"),
        ([host("a"), host("b", 1)], "a node with 1 devices where it needs 2"),
        ([host("a"), host("b", leaf="leaf2")], "nodes that share switches in another way"),
    ],
)
def test_nodes_that_are_not_what_the_plan_counts_on_are_refused(hosts: list[Host], lacks: str) -> None:
    with pytest.raises(NoEqualPlacement, match=f"job 12 did not get what the plan counts on: {lacks};"):
        place_on(plan(), CONFIG, allocation(*hosts))
    planned, given = zip(*maps(plan().cluster, hosts), strict=True)
    assert planned[0] == "switch 0: node0 (2), node1 (2)"
    assert given[0].startswith("leaf1: a (2)")


def test_a_plan_may_be_made_anew_for_what_was_given() -> None:
    given = allocation(host("a"), host("b", leaf="leaf2"))
    placed = place_on(plan(), config(replan=True), given)
    assert placed.changed
    assert placed.plan.dims.world == 4
    assert [node.position for node in placed.plan.cluster.nodes] == [0, 4]
    fewer = place_on(plan(), config(replan=True), allocation(host("a"), host("b", 1)))
    assert fewer.plan.global_batch == plan().global_batch
    assert fewer.plan.dims.world < 4
    with pytest.raises(ConfigError, match="no node left"):
        place_on(plan(), config(replan=True), allocation())
