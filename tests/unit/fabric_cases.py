"""Clusters of every kind for the tests of placement, and what a group spans by its plain definition."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import strategies as st

from orchestrate.plan.layout import AXES, ParallelDims, Placement
from orchestrate.plan.numbers import divisors
from orchestrate.plan.placement.reach import Reach
from orchestrate.topology.cluster import Cluster, Device, build_cluster
from tests.unit.plan_cases import make_config


def cluster_of(**sizes: Any) -> Cluster:
    """The cluster of the DGX H100 preset with keys such as ``nodes=4`` changed."""
    return build_cluster(make_config(**{f"cluster.{key}": value for key, value in sizes.items()}).cluster)


@st.composite
def clusters(draw: st.DrawFn, *, mixed: bool = True, gaps: bool = True) -> Cluster:
    """Small clusters: domains of parts of a node or of nodes, up to three levels of switches, rails, nodes
    that come shuffled or with gaps between them, and nodes of other sizes."""
    per_node = draw(st.sampled_from([1, 2, 4, 6, 8]))
    nodes_to_a_domain = draw(st.sampled_from([0, 0, 2, 3]))
    domain = per_node * nodes_to_a_domain or draw(st.sampled_from(divisors(per_node)))
    nodes = draw(st.integers(1, 12))
    switches, below, ratio = [], max(1, nodes_to_a_domain), 1.0
    for _ in range(draw(st.integers(0, 3))):
        below *= draw(st.integers(1, 4))
        ratio *= draw(st.sampled_from([1.0, 1.5, 2.0, 4.0]))
        switches.append({"nodes": below, "oversubscription": ratio})
    groups = []
    if mixed and nodes_to_a_domain == 0 and draw(st.booleans()):
        other = draw(st.sampled_from([2, 4, 8]))
        groups = [{"nodes": draw(st.integers(1, 4)), "gpus_per_node": other, "nvlink_domain": other}]
    total = nodes + sum(group["nodes"] for group in groups)
    places = range(2 * total if gaps and draw(st.booleans()) else total)
    positions = draw(st.permutations(places))[:total] if draw(st.booleans()) else ()
    return cluster_of(
        nodes=nodes,
        gpus_per_node=per_node,
        nvlink_domain=domain,
        switches=switches,
        positions=positions,
        rails=draw(st.booleans()),
        groups=groups,
        **{"network.shared_by": draw(st.sampled_from([1, 2]))},
    )


@st.composite
def layouts(draw: st.DrawFn, world: int) -> ParallelDims:
    """Degrees in any order of axes that make up ``world`` ranks."""
    degrees, left = {}, world
    for axis in draw(st.permutations(AXES))[:-1]:
        degrees[axis] = draw(st.sampled_from(divisors(left)))
        left //= degrees[axis]
    degrees.update({axis: left for axis in AXES if axis not in degrees})
    return ParallelDims(**degrees, order=tuple(draw(st.permutations(AXES))))


def spelled_out(cluster: Cluster, dims: ParallelDims, placement: Placement, axis: str) -> Reach:
    """`Reach` by its definition: every group, every member, every switch, one after another."""
    ranks = replicas(dims) if axis == "replicas" else dims.groups(axis)
    groups = [[placement.devices[rank] for rank in group] for group in ranks]
    together = per_node = dims.world
    nodes, aligned, outside = 1, True, set()
    rings: Counter[tuple[int, int]] = Counter()
    messages: Counter[tuple[int, int]] = Counter()
    for group in groups:
        domains = [cluster.domain_of(device) for device in group]
        hosts = [device.host for device in group]
        together = min(together, *(domains.count(domain) for domain in domains))
        per_node = min(per_node, *(hosts.count(host) for host in hosts))
        nodes = max(nodes, len(set(hosts)))
        for member in range(len(group)):
            a, b = group[member], group[(member + 1) % len(group)]
            if cluster.domain_of(a) != cluster.domain_of(b):
                outside.add(member)
                crosses = crosses_rails(cluster, [a], [b])
                aligned = aligned and not crosses
                messages.update(left_upwards(cluster, a, b, crosses))
        blocks = [block_of(cluster, device) for device in group]
        entered = list(dict.fromkeys(blocks))
        for i, block in enumerate(entered):
            after = entered[(i + 1) % len(entered)]
            here = [device for device in group if block_of(cluster, device) == block]
            there = [device for device in group if block_of(cluster, device) == after]
            if block != after:
                changes = crosses_rails(cluster, here, there)
                rings.update(left_upwards(cluster, here[0], there[0], changes))
    ring = share(cluster, messages, 1)
    return Reach(
        size=len(groups[0]),
        together=together,
        nodes=nodes,
        per_node=per_node,
        network_share=ring if axis == "pp" else share(cluster, rings, max(together, per_node)),
        ring_share=ring,
        adapter_share=of_shared_adapters(cluster, per_node) if nodes > 1 else 1.0,
        aligned=aligned,
        leaves=tuple(i in outside for i in range(dims.pp)) if axis == "pp" else (),
    )


def of_shared_adapters(cluster: Cluster, members: int) -> float:
    """What rings of ``members`` devices in each node use of their adapters, one or two devices to each."""
    devices = cluster.nodes[0].devices
    alone_or_all = cluster.network.shared_by == 1 or members in (1, devices)
    return 1.0 if alone_or_all else min(1.0, (members - members % 2) / devices)


def replicas(dims: ParallelDims) -> list[list[int]]:
    """Ranks that differ along dp and cp alone, ascending."""
    found: dict[tuple[int, int], list[int]] = {}
    for rank in range(dims.world):
        at = dims.coordinates(rank)
        found.setdefault((at.tp, at.pp), []).append(rank)
    return list(found.values())


def block_of(cluster: Cluster, device: Device) -> object:
    """What a ring enters once: the device's node, or its domain of many."""
    node = cluster.node_of(device)
    return cluster.domain_of(device) if node.nvlink_domain > node.devices else node.host


def crosses_rails(cluster: Cluster, here: list[Device], there: list[Device]) -> bool:
    """Whether traffic between the devices has to change to a rail that the fast link does not reach."""

    def reached(devices: list[Device]) -> set[int]:
        domains = {cluster.domain_of(device) for device in devices}
        same = cluster.devices_of(cluster.node_of(devices[0]))
        return {other.index for other in same if cluster.domain_of(other) in domains}

    a, b = reached(here), reached(there)
    return cluster.rails and here[0].host != there[0].host and not (a <= b or b <= a)


def left_upwards(cluster: Cluster, a: Device, b: Device, crosses: bool) -> list[tuple[int, int]]:
    """Level and number of each switch whose uplinks traffic from ``a`` to ``b`` takes."""
    here, there = cluster.node_of(a).position, cluster.node_of(b).position
    return [
        (level, here // switch.nodes)
        for level, switch in enumerate(cluster.switches)
        if here // switch.nodes != there // switch.nodes or (crosses and level == 0)
    ]


def share(cluster: Cluster, flows: Counter[tuple[int, int]], adapters: int) -> float:
    """What the fullest uplink leaves of the adapters' bandwidth."""
    least = 1.0
    for (level, number), flow in flows.items():
        switch = cluster.switches[level]
        devices = sum(n.devices for n in cluster.nodes if n.position // switch.nodes == number)
        least = min(least, devices / switch.oversubscription / (flow * adapters))
    return least
