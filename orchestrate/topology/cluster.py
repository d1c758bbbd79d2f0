"""The cluster as the planner sees it: named nodes, their devices, the links and switches between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from math import gcd

from orchestrate.config import ClusterConfig, DeviceConfig, LinkConfig, NodeGroupConfig, SwitchConfig
from orchestrate.topology.possible import require_possible


@dataclass(frozen=True)
class Node:
    host: str
    devices: int
    nvlink_domain: int
    """Devices that share the fast link: consecutive ones of the node (a divisor of ``devices``), or all of
    consecutive nodes' (a multiple)."""
    position: int
    """Where in the network it hangs, counted in nodes."""
    kind: int = 0
    """Index into the cluster's ``kinds`` of device; 0 where all are alike."""


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
    """The accelerator; of a mixed cluster what all of them can do: the slowest one's pace, the smallest
    memory."""
    nvlink: LinkConfig
    network: LinkConfig
    switches: tuple[SwitchConfig, ...] = ()
    """Levels of the network, the leaves first."""
    rails: bool = False
    """Whether devices of equal index share leaf switches of their own."""
    kinds: tuple[DeviceConfig, ...] = ()
    """By ``Node.kind``; empty where every node has ``device``."""

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
    def nodes_by_position(self) -> tuple[Node, ...]:
        """The nodes as they hang in the network, those of one switch side by side."""
        return tuple(sorted(self.nodes, key=lambda node: node.position))

    @cached_property
    def nvlink_domain(self) -> int:
        """The largest TP group that fits every fast-link domain a whole number of times."""
        sizes = Counter[tuple[str, int]]()
        for node in self.nodes:
            for first in range(0, node.devices, node.nvlink_domain):
                sizes[domain(node, first)] += min(node.devices, node.nvlink_domain)
        return gcd(*sizes.values())

    @cached_property
    def shape(self) -> str:
        """Nodes and their devices in short: ``4 x 8``, or ``4 x 8 + 2 x 4`` where they differ."""
        runs = groupby(node.devices for node in self.nodes)
        return " + ".join(f"{len(list(run))} x {devices}" for devices, run in runs)

    @cached_property
    def device_names(self) -> str:
        """What the accelerators are called: ``H100``, or ``H100 and A100`` where they differ."""
        return " and ".join(dict.fromkeys(kind.name for kind in self.kinds or (self.device,)))

    def domain_of(self, device: Device) -> tuple[str, int]:
        """Identifier of the fast-link domain that ``device`` sits in."""
        return domain(self.node_of(device), device.index)

    def node_of(self, device: Device) -> Node:
        """The node that ``device`` sits in."""
        return self._by_host[device.host]

    def config_of(self, node: Node) -> DeviceConfig:
        """What the accelerators of ``node`` are."""
        return self.kinds[node.kind] if self.kinds else self.device

    @cached_property
    def _by_host(self) -> dict[str, Node]:
        return {node.host: node for node in self.nodes}

    def link(self, a: Device, b: Device) -> LinkConfig:
        """The link that traffic from ``a`` to ``b`` crosses."""
        return self.nvlink if self.domain_of(a) == self.domain_of(b) else self.network


def domain(node: Node, index: int) -> tuple[str, int]:
    """Identifier of the fast-link domain of the ``index``-th device of ``node``."""
    if node.nvlink_domain <= node.devices:
        return node.host, index // node.nvlink_domain
    nodes = node.nvlink_domain // node.devices
    return f"{nodes} nodes", node.position // nodes  # no host name has a space


