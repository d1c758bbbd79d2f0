"""Which device orders a layout can have: orders of the mesh axes over orders of the nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from math import gcd, prod

from orchestrate.plan.layout import AXES, ParallelDims, Placement
from orchestrate.plan.placement.reach import Reach, survey
from orchestrate.topology.cluster import Cluster, Node
from orchestrate.topology.fabric import Seats, is_regular, largest_seat, node_orders, seats_of


@dataclass(frozen=True)
class Arrangement:
    """Logical ranks of ``dims`` on the devices of ``nodes`` in order, and what each axis spans there."""

    dims: ParallelDims
    nodes: tuple[Node, ...]
    reach: dict[str, Reach]

    def placement(self, cluster: Cluster) -> Placement:
        """The device under every rank."""
        return Placement(tuple(device for node in self.nodes for device in cluster.devices_of(node)))


class Arranger:
    """The arrangements of layouts on one cluster that may be the fastest.

    With ``tp_anywhere`` tensor-parallel groups may leave their fast-link domain.
    """

    def __init__(self, cluster: Cluster, *, tp_anywhere: bool = False) -> None:
        self.cluster, self.tp_anywhere = cluster, tp_anywhere
        self._orders = [Reaches(cluster, nodes) for nodes in node_orders(cluster)]

    def best_guess(self, dims: ParallelDims) -> Arrangement:
        """``dims`` in its own axis order over the nodes as they hang in the network."""
        return Arrangement(dims, self._orders[0].nodes, self._orders[0].of(dims))

    def options(
        self, dims: ParallelDims, orders: Iterable[Sequence[str]] | None = None
    ) -> tuple[Arrangement, ...]:
        """Arrangements of ``dims`` with axis orders from ``orders`` (every one by default), but for those
        that are no better than another in any axis's reach. Where several are equal the one nearest to
        ``dims`` itself and to the network's own order of nodes stands for them.

        Empty where no order keeps tensor-parallel groups in their domains.
        """
        kept: list[Arrangement] = []
        for option in self._all(dims, orders):
            if any(_no_worse(other, option) for other in kept):
                continue
            kept = [other for other in kept if not _no_worse(option, other)]
            kept.append(option)
        return tuple(kept)

    def _all(self, dims: ParallelDims, orders: Iterable[Sequence[str]] | None) -> Iterator[Arrangement]:
        tried = [dims] if orders is None else []
        tried += [replace(dims, order=tuple(order)) for order in orders or permutations(AXES)]
        distinct: dict[tuple[str, ...], ParallelDims] = {}
        for layout in tried:  # axes of one rank may stand anywhere
            distinct.setdefault(tuple(a for a in layout.order if dims.degree(a) > 1), layout)
        for layout in distinct.values():
            for reaches in self._orders:
                if self.tp_anywhere or reaches.along(layout, "tp").local:
                    yield Arrangement(layout, reaches.nodes, reaches.of(layout))


def _no_worse(one: Arrangement, other: Arrangement) -> bool:
    return all(span.no_worse_than(other.reach[axis]) for axis, span in one.reach.items())


def _stride(dims: ParallelDims, axis: str) -> int:
    """Ranks from one member of a group of ``axis`` to the next."""
    return prod(dims.degree(a) for a in dims.order[: dims.order.index(axis)])


class Reaches:
    """Reach by axis of layouts whose ranks sit on the devices of ``nodes`` in order.

    Each depends only on the axis's stride and degree, and is worked out once. Where nodes are alike and
    groups nest with domains and switches, one group stands for all; else all are walked, by whole seats
    where they differ only within them.
    """

    def __init__(self, cluster: Cluster, nodes: tuple[Node, ...]) -> None:
        self.cluster, self.nodes = cluster, nodes
        self._regular = is_regular(cluster, nodes)
        self._largest = largest_seat(cluster)
        self._seats: dict[int, Seats] = {}
        self._known: dict[tuple[int, int, bool], Reach] = {}
        self._apart: dict[tuple[int, int, int, int], Reach] = {}

    def of(self, dims: ParallelDims) -> dict[str, Reach]:
        """What the groups of every axis of ``dims`` span; where cp cuts sequences also, as "replicas",
        those of dp and cp together, over which gradients are summed."""
        spans = {axis: self.along(dims, axis) for axis in AXES}
        return spans if dims.cp == 1 else {**spans, "replicas": self._replicas(dims)}

    def along(self, dims: ParallelDims, axis: str) -> Reach:
        """What the groups of ``axis`` span."""
        return self._known_or_new(axis, _stride(dims, axis), dims.degree(axis))

    def _known_or_new(self, axis: str, stride: int, degree: int) -> Reach:
        key = stride, degree, axis == "pp"
        if key not in self._known:
            self._known[key] = self._work_out(axis, stride, degree)
        return self._known[key]

    def _replicas(self, dims: ParallelDims) -> Reach:
        (near, degree), (far, times) = sorted((_stride(dims, a), dims.degree(a)) for a in ("cp", "dp"))
        if far == near * degree or times == 1:
            return self._known_or_new("", near, degree * times)
        key = near, degree, far, times
        if key not in self._apart:
            seat = gcd(self._largest, near)
            near, far = near // seat, far // seat
            seats = self._seats_of(seat)
            members = [b + a for b in range(0, far * times, far) for a in range(0, near * degree, near)]
            groups = (
                [start + member for member in members]
                for start in range(len(seats))
                if start // near % degree == 0 and start // far % times == 0
            )
            self._apart[key] = survey(self.cluster, seats, groups, alike=seat)
        return self._apart[key]

    def _work_out(self, axis: str, stride: int, degree: int) -> Reach:
        if degree == 1:
            return Reach(1, 1, 1, 1, leaves=(False,) if axis == "pp" else ())
        seat = self._largest
        if seat % stride == 0 and seat % (stride * degree) == 0:
            return Reach(degree, degree, 1, degree, leaves=(False,) * degree if axis == "pp" else ())
        if seat % stride == 0 and stride * degree % seat == 0:
            # The group fills whole seats with every stride-th device.
            members, alike = seat // stride, stride
            stride, degree = 1, stride * degree // seat
        else:
            seat = gcd(seat, stride)
            members, alike = 1, seat
            stride //= seat
        seats = self._seats_of(seat)
        if self._nested(seats, stride, degree):
            first = survey(
                self.cluster, seats, [range(0, stride * degree, stride)], axis=axis, members=members
            )
            return self._with_all_at_once(first, axis, seat, stride, degree, alike)
        groups = (
            range(low, low + stride * degree, stride)
            for high in range(0, len(seats) + 1 - stride * degree, stride * degree)
            for low in range(high, high + stride)
        )
        return survey(self.cluster, seats, groups, axis=axis, members=members, alike=alike)

    def _seats_of(self, size: int) -> Seats:
        if size not in self._seats:
            self._seats[size] = seats_of(self.cluster, self.nodes, size)
        return self._seats[size]

    def _blocks(self, seat: int) -> list[int]:
        """Seats of a node, of a domain, and below a switch of each level."""
        node = self.nodes[0]
        devices = (node.devices, node.nvlink_domain)
        return [max(1, size // seat) for size in devices] + self._switches(seat)

    def _switches(self, seat: int) -> list[int]:
        return [level.nodes * self.nodes[0].devices // seat for level in self.cluster.switches]

    def _nested(self, seats: Seats, stride: int, degree: int) -> bool:
        """Whether every group lies in the nodes, domains and switches as the first one does."""
        crossing_rails = self.cluster.rails and self.nodes[0].nvlink_domain < self.nodes[0].devices
        return (
            self._regular
            and not crossing_rails
            and all(
                block >= len(seats) or (len(seats) % block == 0 and _nests(block, stride, degree))
                for block in self._blocks(seats.size)
            )
        )

    def _with_all_at_once(
        self, first: Reach, axis: str, seat: int, stride: int, degree: int, alike: int
    ) -> Reach:
        """``first``, whose group stands for all of its axis, with the shares that all leave one another."""
        network = ring = 1.0
        for level, block in zip(self.cluster.switches, self._switches(seat), strict=True):
            if stride * degree > block:  # every group that is below such a switch leaves it, once
                groups = alike * min(stride, block)
                ring = min(ring, block * seat / (level.oversubscription * groups))
                network = min(network, block * seat / (level.oversubscription * groups * first.adapters))
        return replace(first, network_share=ring if axis == "pp" else network, ring_share=ring)


def _nests(block: int, stride: int, degree: int) -> bool:
    """Whether aligned blocks of so many seats hold groups of every ``stride``-th seat whole, or the same
    number of members of each group that they touch."""
    if stride % block == 0 or block % (stride * degree) == 0:
        return True
    return block % stride == 0 and stride * degree % block == 0
