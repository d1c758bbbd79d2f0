"""Clusters: presets, names, domains, links, and one-line errors for impossible ones."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrate.config import DType
from orchestrate.errors import ConfigError
from orchestrate.topology.cluster import Cluster, Device, build_cluster, config_of, resized
from tests.unit.fabric_cases import cluster_of, clusters
from tests.unit.plan_cases import CLUSTERS, make_config, preset


@pytest.mark.parametrize("name", CLUSTERS)
def test_preset_builds_and_carries_its_name(name: str) -> None:
    cluster = build_cluster(make_config(name, "gpt_tiny").cluster)
    assert cluster.name == name
    assert cluster.world == len(cluster.devices) > 0
    assert 0 < cluster.device.reserved_gib < cluster.device.memory_gib


@pytest.mark.parametrize("name", [name for name in CLUSTERS if not name.endswith("cpu")])
def test_fast_link_is_the_faster_one_on_gpu_nodes(name: str) -> None:
    cluster = build_cluster(make_config(name, "gpt_tiny").cluster)
    assert cluster.nvlink.bandwidth_gbps > cluster.network.bandwidth_gbps
    assert cluster.nvlink.latency_us <= cluster.network.latency_us


@given(nodes=st.integers(1, 9), per_domain=st.integers(1, 8), domains=st.integers(1, 4))
def test_devices_of_one_domain_share_the_fast_link(nodes: int, per_domain: int, domains: int) -> None:
    sizes = {"nodes": nodes, "gpus_per_node": per_domain * domains, "nvlink_domain": per_domain}
    config = make_config(**{f"cluster.{key}": size for key, size in sizes.items()})
    cluster = build_cluster(config.cluster)
    assert cluster.world == nodes * per_domain * domains == len(set(cluster.devices))
    members: dict[tuple[str, int], list[Device]] = {}
    for device in cluster.devices:
        members.setdefault(cluster.domain_of(device), []).append(device)
    assert {len(domain) for domain in members.values()} == {per_domain}
    first, *_ = cluster.devices
    for device in cluster.devices:
        fast = device in members[cluster.domain_of(first)]
        assert cluster.link(first, device) == (cluster.nvlink if fast else cluster.network)


def test_hosts_give_the_nodes_their_names() -> None:
    config = make_config(**{"cluster.nodes": 2, "cluster.hosts": ["b7", "a3"]})
    assert [node.host for node in build_cluster(config.cluster).nodes] == ["b7", "a3"]


@given(clusters())
def test_config_of_a_cluster_builds_an_equal_one(cluster: Cluster) -> None:
    assert build_cluster(config_of(cluster)) == cluster


@given(clusters())
def test_tp_that_divides_the_common_domain_divides_every_domain(cluster: Cluster) -> None:
    members: dict[tuple[str, int], int] = {}
    for device in cluster.devices:
        members[cluster.domain_of(device)] = members.get(cluster.domain_of(device), 0) + 1
    assert all(size % cluster.nvlink_domain == 0 for size in members.values())
    largest = max(d for d in range(1, 25) if all(size % d == 0 for size in members.values()))
    assert cluster.nvlink_domain >= largest


def test_nvl72_is_one_domain_of_eighteen_nodes() -> None:
    rack = build_cluster(make_config("gb200_nvl72").cluster)
    assert rack.world == rack.nvlink_domain == 72
    assert len({rack.domain_of(device) for device in rack.devices}) == 1
    racks = build_cluster(make_config("gb200_nvl72", **{"cluster.nodes": 36}).cluster)
    assert len({racks.domain_of(device) for device in racks.devices}) == 2


def test_parts_of_two_racks_have_a_common_domain() -> None:
    places = [*range(16), *range(18, 34)]
    sizes = {"cluster.nodes": 32, "cluster.positions": places}
    assert build_cluster(make_config("gb200_nvl72", **sizes).cluster).nvlink_domain == 64
    packed = build_cluster(make_config("gb200_nvl72", **{"cluster.nodes": 32}).cluster)
    assert packed.nvlink_domain == 8, "72 and 56 devices"


def test_pcie_pairs_leave_the_fast_link_inside_their_node() -> None:
    cluster = build_cluster(make_config("h100_nvl_pairs").cluster)
    first, second, third, *_ = cluster.devices
    assert cluster.link(first, second) == cluster.nvlink
    assert cluster.link(second, third) == cluster.network


def test_nodes_hang_where_their_positions_say() -> None:
    cluster = cluster_of(nodes=3, hosts=["a", "b", "c"], positions=[7, 0, 3])
    assert [node.host for node in cluster.nodes] == ["a", "b", "c"]
    assert [node.host for node in cluster.nodes_by_position] == ["b", "c", "a"]


def mixed_cluster() -> Cluster:
    return cluster_of(
        nodes=2,
        device={**preset("cluster/device", "h100_80gb"), "price_per_hour": 4.0},
        groups=[
            {
                "nodes": 1,
                "gpus_per_node": 4,
                "device": {**preset("cluster/device", "a100_40gb"), "price_per_hour": 1.5},
            }
        ],
    )


def test_slowest_device_sets_the_pace_of_a_mixed_cluster() -> None:
    cluster = mixed_cluster()
    assert cluster.shape == "2 x 8 + 1 x 4"
    assert cluster.world == 20
    assert cluster.nvlink_domain == 4
    assert cluster.device.peak_tflops[DType.bf16] == 312
    assert cluster.device.memory_gib == 40
    assert cluster.device.memory_bandwidth_gbps == 1555
    assert cluster.device.price_per_hour == pytest.approx((16 * 4.0 + 4 * 1.5) / 20)
    assert [cluster.config_of(node).memory_gib for node in cluster.nodes] == [80, 80, 40]


def test_mixed_cluster_is_what_its_config_says_again() -> None:
    cluster = mixed_cluster()
    assert build_cluster(config_of(cluster)) == cluster


def test_alike_nodes_in_two_groups_are_no_mixed_cluster() -> None:
    assert cluster_of(nodes=2, groups=[{"nodes": 1}]) == cluster_of(nodes=3)


def test_other_number_of_nodes_forgets_who_and_where_they_were() -> None:
    config = make_config(**{"cluster.nodes": 2, "cluster.hosts": ["a", "b"], "cluster.positions": [1, 0]})
    larger = build_cluster(resized(config.cluster, 5))
    assert [node.position for node in larger.nodes] == [0, 1, 2, 3, 4]


LEAF = {"nodes": 4, "oversubscription": 2}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"cluster.nodes": 0}, ["cluster.nodes=0", "at least 1"]),
        ({"cluster.gpus_per_node": 0}, ["cluster.gpus_per_node=0", "at least 1"]),
        (
            {"cluster.gpus_per_node": 7, "cluster.nvlink_domain": 8},
            ["nvlink_domain=8", "7 devices", "nearest is 7"],
        ),
        ({"cluster.nvlink_domain": 3}, ["nvlink_domain=3", "8 devices", "nearest is 2"]),
        ({"cluster.network.bandwidth_gbps": 0}, ["cluster.network.bandwidth_gbps=0", "above 0"]),
        ({"cluster.nvlink.bandwidth_gbps": -1}, ["cluster.nvlink.bandwidth_gbps=-1", "above 0"]),
        (
            {"cluster.network.bandwidth_gbps": float("nan")},
            ["cluster.network.bandwidth_gbps=nan", "a number"],
        ),
        ({"cluster.network.bandwidth_gbps": float("inf")}, ["cluster.network.bandwidth_gbps=inf"]),
        ({"cluster.network.latency_us": float("nan")}, ["cluster.network.latency_us=nan", "at least 0"]),
        ({"cluster.nvlink.efficiency": 0}, ["cluster.nvlink.efficiency=0", "above 0"]),
        ({"cluster.nvlink.efficiency": 1.2}, ["cluster.nvlink.efficiency=1.2", "at most 1"]),
        ({"cluster.nvlink.in_switch_gbps": 0}, ["cluster.nvlink.in_switch_gbps=0", "above 0"]),
        ({"cluster.nodes": 2, "cluster.hosts": ["a", "a"]}, ["1 different hosts", "cluster.nodes=2"]),
        ({"cluster.hosts": ["a", "a"]}, ["names 2 hosts", "cluster.nodes=1"]),
        ({"cluster.nvlink_domain": 20}, ["nvlink_domain=20", "8 devices", "nearest is 16"]),
        ({"cluster.nvlink_domain": 0}, ["nvlink_domain=0", "nearest is 1"]),
        ({"cluster.switches": [{"nodes": 0}]}, ["cluster.switches[0].nodes=0", "at least 1"]),
        ({"cluster.switches": [LEAF, {"nodes": 2}]}, ["cluster.switches[1].nodes=2", "multiple of the 4"]),
        (
            {"cluster.switches": [LEAF, {"nodes": 10, "oversubscription": 2}]},
            ["cluster.switches[1].nodes=10", "nodes of cluster.switches[0]", "nearest is 8"],
        ),
        (
            {"cluster.nvlink_domain": 24, "cluster.nodes": 6, "cluster.switches": [{"nodes": 4}]},
            ["cluster.switches[0].nodes=4", "3 nodes of an NVLink domain", "nearest is 3"],
        ),
        (
            {"cluster.switches": [{"nodes": 4, "oversubscription": 0.5}]},
            ["cluster.switches[0].oversubscription=0.5", "at least 1"],
        ),
        (
            {"cluster.switches": [{"nodes": 4, "oversubscription": float("nan")}]},
            ["cluster.switches[0].oversubscription=nan", "at least 1"],
        ),
        (
            {"cluster.switches": [LEAF, {"nodes": 8, "oversubscription": 1.5}]},
            ["cluster.switches[1].oversubscription=1.5", "nearest is 2"],
        ),
        ({"cluster.nodes": 2, "cluster.positions": [0]}, ["positions has 1 places", "cluster.nodes=2"]),
        ({"cluster.nodes": 2, "cluster.positions": [3, 3]}, ["positions has 3 twice"]),
        ({"cluster.nodes": 2, "cluster.positions": [0, -1]}, ["positions has -1", "from 0"]),
        ({"cluster.groups": [{"nodes": 0}]}, ["cluster.groups[0].nodes=0", "at least 1"]),
        (
            {"cluster.groups": [{"nodes": 1, "gpus_per_node": 7, "nvlink_domain": 8}]},
            ["cluster.groups[0].nvlink_domain=8", "7 devices", "nearest is 7"],
        ),
        (
            {"cluster.groups": [{"nodes": 1, "device": preset("cluster/device", "cpu_core")}]},
            ["cluster.groups[0].device.kind=cpu", "cuda"],
        ),
        (
            {
                "cluster.groups": [
                    {"nodes": 1, "device": {**preset("cluster/device", "a100_40gb"), "memory_gib": 0}}
                ]
            },
            ["cluster.groups[0].device.memory_gib=0", "above 0"],
        ),
    ],
)
def test_impossible_cluster_is_one_line(overrides: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        build_cluster(make_config(**overrides).cluster)
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in said), message
