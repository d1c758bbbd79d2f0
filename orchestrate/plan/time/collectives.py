"""Seconds of collectives and messages over a group of ranks, by the links that it crosses."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf, log2

from orchestrate.config import DeviceKind
from orchestrate.plan.placement.place import Reach
from orchestrate.topology.cluster import Cluster

LOCAL_PASS = 0.57
"""Share of a GPU's memory bandwidth at which each half of a ring collective also passes the message once
through memory. From NCCL's all-reduces of 1 GiB on 2 to 8 A100 (197 to 229 GB/s of bus bandwidth): all seven
follow from the link's 300 GB/s and this; those of H100 and B200 give 0.4 to 0.7."""
START_S = 25e-6
"""Seconds before a collective on GPUs moves anything. From the same all-reduces at 1 MiB."""


@dataclass(frozen=True)
class Fabric:
    """What one group of ranks sends over."""

    size: int
    bandwidth: float
    """Bytes per second of each rank around the ring."""
    latency: float
    """Seconds from the first to the last member and no further."""
    local: float = inf
    """Bytes per second at which a message passes through the device's own memory; infinite: unseen."""
    start: float = 0.0
    """Seconds before anything moves."""
    message: float = inf
    """Bytes per second of a message to the next member, which takes the sender's own adapter; infinite:
    unseen."""
    in_switch: float | None = None
    """Bus bandwidth in bytes per second of all-reduces that the switches sum; None: they do not."""

    def all_reduce(self, size: float) -> float:
        """Seconds to sum ``size`` bytes held by every rank: by ring (Patarasuk and Yuan 2009), with the
        hops of a tree where those are fewer, or in the switches where they can and it is faster."""
        ring = 2 * self.reduce_scatter(size) - self._started
        if self.in_switch is None or self.size == 1:
            return ring
        share = 2 * (self.size - 1) / self.size
        return min(ring, share * size / self.in_switch + 2 * self.latency + self.start)

    def reduce_scatter(self, size: float) -> float:
        """Seconds to leave each rank its share of the sum of ``size`` bytes."""
        if self.size == 1:
            return 0.0
        share = (self.size - 1) / self.size
        return share * size / self.bandwidth + size / self.local + self.latency + self.start

    @property
    def _started(self) -> float:
        return self.start if self.size > 1 else 0.0

    def all_gather(self, size: float) -> float:
        """Seconds to bring ``size`` bytes together on every rank, each holding its share."""
        return self.reduce_scatter(size)


def fabric(cluster: Cluster, span: Reach) -> Fabric:
    """What a group that spans ``span`` sends over.

    Inside a domain that is the fast link. Across domains every member brings its own adapter to the
    network, so a ring that enters a node (or a domain of many) once can use those of all members there.
    """
    cuda = cluster.device.kind is DeviceKind.cuda
    fast, network = cluster.nvlink, cluster.network
    bandwidth = message = fast.bandwidth_gbps * 1e9 * fast.efficiency
    latency = (min(span.size, span.together) - 1) * fast.latency_us
    summing = fast.in_switch_gbps
    if not span.local:
        adapter = network.bandwidth_gbps * 1e9 * network.efficiency
        share = min(span.network_share, span.adapter_share)
        bandwidth = min(bandwidth, adapter * span.adapters * share)
        message = min(message, adapter * span.ring_share)
        domains = ceil(span.size / span.together)
        latency += min(domains - 1, 2 * ceil(log2(domains)) + 2) * network.latency_us
        summing = network.in_switch_gbps if span.network_share >= 1 else None
    return Fabric(
        size=span.size,
        bandwidth=bandwidth,
        local=cluster.device.memory_bandwidth_gbps * 1e9 * LOCAL_PASS if cuda else inf,
        latency=latency * 1e-6,
        start=START_S if cuda else 0.0,
        message=message,
        in_switch=None if summing is None else summing * 1e9,
    )


def send(cluster: Cluster, span: Reach, size: float, leaves: bool) -> float:
    """Seconds for ``size`` bytes to the next member of a group that spans ``span``, out of its fast-link
    domain where it ``leaves``."""
    link, share = (cluster.network, span.network_share) if leaves else (cluster.nvlink, 1.0)
    start = START_S if cluster.device.kind is DeviceKind.cuda else 0.0
    return size / (link.bandwidth_gbps * 1e9 * link.efficiency * share) + link.latency_us * 1e-6 + start
