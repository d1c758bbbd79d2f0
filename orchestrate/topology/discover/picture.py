"""What was found, drawn for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrate.topology.discover.draft import MISSING, Draft, Value
from orchestrate.topology.discover.hostlist import compress
from orchestrate.topology.discover.reading import Reading
from orchestrate.topology.discover.tree import Arrangement, arrange

if TYPE_CHECKING:
    from rich.tree import Tree

SHOWN = 16
"""Leaves of a network, and GPUs of a node, that are drawn; the rest is counted."""


def picture(reading: Reading, draft: Draft) -> Tree:
    """A tree of switches, nodes and GPUs, and what is left to fill in."""
    from rich.markup import escape
    from rich.tree import Tree

    hosts = draft.keys.get("hosts")
    names = hosts.value if isinstance(hosts, Value) and isinstance(hosts.value, list) else []
    nodes, devices = draft.at("nodes"), draft.at("gpus_per_node")
    count = f"{nodes} node{'s' * (nodes != 1)} of {devices} x"
    tree = Tree(escape(f"{draft.at('name')}: {count} {_device(reading, draft)}"))
    if reading.switches is not None and len(names) > 1:
        _switches(tree, arrange(reading.switches, frozenset(map(str, names)), "Slurm's topology"))
    node = tree.add("each node")
    for line in _inside(reading, draft):
        node.add(escape(line))
    network = node.add(escape(f"network: {_link(draft, 'network')}"))
    for adapter in reading.adapters:
        speed = "" if adapter.gbits is None or not adapter.up else f"{adapter.gbits:g} Gb/s"
        network.add(escape(" ".join([adapter.name, adapter.layer or "", speed if adapter.up else "down"])))
    missing = draft.missing()
    if missing:
        left = tree.add("[bold]to fill in[/bold]")
        for key in missing:
            left.add(escape(f"cluster.{key}"))
    return tree


def _device(reading: Reading, draft: Draft) -> str:
    gpus = reading.gpus or (reading.system.gpus if reading.system else ())
    if gpus:
        return gpus[0].name or "GPUs of unknown name"
    device = draft.keys.get("device")
    name = device.get("name") if isinstance(device, dict) else None
    return str(name.value) if isinstance(name, Value) and name.value != MISSING else "GPUs of unknown name"


def _switches(tree: Tree, arrangement: Arrangement) -> None:
    from rich.markup import escape

    for above in arrangement.levels[:0:-1]:
        tree.add(
            escape(
                f"{len(above.switches)} switches of {above.nodes} nodes: {', '.join(above.switches[:SHOWN])}"
            )
        )
    if not arrangement.levels:
        return
    leaves = arrangement.levels[0]
    below = tree.add(f"{len(leaves.switches)} leaf switches of {leaves.nodes} nodes")
    first = 0
    for name, count in list(zip(leaves.switches, leaves.hosts, strict=True))[:SHOWN]:
        below.add(escape(f"{name}: {compress(arrangement.hosts[first : first + count])}"))
        first += count
    if len(leaves.switches) > SHOWN:
        below.add(f"and {len(leaves.switches) - SHOWN} more")


def _inside(reading: Reading, draft: Draft) -> list[str]:
    domain = draft.keys.get("nvlink_domain")
    size = domain.value if isinstance(domain, Value) else draft.at("gpus_per_node")
    lines = [f"domains of {'unknown size' if size == MISSING else size}: {_link(draft, 'nvlink')}"]
    wiring = reading.wiring
    if wiring is None:
        return lines
    nearest = wiring.nearest() if wiring.adapters else ((),) * wiring.gpus
    for gpu in range(min(wiring.gpus, SHOWN)):
        numa = wiring.numa[gpu] if gpu < len(wiring.numa) else None
        place = f", NUMA {numa}" if numa else ""
        near = f", nearest {', '.join(nearest[gpu])}" if nearest[gpu] else ""
        lines.append(f"GPU {gpu}{place}{near}")
    return lines


def _link(draft: Draft, name: str) -> str:
    bandwidth = draft.at(f"{name}.bandwidth_gbps")
    if bandwidth == MISSING:
        return "bandwidth not read"
    if isinstance(bandwidth, str):
        return "nothing crosses it"
    return f"{bandwidth:g} GB/s per device" if isinstance(bandwidth, int | float) else str(bandwidth)
