"""The devices of a node, or of a fast-link domain of several nodes, as a box of coloured cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from orchestrate.plan.layout import Coordinates, ParallelDims
from orchestrate.plan.plan import Plan
from orchestrate.report.colours import GROUPS
from orchestrate.topology.cluster import Cluster, Device, Node

CELL = 22
"""Width and height of a device, in pixels, as all lengths here."""
GAP = 3
"""Between devices of one fast-link domain."""
APART = 8
"""Between domains of one node."""
PAD = 6
LABEL = 54
"""Room for the host names of a box of several nodes."""
LETTERS = 8
"""Characters of a host name that fit there."""
WIRE = 4.0
"""Width of the line to a switch that passes on all that comes from below."""
ACROSS = 4
"""Devices in a row of a node of up to twice as many."""

Signature = tuple[object, ...]


@dataclass(frozen=True)
class Cell:
    """One device."""

    x: float
    y: float
    tip: str
    tp_group: int | None
    """None: the plan places no rank here."""
    stage: int = 0
    replica: int = 0

    @property
    def classes(self) -> str:
        """By which the style sheet colours it."""
        if self.tp_group is None:
            return "idle"
        groups = len(GROUPS)
        return f"t{self.tp_group % groups} p{self.stage} d{self.replica % groups}"


@dataclass(frozen=True)
class Frame:
    """The outline of a fast-link domain."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Label:
    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Ranks:
    """Who sits where, for looking up device by device."""

    cluster: Cluster
    dims: ParallelDims
    by_device: Mapping[Device, int]

    @classmethod
    def of(cls, plan: Plan) -> Ranks:
        devices = plan.placement.devices
        return cls(plan.cluster, plan.dims, {device: rank for rank, device in enumerate(devices)})

    def at(self, device: Device) -> Coordinates | None:
        """The coordinates of the rank on ``device``; None where there is none."""
        rank = self.by_device.get(device)
        return None if rank is None else self.dims.coordinates(rank)

    def cell(self, device: Device, x: float, y: float) -> Cell:
        """``device`` drawn at ``x``, ``y``."""
        name, at = f"{device.host}:{device.index}", self.at(device)
        if at is None:
            return Cell(x, y, f"{name}\nno rank", None)
        dims, rank = self.dims, self.by_device[device]
        group = (at.pp * dims.dp + at.dp) * dims.cp + at.cp
        lines = [f"{name} · rank {rank}", f"tensor parallel {at.tp} of {dims.tp}, group {group}"]
        lines += [f"context parallel {at.cp} of {dims.cp}"] if dims.cp > 1 else []
        lines += [f"stage {at.pp} of {dims.pp}", f"replica {at.dp} of {dims.dp}"]
        return Cell(x, y, "\n".join(lines), group, at.pp, at.dp)

    def signature(self, nodes: Sequence[Node]) -> Signature:
        """What ``nodes`` hold, replicas counted from the first that they hold."""
        held = [self.at(device) for node in nodes for device in self.cluster.devices_of(node)]
        first = min((at.dp for at in held if at is not None), default=0)
        shape = tuple((node.devices, node.nvlink_domain, node.kind) for node in nodes)
        return shape, tuple(None if at is None else (at.tp, at.cp, at.pp, at.dp - first) for at in held)


@dataclass(frozen=True)
class Box:
    """One node, or several that share a fast-link domain: devices in rows, each domain in a frame."""

    ranks: Ranks
    nodes: tuple[Node, ...]

    @cached_property
    def signature(self) -> Signature:
        """Equal for boxes that differ only in the replicas they hold."""
        return self.ranks.signature(self.nodes)

    @property
    def title(self) -> str:
        return self._named(lambda host: host.split(".")[0])

    @property
    def full_title(self) -> str:
        """With the hosts' domains."""
        return self._named(str)

    def _named(self, name: Callable[[str], str]) -> str:
        first, last = name(self.nodes[0].host), name(self.nodes[-1].host)
        return first if len(self.nodes) == 1 else f"{first} … {last}"

    @property
    def kind(self) -> str:
        """The accelerator, where the cluster has several."""
        cluster = self.ranks.cluster
        return cluster.config_of(self.nodes[0]).name if cluster.kinds else ""

    @property
    def wire(self) -> float:
        return WIRE

    @property
    def width(self) -> float:
        return max(cell.x for cell in self.cells) + CELL + GAP + PAD

    @property
    def height(self) -> float:
        return max(cell.y for cell in self.cells) + CELL + GAP + PAD

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        return tuple(self.ranks.cell(*at) for at in self._placed)

    @cached_property
    def frames(self) -> tuple[Frame, ...]:
        corners: dict[object, list[tuple[float, float]]] = {}
        for device, x, y in self._placed:
            corners.setdefault(self.ranks.cluster.domain_of(device), []).append((x, y))
        frames = []
        for at in corners.values():
            left, top = min(x for x, _ in at) - GAP, min(y for _, y in at) - GAP
            right, bottom = max(x for x, _ in at) + CELL + GAP, max(y for _, y in at) + CELL + GAP
            frames.append(Frame(left, top, right - left, bottom - top))
        return tuple(frames)

    @cached_property
    def labels(self) -> tuple[Label, ...]:
        """Host names beside the rows, where a box holds several nodes."""
        if len(self.nodes) == 1:
            return ()
        rows = {device.host: y for device, _, y in self._placed if device.index == 0}
        return tuple(Label(PAD, y + CELL / 2, _short(host)) for host, y in rows.items())

    @property
    def _across(self) -> int:
        """Devices in a row."""
        most = max(node.devices for node in self.nodes)
        return min(most, ACROSS if most <= 2 * ACROSS and len(self.nodes) == 1 else 2 * ACROSS)

    @cached_property
    def _placed(self) -> list[tuple[Device, float, float]]:
        """Devices with where their cells begin."""
        across, left = self._across, PAD + GAP + (LABEL if len(self.nodes) > 1 else 0)
        placed, top = [], float(PAD + GAP)
        for node in self.nodes:
            inside = math.gcd(node.nvlink_domain, node.devices)
            for device in self.ranks.cluster.devices_of(node):
                row, column = divmod(device.index, across)
                # Domains that do not fill a row stand apart along it, others one below the other.
                apart_x = column // inside if inside < across else 0
                apart_y = row * across // inside if inside < node.devices else 0
                x = left + column * (CELL + GAP) + apart_x * APART
                y = top + row * (CELL + GAP) + apart_y * APART
                placed.append((device, float(x), y))
            top = placed[-1][2] + CELL + GAP
        return placed


def _short(host: str) -> str:
    """The end of ``host``, where the number is, if all of it does not fit."""
    name = host.split(".")[0]
    return name if len(name) <= LETTERS else "…" + name[1 - LETTERS :]
