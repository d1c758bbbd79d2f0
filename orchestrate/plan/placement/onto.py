"""A plan onto the machines that a scheduler gave, wherever among them it must go to be worth the same.

A plan counts on nodes and on which of them share switches, not on names: any machines do that have the
devices and hang together as closely. A scheduler names nodes in whatever order it likes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from orchestrate.plan.layout import Placement
from orchestrate.plan.plan import Plan
from orchestrate.topology.cluster import Cluster, Device, Node, domain

_TRIES = 20_000
"""Ways to deal nodes to switches that are looked at before giving up: the first is nearly always right."""


@dataclass(frozen=True)
class Host:
    """A machine that a node of a plan can be put on."""

    name: str
    devices: int
    switches: tuple[str, ...] = ()
    """Above it, the leaf first; empty where nobody knows."""

    def switch(self, level: int) -> str:
        """The one of ``level``, 0 for the leaf; what lies above the known ones is shared by all."""
        return self.switches[level] if level < len(self.switches) else ""


def matched(cluster: Cluster, hosts: Sequence[Host]) -> dict[str, str] | None:
    """For every node of ``cluster`` a machine of ``hosts``, so that nodes below one switch, or in one
    fast-link domain, stay so, and each has its devices; names by the node's. None where there is no way.

    Machines of the same name as their node are kept where all of them can be.
    """
    by_name = {host.name: host for host in hosts}
    nodes = cluster.nodes_by_position
    levels = _levels(cluster)
    if all(node.host in by_name for node in nodes):
        own = {node.host: by_name[node.host] for node in nodes}
        if _holds(nodes, own, levels):
            return {node.host: node.host for node in nodes}
    found = _deal(nodes, _by_switch(hosts), levels, iter(range(_TRIES)))
    return None if found is None else {name: host.name for name, host in found.items()}


def moved(plan: Plan, names: Mapping[str, str]) -> Plan:
    """``plan`` with its nodes on the machines that `matched` found."""
    nodes = tuple(replace(node, host=names[node.host]) for node in plan.cluster.nodes)
    devices = tuple(Device(names[device.host], device.index) for device in plan.placement.devices)
    return replace(plan, cluster=replace(plan.cluster, nodes=nodes), placement=Placement(devices))


def made_of(cluster: Cluster, hosts: Sequence[Host]) -> Cluster:
    """A cluster like ``cluster`` whose nodes are ``hosts``, where they hang in the network.

    Its nodes have as many devices as the largest of ``cluster``; how many of those a machine really has
    is for `replan` to be told.
    """
    largest = max(cluster.nodes, key=lambda node: node.devices)
    ordered = _by_switch(hosts)
    positions = [0]
    for before, host in pairwise(ordered):
        place = positions[-1] + 1
        for level, switches in enumerate(cluster.switches):
            if before.switch(level) != host.switch(level):
                place = -(-place // switches.nodes) * switches.nodes
        positions.append(place)
    nodes = (
        replace(largest, host=host.name, position=place, kind=0)
        for host, place in zip(ordered, positions, strict=True)
    )
    return replace(cluster, nodes=tuple(nodes))


_Level = tuple[Callable[[Node], object], int]
"""What nodes of a plan share, and the level of the real switches that then must be shared too."""


def _levels(cluster: Cluster) -> tuple[_Level, ...]:
    """From the top of the network down."""

    def switch(size: int) -> Callable[[Node], object]:
        return lambda node: node.position // size

    levels = [(switch(level.nodes), index) for index, level in enumerate(cluster.switches)]
    spanning = any(node.nvlink_domain > node.devices for node in cluster.nodes)
    # Machines that share a fast link hang below one leaf, if not below one of their own.
    return (*reversed(levels), *([(lambda node: domain(node, 0), 0)] if spanning else []))


def _holds(nodes: Sequence[Node], hosts: Mapping[str, Host], levels: Sequence[_Level]) -> bool:
    if any(hosts[node.host].devices < node.devices for node in nodes):
        return False
    for shared, level in levels:
        above: dict[object, str] = {}
        for node in nodes:
            switch = hosts[node.host].switch(level)
            if above.setdefault(shared(node), switch) != switch:
                return False
    return True


def _deal(
    nodes: Sequence[Node], hosts: Sequence[Host], levels: Sequence[_Level], tries: Iterator[int]
) -> dict[str, Host] | None:
    """Deal ``nodes`` to ``hosts``, the switches of the first level first, then below each of them."""
    if not levels:
        return _seat(nodes, hosts)
    (shared, level), *below = levels
    groups: dict[object, list[Node]] = {}
    for node in nodes:
        groups.setdefault(shared(node), []).append(node)
    bins: dict[str, list[Host]] = {}
    for host in hosts:
        bins.setdefault(host.switch(level), []).append(host)
    largest_first = sorted(groups.values(), key=len, reverse=True)
    for dealt in _dealings(largest_first, {name: len(members) for name, members in bins.items()}, tries):
        found: dict[str, Host] = {}
        for name, members in dealt.items():
            part = _deal(members, bins[name], below, tries)
            if part is None:
                break
            found |= part
        else:
            return found
    return None


def _dealings(
    groups: Sequence[Sequence[Node]], room: Mapping[str, int], tries: Iterator[int]
) -> Iterator[dict[str, list[Node]]]:
    """Ways to put whole groups into bins of so much room, the fullest fit first."""
    if not groups:
        yield {}
        return
    first, *others = groups
    fitting = [name for name, left in room.items() if left >= len(first)]
    for name in sorted(fitting, key=lambda name: room[name]):
        if next(tries, None) is None:
            return
        for rest in _dealings(others, {**room, name: room[name] - len(first)}, tries):
            yield {**rest, name: [*first, *rest.get(name, ())]}


def _seat(nodes: Sequence[Node], hosts: Sequence[Host]) -> dict[str, Host] | None:
    """A host for each of ``nodes``, all below one switch: those that need most devices choose first."""
    free = list(hosts)
    found: dict[str, Host] = {}
    for node in sorted(nodes, key=lambda node: -node.devices):
        enough = [host for host in free if host.devices >= node.devices]
        if not enough:
            return None
        found[node.host] = min(enough, key=lambda host: host.devices)
        free.remove(found[node.host])
    return found


def _by_switch(hosts: Sequence[Host]) -> list[Host]:
    """``hosts`` with those below one switch side by side, otherwise in their order."""
    first: dict[tuple[str, ...], int] = {}
    for index, host in enumerate(hosts):
        for level in range(len(host.switches)):
            first.setdefault(host.switches[level:], index)
    return sorted(hosts, key=lambda h: [first[h.switches[at:]] for at in reversed(range(len(h.switches)))])
