"""What the sources report of one node, in the same words whichever source it was."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Distance(IntEnum):
    """What traffic between a GPU and an adapter crosses, the nearest first, as `nvidia-smi` ranks it."""

    pix = 1
    """At most one PCIe bridge."""
    pxb = 2
    """Several PCIe bridges."""
    phb = 3
    """The processor's host bridge."""
    node = 4
    """Several host bridges of one NUMA node."""
    sys = 5
    """The link between processors."""


@dataclass(frozen=True)
class Gpu:
    name: str | None = None
    """As the driver spells it; None where the source does not say, as all of these."""
    memory_gib: float | None = None
    pcie_gbps: float | None = None
    """GB/s in one direction over its PCIe slot."""


@dataclass(frozen=True)
class Wiring:
    """How the GPUs and adapters of a node hang together."""

    gpus: int
    nvlinks: tuple[tuple[int, ...], ...] | None
    """Links of the NVLink bundle between each two GPUs, 0 where there is none; None: not said."""
    switched: bool | None
    """Whether every NVLink leads to a switch, so that one bundle serves all peers; None: not said."""
    adapters: tuple[str, ...]
    distances: tuple[tuple[Distance, ...], ...]
    """By GPU, to each of `adapters`."""
    numa: tuple[str | None, ...] = ()
    """NUMA nodes of each GPU, as written."""

    def nearest(self) -> tuple[tuple[str, ...], ...]:
        """By GPU, the adapters that no other adapter is nearer than: those that NCCL picks for it."""
        return tuple(
            tuple(a for a, d in zip(self.adapters, row, strict=True) if d == min(row))
            for row in self.distances
        )


@dataclass(frozen=True)
class Adapter:
    name: str
    gbits: float | None
    """Gb/s of its ports that are up; None: not said."""
    up: bool = True
    layer: str | None = None
    """InfiniBand, Ethernet or what else it calls itself."""


def pcie_gbps(transfers: float, lanes: int) -> float:
    """GB/s in one direction of ``lanes`` PCIe lanes of ``transfers`` GT/s.

    PCI Express Base Specification: 8 bits of 10 are data up to 5 GT/s, 128 of 130 up to 32 GT/s, and 242
    bytes of the 256 of a flit from 64 GT/s on.
    """
    share = 8 / 10 if transfers <= 5 else 128 / 130 if transfers <= 32 else 242 / 256
    return transfers * lanes * share / 8
