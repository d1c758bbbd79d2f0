"""Clusters: presets, names, domains, links, and one-line errors for impossible ones."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrate.errors import ConfigError
from orchestrate.topology.cluster import Device, build_cluster
from tests.unit.plan_cases import CLUSTERS, make_config


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
        ({"cluster.nodes": 2, "cluster.hosts": ["a", "a"]}, ["1 different hosts", "cluster.nodes=2"]),
    ],
)
def test_impossible_cluster_is_one_line(overrides: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        build_cluster(make_config(**overrides).cluster)
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in said), message
