"""Seconds of collectives over a group of ranks: the slowest link it crosses, and its latency."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log2

from orchestrate.plan.placement import Reach
from orchestrate.topology.cluster import Cluster

LINK_EFFICIENCY = {"nvlink": 0.8, "network": 0.95}
"""Share of the link's bandwidth that large messages reach. Fast link: NCCL's ring all-reduces on 8 A100
(232 of 300 GB/s) and 8 H100 (370 of 450). Network: on DGX A100 (192 of 200 GB/s a node) and DGX H100
(380 of 400). NVIDIA GTC 2024, S62129."""


@dataclass(frozen=True)
class Fabric:
    """What one group of ranks sends over: bytes per second of each rank, and seconds per hop."""

    size: int
    bandwidth: float
    latency: float

    def all_reduce(self, size: float) -> float:
        """Seconds to sum ``size`` bytes held by every rank: a ring's traffic
        (Patarasuk and Yuan 2009), a tree's number of hops."""
        if self.size == 1:
            return 0.0
        n = self.size
        return 2 * (n - 1) / n * size / self.bandwidth + 2 * ceil(log2(n)) * self.latency

    def reduce_scatter(self, size: float) -> float:
        """Seconds to leave each rank its share of the sum of ``size`` bytes."""
        if self.size == 1:
            return 0.0
        n = self.size
        return (n - 1) / n * size / self.bandwidth + min(n - 1, 2 * ceil(log2(n))) * self.latency

    def all_gather(self, size: float) -> float:
        """Seconds to bring ``size`` bytes together on every rank, each holding its share."""
        return self.reduce_scatter(size)

    def send(self, size: float) -> float:
        """Seconds for ``size`` bytes from one rank to a neighbour."""
        return 0.0 if self.size == 1 else size / self.bandwidth + self.latency


def fabric(cluster: Cluster, span: Reach) -> Fabric:
    """What a group that spans ``span`` sends over.

    Inside a domain that is the fast link. Across domains every member brings its own adapter to the
    network, so a ring that enters a domain once can use the adapters of all members there.
    """
    fast = cluster.nvlink.bandwidth_gbps * 1e9 * LINK_EFFICIENCY["nvlink"]
    if span.local:
        return Fabric(span.size, fast, cluster.nvlink.latency_us * 1e-6)
    slow = cluster.network.bandwidth_gbps * 1e9 * LINK_EFFICIENCY["network"] * span.together
    return Fabric(span.size, min(fast, slow), cluster.network.latency_us * 1e-6)
