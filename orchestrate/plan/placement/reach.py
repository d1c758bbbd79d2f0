"""What groups of ranks span in the cluster, and what share of the network is left to each member when
all groups of an axis communicate at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from orchestrate.topology.cluster import Cluster
from orchestrate.topology.fabric import Seats


@dataclass(frozen=True)
class Reach:
    """What the groups of one axis span, each number that of the worst placed group: ``size`` members, at
    least ``together`` of them in each fast-link domain that it touches (``together == size``: it never
    leaves one)."""

    size: int
    together: int
    nodes: int = 0
    """Nodes that it touches; 0: as many as ``together`` to a node makes."""
    per_node: int = 0
    """Least members in a node that it touches; 0: ``together``."""
    network_share: float = 1.0
    """Share of its adapter's bandwidth that each member gets in a collective (along pp: in a message to the
    next stage) when all groups of the axis communicate at once and meet in the switches' uplinks."""
    ring_share: float = 1.0
    """The same where every member sends to the next one of its group over its own adapter."""
    adapter_share: float = 1.0
    """Share of its members' parts of the adapters that a collective's rings use between nodes, where devices
    share adapters."""
    aligned: bool = True
    """Whether messages between nodes can stay on one rail: among adapters of equal index, to which the fast
    link takes them from the rest of a domain."""
    leaves: tuple[bool, ...] = ()
    """Along pp, by member: whether a message to the next one (the last one's: to the first) leaves the
    domain; empty along other axes."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", self.nodes or -(-self.size // self.together))
        object.__setattr__(self, "per_node", self.per_node or self.together)

    @property
    def local(self) -> bool:
        """Whether it stays within one domain."""
        return self.together == self.size

    @property
    def adapters(self) -> int:
        """How many members carry a collective's traffic between nodes, or between domains of many nodes,
        in parallel: all that it has in one."""
        return max(self.together, self.per_node) if self.nodes > 1 else self.together

    def no_worse_than(self, other: Reach) -> bool:
        """Whether no algorithm is faster with ``other``'s span than with this one's."""
        return (
            self.together >= other.together
            and self.nodes <= other.nodes
            and self.per_node >= other.per_node
            and self.network_share >= other.network_share
            and self.ring_share >= other.ring_share
            and self.adapter_share >= other.adapter_share
            and self.aligned >= other.aligned
            and sum(self.leaves) <= sum(other.leaves)
        )


def survey(
    cluster: Cluster,
    seats: Seats,
    groups: Iterable[Sequence[int]],
    *,
    axis: str = "",
    members: int = 1,
    alike: int = 1,
) -> Reach:
    """What the worst of ``groups`` of seats spans, each with ``members`` of the group to a seat. Of every
    group there are ``alike`` that differ only within the seats.

    Between nodes, or domains of many nodes, a collective runs as rings in the order in which the group
    enters them, one over each of its members there. In the uplinks of every switch these share what the
    switch lets out of the traffic of this cluster's nodes below it.
    """
    tally = _Tally(cluster, seats)
    for group in groups:
        tally.add(group)
    together, per_node = members * tally.together, members * tally.per_node
    ring = tally.share(tally.messages, alike)
    # The members that a node has of a group carry a collective's part each.
    network = tally.share(tally.collectives, alike * max(together, per_node))
    hops = range(tally.size * members) if axis == "pp" else ()
    return Reach(
        size=tally.size * members,
        together=together,
        nodes=tally.nodes,
        per_node=per_node,
        network_share=ring if axis == "pp" else network,
        ring_share=ring,
        adapter_share=_adapter_share(cluster, per_node) if tally.nodes > 1 else 1.0,
        aligned=tally.aligned,
        leaves=tuple((hop + 1) % members == 0 and hop // members in tally.leaves for hop in hops),
    )


def _adapter_share(cluster: Cluster, members: int) -> float:
    """`Reach.adapter_share` of groups with ``members`` in each node.

    A ring enters a node over an adapter by one device and leaves it over the same one by another. All
    devices of a node pair up so at their shared adapters, and a lone device uses its own; a group with
    some of a node's devices has pairs that are at different adapters, and what passes the processors
    between them is slower. The share is what all vTrain's runs with four and with two members in a node of
    eight devices and four adapters show: gradients took 2.0 (+- 0.6) and 3.7 (+- 0.5) times as long.
    """
    shared, devices = cluster.network.shared_by, cluster.nodes[0].devices
    if shared == 1 or members in (1, devices):
        return 1.0
    return min(1.0, max(1, members // shared) * shared / devices)


class _Tally:
    """What the groups seen so far span, counted in seats, and how much they send out of each switch."""

    def __init__(self, cluster: Cluster, seats: Seats) -> None:
        self.cluster, self.seats = cluster, seats
        self.size = self.nodes = 0
        self.together = self.per_node = cluster.world
        self.aligned = True
        self.leaves: set[int] = set()
        # By level and switch, how many rings of collectives, and how many messages to the next, go up.
        self.collectives: list[Counter[int]] = [Counter() for _ in cluster.switches]
        self.messages: list[Counter[int]] = [Counter() for _ in cluster.switches]
        self._several_rails = cluster.rails and any(first for first, _ in seats.rails)

    def add(self, group: Sequence[int]) -> None:
        """Count ``group`` of seats in."""
        seats = self.seats
        self.size = len(group)
        domains, nodes = [seats.domain[s] for s in group], [seats.node[s] for s in group]
        in_domain, in_node = Counter(domains), Counter(nodes)
        self.together = min(self.together, *in_domain.values())
        self.per_node = min(self.per_node, *in_node.values())
        self.nodes = max(self.nodes, len(in_node))
        if len(in_domain) == 1:
            return
        following = domains[1:] + domains[:1]
        self.leaves.update(hop for hop, (a, b) in enumerate(zip(domains, following, strict=True)) if a != b)
        blocks = [seats.block[s] for s in group]
        first = dict(zip(reversed(blocks), reversed(group), strict=True))
        ring = [first[block] for block in dict.fromkeys(blocks)]
        for level, switch in enumerate(seats.switch):
            _go_up(self.messages[level], [switch[s] for s in group])
            _go_up(self.collectives[level], [switch[s] for s in ring])
        if self._several_rails:
            self._change_rails(group, ring)

    def _change_rails(self, group: Sequence[int], ring: Sequence[int]) -> None:
        """Count the hops between nodes that have to change rails, which meet in the spine only: they go up
        even below one leaf."""
        seats = self.seats
        single = [set(range(*seats.rails[seat])) for seat in group]
        used: dict[int, set[int]] = {}
        for seat, rails in zip(group, single, strict=True):
            used.setdefault(seats.node[seat], set()).update(rails)
        several = [used[seats.node[seat]] for seat in ring]
        for a, b in _changing(seats, group, single):
            self.aligned = False
            _go_through_spine(seats, self.messages, a, b)
        for a, b in _changing(seats, ring, several):
            _go_through_spine(seats, self.collectives, a, b)

    def share(self, flows: Sequence[Counter[int]], adapters: int) -> float:
        """What is left of every adapter where ``adapters`` of them are behind each flow: the least over
        all uplinks."""
        shares = [1.0]
        for level, below, gone_up in zip(self.cluster.switches, self.seats.below, flows, strict=True):
            shares += [below[s] / (level.oversubscription * flow * adapters) for s, flow in gone_up.items()]
        return min(shares)


def _go_up(flows: Counter[int], switches: list[int]) -> None:
    """Count the hops of a ring through ``switches`` that leave one upwards."""
    if switches.count(switches[0]) < len(switches):
        following = switches[1:] + switches[:1]
        flows.update(a for a, b in zip(switches, following, strict=True) if a != b)


def _changing(seats: Seats, hops: Sequence[int], rails: Sequence[set[int]]) -> Iterator[tuple[int, int]]:
    """The hops of a ring that go from one node to another, whose rails are not all among the same."""
    following, others = [*hops[1:], hops[0]], [*rails[1:], rails[0]]
    for a, b, here, there in zip(hops, following, rails, others, strict=True):
        if seats.node[a] != seats.node[b] and not (here <= there or there <= here):
            yield a, b


def _go_through_spine(seats: Seats, flows: Sequence[Counter[int]], a: int, b: int) -> None:
    if flows and seats.switch[0][a] == seats.switch[0][b]:
        flows[0][seats.switch[0][a]] += 1
