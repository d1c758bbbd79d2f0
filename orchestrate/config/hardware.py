"""What a cluster's file says: devices, links, switches, nodes."""

from __future__ import annotations

import dataclasses
from enum import Enum


class DType(str, Enum):
    bf16 = "bf16"
    fp16 = "fp16"
    fp32 = "fp32"
    fp64 = "fp64"

    @property
    def bytes(self) -> int:
        """Bytes of one element."""
        return {"bf16": 2, "fp16": 2, "fp32": 4, "fp64": 8}[self.value]


class DeviceKind(str, Enum):
    cuda = "cuda"
    cpu = "cpu"


@dataclasses.dataclass(frozen=True)
class DeviceConfig:
    """One accelerator of the cluster (all nodes alike)."""

    name: str
    kind: DeviceKind
    memory_gib: float
    memory_bandwidth_gbps: float
    """GB/s read or written by one device."""
    peak_tflops: dict[DType, float]
    """Dense peak by precision, TFLOP/s."""
    matmul_efficiency: float = 0.7
    """Share of the peak that large matrix products reach."""
    memory_efficiency: float = 0.9
    """Share of the memory bandwidth that operators between the products reach."""
    multiprocessors: int = 1
    """Units (SMs) that the tiles of a product are dealt to in waves; 1: no waves are modelled."""
    launch_us: float = 5.0
    """Least time from one operator to the next, however small: the host's part of starting it."""
    step_us: float = 0.0
    """Time of each step that no operator explains: loading, logging, waiting for one another."""
    crowding: float = 1.0
    """How many times faster a device computes while the others of its node wait: above 1 where processes
    share cores."""
    reserved_gib: float = 1.0
    """Taken before the first tensor: the CUDA context, or the Python process on a CPU."""
    price_per_hour: float | None = None
    """What one device costs for an hour, in any currency; null: no costs are reported."""


@dataclasses.dataclass(frozen=True)
class LinkConfig:
    """What one device can send over a kind of link."""

    bandwidth_gbps: float
    """GB/s in one direction per device."""
    latency_us: float
    """Of one hop of a collective, or of one message."""
    efficiency: float = 0.95
    """Share of the bandwidth that large collectives reach."""
    in_switch_gbps: float | None = None
    """Bus bandwidth of large all-reduces that the switches sum (NVLink SHARP, InfiniBand SHARP), GB/s per
    device; null: the switches only forward."""
    shared_by: int = 1
    """Devices that share one adapter and write to it directly, as pairs do where eight have four;
    ``bandwidth_gbps`` is one device's part. 1 also where any device reaches any adapter as well: over the
    fast link (NCCL's PXN, from 2.12 on), or through the host's memory."""


@dataclasses.dataclass(frozen=True)
class SwitchConfig:
    """One level of the network's tree of switches, the leaves first."""

    nodes: int
    """Consecutive nodes below one switch of this level; with rails, below one of each rail."""
    oversubscription: float = 1.0
    """How many times less bandwidth leaves such a switch upwards than its nodes can send: counted from the
    nodes, so that a spine of 2:1 over leaves of 2:1 has 4."""


@dataclasses.dataclass(frozen=True)
class NodeGroupConfig:
    """Nodes of another kind beside the cluster's own; null fields are the cluster's."""

    nodes: int
    gpus_per_node: int | None = None
    nvlink_domain: int | None = None
    """Null where the cluster's is null too: all devices of a node."""
    device: DeviceConfig | None = None


@dataclasses.dataclass(frozen=True)
class ClusterConfig:
    name: str
    nodes: int
    gpus_per_node: int
    device: DeviceConfig
    nvlink: LinkConfig
    """The fast link, inside a domain of `nvlink_domain` devices."""
    network: LinkConfig
    """The link between nodes."""
    nvlink_domain: int | None = None
    """Devices that share the fast link: a divisor of a node's, or whole nodes' (72 of NVL72); null: all
    of a node's."""
    hosts: tuple[str, ...] = ()
    """Host names in the order of the nodes; empty: node0, node1, …"""
    switches: tuple[SwitchConfig, ...] = ()
    """Levels of the network, the leaves first; empty: one switch that blocks nothing."""
    positions: tuple[int, ...] = ()
    """Where in the network each node sits, in the order of the nodes: node i hangs where the
    ``positions[i]``-th of the whole network would; empty: in order. For nodes that a scheduler hands out
    shuffled, or with gaps."""
    rails: bool = False
    """Whether each device's adapter has leaf switches of its own, shared by that index of all nodes."""
    groups: tuple[NodeGroupConfig, ...] = ()
    """Nodes of other kinds, after the cluster's own `nodes`."""
