"""Ranks onto devices, so that tensor-parallel groups stay on the fast link."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrate.errors import ConfigError
from orchestrate.plan.layout import ParallelDims, Placement
from orchestrate.plan.placement.reach import Reach, survey
from orchestrate.topology.cluster import Cluster
from orchestrate.topology.fabric import seats_at

__all__ = ["Reach", "place", "reach", "require_tp_inside_domains"]


def place(cluster: Cluster, dims: ParallelDims) -> Placement:
    """Logical ranks onto the devices of ``cluster`` as its nodes hang in the network, so that the first
    axis of ``dims.order`` (tp by default) varies over neighbouring devices, and the next over
    neighbouring nodes.

    Raises:
        ConfigError: the degrees do not make up the number of devices.
    """
    if dims.world != cluster.world:
        raise ConfigError(f"the layout has {dims.world} ranks, but the cluster {cluster.world} devices")
    return Placement(tuple(d for node in cluster.nodes_by_position for d in cluster.devices_of(node)))


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


def reach(cluster: Cluster, placement: Placement, groups: Iterable[tuple[int, ...]], axis: str = "") -> Reach:
    """What the worst placed of ``groups`` of ranks spans, with all of them communicating at once; ``axis``
    says which one they are of (only pp's differ: their messages go from stage to stage)."""
    return survey(cluster, seats_at(cluster, placement.devices), groups, axis=axis)
