"""The cluster as a tree: switches, below them nodes, in them devices with the ranks they hold.

Alike neighbours are folded into one with their number where the whole would be too large to look at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from orchestrate.plan.plan import Plan
from orchestrate.report.boxes import WIRE, Box, Ranks, Signature
from orchestrate.report.text import plural
from orchestrate.topology.cluster import Cluster, Device, Node

IN_FULL = 64
"""Nodes of the largest cluster that is drawn without folding."""
MOST = 96
"""Boxes drawn after folding; what is left out is counted."""


@dataclass(frozen=True)
class Fold:
    """One part of the tree, standing for ``times`` alike ones."""

    part: Box | Branch
    times: int = 1
    members: str = ""
    """Which they are, where they are more than one."""


@dataclass(frozen=True)
class Branch:
    """A switch, or the top of the network."""

    title: str
    detail: str
    children: tuple[Fold, ...]
    nodes: int
    wire: float = WIRE
    """Width of the line up from it, in pixels: thinner where it passes on less than its nodes can send."""
    left_out: int = 0
    """Boxes below that are not drawn."""

    @property
    def leaf(self) -> bool:
        """Whether nodes hang on it."""
        return isinstance(self.children[0].part, Box)

    @property
    def signature(self) -> Signature:
        return tuple((fold.part.signature, fold.times) for fold in self.children)


@dataclass(frozen=True)
class ClusterMap:
    root: Branch
    folded: bool
    """Whether alike parts were drawn once."""


def cluster_map(plan: Plan) -> ClusterMap:
    """The tree of ``plan``'s cluster."""
    ranks = Ranks.of(plan)
    folding = len(plan.cluster.nodes) > IN_FULL
    root = _tree(ranks, folding)
    boxes = sum(1 for _ in _boxes(root))
    return ClusterMap(_trim(root, MOST / boxes) if boxes > MOST else root, folding)


def _tree(ranks: Ranks, folding: bool) -> Branch:
    cluster = ranks.cluster
    nodes = cluster.nodes_by_position
    levels = [level for level in cluster.switches if level.nodes < len(nodes)]  # else it holds all: the top
    below = levels[0].nodes if levels else len(nodes)
    parts: list[tuple[int, Box | Branch]] = []
    for _, group in groupby(nodes, key=lambda node: node.position // below):
        parts += _boxes_of(ranks, group)
    for height, level in enumerate(levels):
        parts = [
            (group[0][0], _switch(cluster, height, at, [part for _, part in group], folding))
            for at, group in _grouped(parts, level.nodes)
        ]
    return _top(cluster, [part for _, part in parts], folding)


def _grouped(
    parts: Iterable[tuple[int, Box | Branch]], size: int
) -> Iterator[tuple[int, list[tuple[int, Box | Branch]]]]:
    for at, group in groupby(parts, key=lambda part: part[0] // size):
        yield at, list(group)


def _boxes_of(ranks: Ranks, nodes: Iterable[Node]) -> Iterator[tuple[int, Box]]:
    """The ``nodes`` below one switch with their positions, those of one fast-link domain in one box."""
    cluster = ranks.cluster
    for _, group in groupby(nodes, key=lambda node: cluster.domain_of(Device(node.host, 0))):
        members = tuple(group)
        yield members[0].position, Box(ranks, members)


def _switch(
    cluster: Cluster, height: int, index: int, parts: Sequence[Box | Branch], folding: bool
) -> Branch:
    level = cluster.switches[height]
    name = "leaf" if height == 0 else "spine" if height == 1 else f"level {height + 1}"
    nodes = sum(part.nodes if isinstance(part, Branch) else len(part.nodes) for part in parts)
    detail = f"{plural(nodes, 'node')}, {level.oversubscription:g}:1"
    return Branch(
        f"{name} {index}", detail, _fold(parts, folding), nodes, WIRE / max(1.0, level.oversubscription)
    )


def _top(cluster: Cluster, parts: Sequence[Box | Branch], folding: bool) -> Branch:
    nodes = len(cluster.nodes)
    if nodes == 1:
        return Branch("", "", _fold(parts, folding), nodes)
    detail = f"{plural(nodes, 'node')}, {cluster.network.bandwidth_gbps:g} GB/s per device, one way"
    if cluster.rails:
        detail += "; each leaf is a set of rails: devices of equal index share a switch"
    return Branch("network", detail, _fold(parts, folding), nodes)


def _fold(parts: Sequence[Box | Branch], folding: bool) -> tuple[Fold, ...]:
    if not folding:
        return tuple(Fold(part) for part in parts)
    alike: dict[Signature, list[Box | Branch]] = {}
    for part in parts:
        alike.setdefault(part.signature, []).append(part)
    return tuple(Fold(same[0], len(same), _members(same)) for same in alike.values())


def _members(parts: Sequence[Box | Branch]) -> str:
    """Which ``parts`` these are: the first and the last by name."""
    first, last = parts[0].title, parts[-1].title
    if isinstance(parts[0], Branch):
        last = last.split()[-1]  # leaf 0 … 3
    return f"{first} … {last}" if len(parts) > 1 else ""


def _boxes(branch: Branch) -> Iterator[Box]:
    for fold in branch.children:
        if isinstance(fold.part, Box):
            yield fold.part
        else:
            yield from _boxes(fold.part)


def _trim(branch: Branch, share: float) -> Branch:
    """The first ``share`` of the boxes below each switch, or of the switches where there are many."""
    keep = max(1, round(len(branch.children) * share)) if branch.leaf else len(branch.children)
    if not branch.leaf and len(branch.children) > MOST:
        keep = MOST
    kept = tuple(
        fold if isinstance(fold.part, Box) else replace(fold, part=_trim(fold.part, share))
        for fold in branch.children[:keep]
    )
    return replace(branch, children=kept, left_out=len(branch.children) - keep)
