"""All that was read about a cluster, and what was looked for without success."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrate.topology.discover.cpu import Processor
from orchestrate.topology.discover.facts import Adapter, Gpu, Wiring
from orchestrate.topology.discover.nccl_xml import System
from orchestrate.topology.discover.slurm import Gres, Switch


@dataclass(frozen=True)
class Reading:
    """What each source gave; None or empty where there was none."""

    matrix: Wiring | None = None
    """`nvidia-smi topo -m`."""
    gpus: tuple[Gpu, ...] = ()
    """`nvidia-smi --query-gpu`."""
    links: tuple[tuple[float, ...], ...] = ()
    """`nvidia-smi nvlink --status`."""
    system: System | None = None
    """NCCL's topology file."""
    adapters: tuple[Adapter, ...] = ()
    """class/infiniband of sysfs."""
    switches: Mapping[str, Switch] | None = None
    """`scontrol show topology`, or topology.conf."""
    nodes: Mapping[str, Gres] | None = None
    """`scontrol show node`."""
    processor: Processor | None = None
    """Of this machine; None where it is not the one described."""
    host: str | None = None
    """This machine's name, likewise."""
    wanted: tuple[str, ...] = ()
    """Hosts that the cluster is to be made of; empty: all."""
    found: tuple[str, ...] = ()
    """What was read, in words."""
    missing: tuple[str, ...] = ()
    """What was looked for and not found, and why."""

    @property
    def wiring(self) -> Wiring | None:
        """The matrix, with what it leaves open filled from NCCL's file."""
        return self.matrix or (self.system.wiring if self.system else None)
