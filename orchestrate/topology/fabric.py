"""What the devices of a cluster hang from: their domains, nodes and switches, seat by seat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

from orchestrate.topology.cluster import Cluster, Device, Node, domain


@dataclass(frozen=True)
class Seats:
    """Devices in some order, ``size`` neighbours of one domain and node to a seat. Each sequence has an
    entry for every seat; numbers name the same thing where they are equal, and have no other meaning."""

    size: int
    domain: Sequence[int]
    node: Sequence[int]
    block: Sequence[int]
    """What a ring through the network enters once: the node, or the domain of many nodes."""
    rails: Sequence[tuple[int, int]]
    """From which to before which of the node's devices its domain reaches."""
    switch: Sequence[Sequence[int]]
    """By level, the leaves first."""
    below: Sequence[Counter[int]]
    """By level, devices below each switch."""

    def __len__(self) -> int:
        return len(self.domain)


def seats_of(cluster: Cluster, nodes: Sequence[Node], size: int) -> Seats:
    """The devices of ``nodes`` in their order, ``size`` to a seat, which divides `largest_seat`."""
    return _seats(cluster, [(node, index) for node in nodes for index in range(0, node.devices, size)], size)


def seats_at(cluster: Cluster, devices: Sequence[Device]) -> Seats:
    """``devices`` in their order, one to a seat."""
    return _seats(cluster, [(cluster.node_of(device), device.index) for device in devices], 1)


def largest_seat(cluster: Cluster) -> int:
    """The most neighbouring devices that are surely in one domain and one node, wherever one starts."""
    return gcd(*(min(node.devices, node.nvlink_domain) for node in cluster.nodes))


def _seats(cluster: Cluster, places: Sequence[tuple[Node, int]], size: int) -> Seats:
    switch = [[node.position // level.nodes for node, _ in places] for level in cluster.switches]
    domains = _numbered([domain(node, index) for node, index in places])
    spanning = any(node.nvlink_domain > node.devices for node in cluster.nodes)
    nodes = [node.position for node, _ in places]
    return Seats(
        size=size,
        domain=domains,
        node=nodes,
        block=_numbered([domain(node, 0) for node, _ in places]) if spanning else nodes,
        rails=[_rails(node, index) for node, index in places],
        switch=switch,
        below=[Counter({s: size * seats for s, seats in Counter(level).items()}) for level in switch],
    )


def _numbered(names: Sequence[tuple[str, int]]) -> list[int]:
    numbers: dict[tuple[str, int], int] = {}
    return [numbers.setdefault(name, len(numbers)) for name in names]


def _rails(node: Node, index: int) -> tuple[int, int]:
    size = min(node.devices, node.nvlink_domain)
    first = index // size * size
    return first, first + size


def node_orders(cluster: Cluster) -> tuple[tuple[Node, ...], ...]:
    """Orders of the nodes worth trying: by position in the network, and, where nodes are missing, those
    below the fullest switches first, so that fewer groups straddle two."""
    levels = [
        (level.nodes, Counter(node.position // level.nodes for node in cluster.nodes))
        for level in reversed(cluster.switches)
    ]

    def fullest_first(node: Node) -> tuple[int, ...]:
        place = node.position
        return *(part for n, used in levels for part in (-used[place // n], place // n)), place

    fullest = tuple(sorted(cluster.nodes, key=fullest_first))
    return tuple(dict.fromkeys((cluster.nodes_by_position, fullest)))


def is_regular(cluster: Cluster, nodes: Sequence[Node]) -> bool:
    """Whether ``nodes`` are alike and fill the network from its first place on, in order."""
    first = nodes[0]
    return all(
        node.position == position
        and node.devices == first.devices
        and node.nvlink_domain == first.nvlink_domain
        for position, node in enumerate(nodes)
    )
