"""Ranks onto devices, so that tensor-parallel groups stay on the fast link."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrate.errors import ConfigError
from orchestrate.plan.layout import ParallelDims, Placement
from orchestrate.topology.cluster import Cluster


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
    """Whether traffic between nodes stays among adapters of equal index: on one rail."""
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


def place(cluster: Cluster, dims: ParallelDims) -> Placement:
    """Logical ranks onto the devices of ``cluster`` in order, so that the first axis of
    ``dims.order`` (tp by default) varies over neighbouring devices.

    Raises:
        ConfigError: the degrees do not make up the number of devices.
    """
    if dims.world != cluster.world:
        raise ConfigError(f"the layout has {dims.world} ranks, but the cluster {cluster.world} devices")
    return Placement(cluster.devices)


def require_tp_inside_domains(cluster: Cluster, dims: ParallelDims, placement: Placement) -> None:
    """Make sure that no tensor-parallel group leaves its fast-link domain.

    Raises:
        ConfigError: one does; the message names the first such group's devices.
    """
    for group in dims.groups("tp"):
        devices = [placement.devices[rank] for rank in group]
        if len({cluster.domain_of(device) for device in devices}) > 1:
            names = ", ".join(f"{d.host}:{d.index}" for d in devices)
            raise ConfigError(
                f"parallel.tp={dims.tp}: a group spans NVLink domains ({names}): use a parallel.tp that "
                f"divides the domain of {cluster.nvlink_domain} devices, an axis order that keeps tp first, "
                "or parallel.allow_tp_across_nodes=true"
            )


def reach(cluster: Cluster, placement: Placement, groups: Iterable[tuple[int, ...]]) -> Reach:
    """What the worst placed of ``groups`` of ranks spans."""
    spans = []
    for group in groups:
        domains = Counter(cluster.domain_of(placement.devices[rank]) for rank in group)
        spans.append(Reach(len(group), min(domains.values())))
    return min(spans, key=lambda span: span.together)
