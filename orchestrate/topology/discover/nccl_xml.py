"""NCCL's view of a node: what NCCL_TOPO_DUMP_FILE writes and NCCL_TOPO_FILE reads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

from orchestrate.errors import ConfigError
from orchestrate.topology.discover.facts import Adapter, Distance, Gpu, Wiring, pcie_gbps

NAMES = {
    "0x1db1": "Tesla V100-SXM2-16GB",
    "0x1db5": "Tesla V100-SXM2-32GB",
    "0x20b0": "NVIDIA A100-SXM4-40GB",
    "0x20b2": "NVIDIA A100-SXM4-80GB",
    "0x2330": "NVIDIA H100 80GB HBM3",
    "0x2335": "NVIDIA H200",
    "0x2901": "NVIDIA B200",
    "0x26b9": "NVIDIA L40S",
}
"""The driver's name by NVIDIA's PCI device number (pci-ids.ucw.cz); the file has the number only."""

_NETWORK, _GPU_CLASS, _SWITCH = "0x02", "0x0302", "0x068000"
"""PCI classes: network controllers, 3D controllers, and what NVSwitches count as."""

_NUMBERS = {"dev", "link_width", "speed", "count"}
"""Attributes that are read as whole numbers."""


@dataclass(frozen=True)
class System:
    gpus: tuple[Gpu, ...]
    wiring: Wiring
    adapters: tuple[Adapter, ...]
    """In the order of ``wiring.adapters``."""


@dataclass(frozen=True)
class _Leaf:
    """A GPU or adapter, and the elements above it: the processor first, its own PCI function last."""

    path: tuple[ElementTree.Element, ...]
    element: ElementTree.Element

    @property
    def pci(self) -> ElementTree.Element:
        return self.path[-1]


def parse_system(text: str, source: str) -> System:
    """The node that NCCL's ``text`` describes; ``source`` names it in errors.

    Raises:
        ConfigError: not well-formed, a document type or entity in it, another root than ``system``, or no
            GPU.
    """
    root = _parse(text, source)
    gpus = sorted(_gpus(root), key=lambda leaf: int(leaf.element.get("dev", -1)))
    adapters = _adapters(root)
    if not gpus:
        raise ConfigError(f"{source}: no GPU in it (a gpu element, or a pci element of class {_GPU_CLASS}00)")
    nvlinks, switched = _nvlinks(gpus)
    return System(
        gpus=tuple(_gpu(leaf) for leaf in gpus),
        wiring=Wiring(
            gpus=len(gpus),
            nvlinks=nvlinks,
            switched=switched,
            adapters=tuple(adapters),
            distances=tuple(
                tuple(min(_distance(gpu, place) for place in places) for places in adapters.values())
                for gpu in gpus
            ),
            numa=tuple(leaf.path[0].get("numaid") for leaf in gpus),
        ),
        adapters=tuple(_adapter(name, places[0]) for name, places in adapters.items()),
    )


def _parse(text: str, source: str) -> ElementTree.Element:
    # Entities can only be declared in a document type, which NCCL never writes: without one, none can expand.
    if re.search(r"<!\s*(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise ConfigError(f"{source}: a document type or entity has no place in NCCL's topology")
    try:
        root = ElementTree.fromstring(text.strip())
    except ElementTree.ParseError as error:
        raise ConfigError(f"{source}: not XML: {error}") from None
    if root.tag != "system":
        raise ConfigError(f"{source}: the outermost element is <{root.tag}>, NCCL's is <system>")
    for element in root.iter():
        for name in sorted(_NUMBERS.intersection(element.keys())):
            if not re.fullmatch(r"-?[0-9]+", element.get(name, "")):
                raise ConfigError(f"{source}: {name}={element.get(name)!r} of a {element.tag}: not a number")
    return root


def _leaves(root: ElementTree.Element, tag: str) -> Iterator[_Leaf]:
    def walk(element: ElementTree.Element, above: tuple[ElementTree.Element, ...]) -> Iterator[_Leaf]:
        for child in element:
            if child.tag == tag:
                yield _Leaf(above, child)
            yield from walk(child, (*above, child) if child.tag in ("cpu", "pci") else above)

    for cpu in root.iter("cpu"):
        yield from walk(cpu, (cpu,))


def _functions(root: ElementTree.Element, kind: str) -> Iterator[_Leaf]:
    """PCI functions of the class ``kind``, which is all that hand-written files have."""
    for leaf in _leaves(root, "pci"):
        if leaf.element.get("class", "").startswith(kind):
            yield _Leaf((*leaf.path, leaf.element), leaf.element)


def _gpus(root: ElementTree.Element) -> list[_Leaf]:
    return list(_leaves(root, "gpu")) or list(_functions(root, _GPU_CLASS))


def _adapters(root: ElementTree.Element) -> dict[str, list[_Leaf]]:
    """Where each adapter is, by name: one without a PCI function is listed below every processor."""
    found: dict[str, list[_Leaf]] = {}
    for leaf in list(_leaves(root, "net")) or list(_functions(root, _NETWORK)):
        name = leaf.element.get("name", leaf.element.get("busid", "?"))
        found.setdefault(name, []).append(leaf)
    return found


def _gpu(leaf: _Leaf) -> Gpu:
    slot = leaf.pci
    transfers = re.match(r"(\d+(?:\.\d+)?) GT/s", slot.get("link_speed", ""))
    lanes = int(slot.get("link_width", 0))
    return Gpu(
        name=NAMES.get(slot.get("device", "")),
        pcie_gbps=pcie_gbps(float(transfers[1]), lanes) if transfers and lanes else None,
    )


def _adapter(name: str, leaf: _Leaf) -> Adapter:
    speed = leaf.element.get("speed")
    return Adapter(name, gbits=float(speed) / 1000 if speed else None)


def _distance(a: _Leaf, b: _Leaf) -> Distance:
    shared = sum(x is y for x, y in zip(a.path, b.path, strict=False))
    if shared == 0:
        return Distance.sys
    if shared == 1:
        return Distance.phb
    own = min(len(a.path), len(b.path)) - 1
    return Distance.pix if shared >= own and len(a.path) == len(b.path) else Distance.pxb


def _nvlinks(gpus: list[_Leaf]) -> tuple[tuple[tuple[int, ...], ...] | None, bool | None]:
    """Links between each two GPUs, and whether a switch is at their other end.

    A file without ``gpu`` elements says nothing of them.
    """
    if any(leaf.element.tag != "gpu" for leaf in gpus):
        return None, None
    places = {leaf.pci.get("busid"): at for at, leaf in enumerate(gpus)}
    direct = [[0] * len(gpus) for _ in gpus]
    to_switches = [0] * len(gpus)
    for at, leaf in enumerate(gpus):
        for link in leaf.element.iter("nvlink"):
            count = int(link.get("count", 0))
            target = places.get(link.get("target"))
            if target is not None:
                direct[at][target] += count
            elif link.get("tclass") == _SWITCH:
                # Not a GPU that the dump leaves out, nor the processor of a POWER9 node.
                to_switches[at] += count
    switched = any(to_switches)
    table = tuple(
        tuple(0 if a == b else direct[a][b] or min(to_switches[a], to_switches[b]) for b in range(len(gpus)))
        for a in range(len(gpus))
    )
    return table, switched if any(map(any, table)) else None
