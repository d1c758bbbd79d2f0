"""The cluster as the planner sees it: named nodes, their devices, and the links between them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from orchestrate.config import ClusterConfig, DeviceConfig, LinkConfig
from orchestrate.errors import ConfigError


@dataclass(frozen=True)
class Node:
    host: str
    devices: int
    nvlink_domain: int
    """Consecutive devices that share the fast link; divides ``devices``."""


@dataclass(frozen=True, order=True)
class Device:
    """One accelerator, by the node's host name and its index in the node."""

    host: str
    index: int


@dataclass(frozen=True)
class Cluster:
    name: str
    nodes: tuple[Node, ...]
    device: DeviceConfig
    nvlink: LinkConfig
    network: LinkConfig

    @cached_property
    def world(self) -> int:
        """Devices in all."""
        return sum(node.devices for node in self.nodes)

    @cached_property
    def devices(self) -> tuple[Device, ...]:
        """Every device, node by node."""
        return tuple(device for node in self.nodes for device in self.devices_of(node))

    def devices_of(self, node: Node) -> tuple[Device, ...]:
        """The devices of ``node`` in their order."""
        return tuple(Device(node.host, index) for index in range(node.devices))

    @cached_property
    def nvlink_domain(self) -> int:
        """Devices of the smallest fast-link domain: the largest TP group that always fits."""
        return min(node.nvlink_domain for node in self.nodes)

    def domain_of(self, device: Device) -> tuple[str, int]:
        """Identifier of the fast-link domain that ``device`` sits in."""
        return device.host, device.index // self._domains[device.host]

    @cached_property
    def _domains(self) -> dict[str, int]:
        return {node.host: node.nvlink_domain for node in self.nodes}

    def link(self, a: Device, b: Device) -> LinkConfig:
        """The link that traffic from ``a`` to ``b`` crosses."""
        return self.nvlink if self.domain_of(a) == self.domain_of(b) else self.network


def build_cluster(config: ClusterConfig) -> Cluster:
    """The cluster that ``config`` describes.

    Raises:
        ConfigError: a count below one, domains that do not divide a node, host names of the
            wrong number, or a bandwidth that is not positive.
    """
    for key, value in (("nodes", config.nodes), ("gpus_per_node", config.gpus_per_node)):
        if value < 1:
            raise ConfigError(f"cluster.{key}={value}: needs at least 1")
    domain = config.gpus_per_node if config.nvlink_domain is None else config.nvlink_domain
    if domain < 1 or config.gpus_per_node % domain:
        nearest = max(
            d
            for d in range(1, config.gpus_per_node + 1)
            if config.gpus_per_node % d == 0 and d <= max(domain, 1)
        )
        raise ConfigError(
            f"cluster.nvlink_domain={domain}: must divide the {config.gpus_per_node} devices of a node; "
            f"nearest is {nearest}"
        )
    for name, link in (("nvlink", config.nvlink), ("network", config.network)):
        if link.bandwidth_gbps <= 0:
            raise ConfigError(f"cluster.{name}.bandwidth_gbps={link.bandwidth_gbps:g}: must be above 0")
    hosts = config.hosts or tuple(f"node{i}" for i in range(config.nodes))
    if len(set(hosts)) != config.nodes:
        raise ConfigError(
            f"cluster.hosts names {len(set(hosts))} different hosts, but cluster.nodes={config.nodes}"
        )
    return Cluster(
        name=config.name,
        nodes=tuple(Node(host, config.gpus_per_node, domain) for host in hosts),
        device=config.device,
        nvlink=config.nvlink,
        network=config.network,
    )
