"""What groups of ranks span in the cluster, and what share of the network is left to each member when
all groups of an axis communicate at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

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
    aligned: bool = True
    """Whether traffic between nodes can stay on one rail: it is among adapters of equal index, or the fast
    link joins all devices of a node and takes it to that adapter."""
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

    def network_gbps(self, adapter: float, *, ring: bool = False) -> float:
        """GB/s that each member gets over the network through an ``adapter`` of so many, in the slowest cut
        and with all groups at it: of a collective in which the members of a domain each carry their part
        between domains, or with ``ring`` of messages to the next member."""
        return adapter * (self.ring_share if ring else self.network_share)

    def no_worse_than(self, other: Reach) -> bool:
        """Whether no algorithm is faster with ``other``'s span than with this one's."""
        return (
            self.together >= other.together
            and self.nodes <= other.nodes
            and self.per_node >= other.per_node
            and self.network_share >= other.network_share
            and self.ring_share >= other.ring_share
            and self.aligned >= other.aligned
            and sum(self.leaves) <= sum(other.leaves)
        )


@dataclass
class _Tally:
    """What the groups seen so far span, and what they send up out of each switch."""

    together: int
    per_node: int
    nodes: int = 1
    aligned: bool = True
    leaves: set[int] = field(default_factory=set)
    collective: list[Counter[int]] = field(default_factory=list)
    """By level and switch, how many groups' collectives leave it: each as much as one member would carry
    if it were alone in its domain."""
    messages: list[Counter[int]] = field(default_factory=list)
    """By level and switch, how many members' messages to the next leave it."""


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

    Between domains a collective runs as rings in the order in which the group enters them, one over each
    of its members there. In the uplinks of every switch these share what the switch lets out of the
    traffic of this cluster's nodes below it.
    """
    levels = range(len(cluster.switches))
    size = 0
    tally = _Tally(together=cluster.world, per_node=cluster.world)
    tally.collective, tally.messages = [Counter() for _ in levels], [Counter() for _ in levels]
    for group in groups:
        size = len(group) * members
        _add(cluster, seats, group, tally, members, alike)
    return _reach(cluster, tally, seats.below, size, axis)


def _add(
    cluster: Cluster, seats: Seats, group: Sequence[int], tally: _Tally, members: int, alike: int
) -> None:
    domains, nodes = [seats.domain[s] for s in group], [seats.node[s] for s in group]
    in_domain, in_node = Counter(domains), Counter(nodes)
    tally.together = min(tally.together, members * min(in_domain.values()))
    tally.per_node = min(tally.per_node, members * min(in_node.values()))
    tally.nodes = max(tally.nodes, len(in_node))
    if len(in_domain) == 1:
        return
    entered: dict[int, int] = {}
    for domain, seat in zip(domains, group, strict=True):
        entered.setdefault(domain, seat)
    rails = _rails(cluster, seats, group)
    following = [*group[1:], group[0]]
    for member, (a, b) in enumerate(zip(group, following, strict=True), start=1):
        if seats.domain[a] != seats.domain[b]:
            tally.leaves.add(members * member - 1)
            straight = rails is None or seats.node[a] == seats.node[b] or seats.index[a] == seats.index[b]
            tally.aligned &= straight
            _cross(cluster, seats, tally.messages, a, b, alike, straight)
    ring = list(entered.values())
    for a, b in zip(ring, [*ring[1:], ring[0]], strict=True):
        straight = (
            rails is None
            or seats.node[a] == seats.node[b]
            or rails[seats.domain[a]] == rails[seats.domain[b]]
        )
        _cross(cluster, seats, tally.collective, a, b, alike, straight)


def _rails(cluster: Cluster, seats: Seats, group: Sequence[int]) -> dict[int, frozenset[int]] | None:
    """By domain, the rails that the group's members there sit on; None where that does not matter."""
    if not cluster.rails or all(node.nvlink_domain >= node.devices for node in cluster.nodes):
        return None
    rails: dict[int, set[int]] = {}
    for seat in group:
        rails.setdefault(seats.domain[seat], set()).add(seats.index[seat])
    return {domain: frozenset(used) for domain, used in rails.items()}


def _cross(
    cluster: Cluster, seats: Seats, flows: list[Counter[int]], a: int, b: int, amount: int, straight: bool
) -> None:
    """Count what goes from seat ``a`` to ``b`` in every switch that it leaves upwards. From one rail to
    another it does so even below one leaf: rails meet in the spine."""
    for level, switch in enumerate(seats.switch):
        if switch[a] != switch[b] or (level == 0 and not straight):
            flows[level][switch[a]] += amount


def _reach(cluster: Cluster, tally: _Tally, below: Sequence[Counter[int]], size: int, axis: str) -> Reach:
    network = _share(cluster, below, tally.collective, tally.together)
    ring = _share(cluster, below, tally.messages, 1)
    return Reach(
        size=size,
        together=tally.together,
        nodes=tally.nodes,
        per_node=tally.per_node,
        network_share=ring if axis == "pp" else network,
        ring_share=ring,
        aligned=tally.aligned,
        leaves=tuple(member in tally.leaves for member in range(size)) if axis == "pp" else (),
    )


def _share(
    cluster: Cluster, below: Sequence[Counter[int]], flows: Sequence[Counter[int]], adapters: int
) -> float:
    """What is left of each of the ``adapters`` that carry one flow: the least over all uplinks."""
    return min(
        (
            1.0,
            *(
                below[level][switch] / (cluster.switches[level].oversubscription * flow * adapters)
                for level, switches in enumerate(flows)
                for switch, flow in switches.items()
            ),
        )
    )