def build_cluster(config: ClusterConfig) -> Cluster:
    """The cluster that ``config`` describes.

    Raises:
        ConfigError: counts, domains, bandwidths, switches, positions or host names that cannot be; the
            first problem, in one line.
    """
    require_possible(config)
    nodes, kinds = list(_nodes(config)), [config.device]
    kinds += [config.device if group.device is None else group.device for group in config.groups]
    mixed = len(set(map(_frozen, kinds))) > 1
    return Cluster(
        name=config.name,
        nodes=tuple(nodes if mixed else (replace(node, kind=0) for node in nodes)),
        device=_common(kinds, Counter(node.kind for node in nodes for _ in range(node.devices))),
        nvlink=config.nvlink,
        network=config.network,
        switches=config.switches,
        rails=config.rails,
        kinds=tuple(kinds) if mixed else (),
    )


def _nodes(config: ClusterConfig) -> Iterator[Node]:
    groups = [NodeGroupConfig(config.nodes), *config.groups]
    total = sum(group.nodes for group in groups)
    hosts = iter(config.hosts or (f"node{i}" for i in range(total)))
    positions = iter(config.positions or range(total))
    for kind, group in enumerate(groups):
        devices = group.gpus_per_node or config.gpus_per_node
        size = group.nvlink_domain or config.nvlink_domain or devices
        for _ in range(group.nodes):
            yield Node(next(hosts), devices, size, next(positions), kind)


def config_of(cluster: Cluster) -> ClusterConfig:
    """The config that `build_cluster` makes an equal cluster of."""
    first, *others = [
        list(run) for _, run in groupby(cluster.nodes, lambda n: (n.kind, n.devices, n.nvlink_domain))
    ]
    kind = first[0]
    positions = tuple(node.position for node in cluster.nodes)
    return ClusterConfig(
        name=cluster.name,
        nodes=len(first),
        gpus_per_node=kind.devices,
        device=cluster.config_of(kind),
        nvlink=cluster.nvlink,
        network=cluster.network,
        nvlink_domain=kind.nvlink_domain,
        hosts=tuple(node.host for node in cluster.nodes),
        switches=cluster.switches,
        positions=() if positions == tuple(range(len(positions))) else positions,
        rails=cluster.rails,
        groups=tuple(
            NodeGroupConfig(len(run), run[0].devices, run[0].nvlink_domain, cluster.config_of(run[0]))
            for run in others
        ),
    )


def resized(config: ClusterConfig, nodes: int) -> ClusterConfig:
    """``config`` with ``nodes`` nodes of its own, which then have no names or places of their own."""
    return replace(config, nodes=nodes, hosts=(), positions=())


def _common(kinds: list[DeviceConfig], devices: Counter[int]) -> DeviceConfig:
    """What every one of ``kinds`` can do, ``devices`` of each: the pace of the slowest, for nobody gets
    ahead of the ranks that it waits for, and the smallest memory. The price is the mean one."""
    if len(kinds) == 1:
        return kinds[0]
    shared = [dtype for dtype in kinds[0].peak_tflops if all(dtype in kind.peak_tflops for kind in kinds)]

    peaks = {dtype: min(k.peak_tflops[dtype] * k.matmul_efficiency for k in kinds) for dtype in shared}
    slowest = min(kinds, key=lambda kind: min(kind.peak_tflops.values()) * kind.matmul_efficiency)
    prices = [kind.price_per_hour for kind in kinds]
    known = [price for price in prices if price is not None]
    mean = sum(price * devices[i] for i, price in enumerate(known)) / devices.total()
    return replace(
        slowest,
        peak_tflops={dtype: peak / slowest.matmul_efficiency for dtype, peak in peaks.items()},
        memory_gib=min(kind.memory_gib for kind in kinds),
        memory_bandwidth_gbps=min(kind.memory_bandwidth_gbps for kind in kinds),
        launch_us=max(kind.launch_us for kind in kinds),
        step_us=max(kind.step_us for kind in kinds),
        reserved_gib=max(kind.reserved_gib for kind in kinds),
        price_per_hour=mean if len(known) == len(kinds) else None,
    )


def _frozen(kind: DeviceConfig) -> str:
    return repr(kind)  # a mapping in it has no hash
