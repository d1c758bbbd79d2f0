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
    """What a group of ranks spans: ``size`` members, at least ``together`` of them in each fast-link
    domain that it touches (``together == size``: it never leaves one)."""

    size: int
    together: int

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
