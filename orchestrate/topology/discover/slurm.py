"""What Slurm knows: the tree of switches, and the GPUs of each node."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrate.errors import ConfigError
from orchestrate.topology.discover.hostlist import expand

_PAIR = re.compile(r"([A-Za-z]+)=(\S*)")


@dataclass(frozen=True)
class Switch:
    name: str
    hosts: tuple[str, ...]
    """Directly below it; those below its own switches are listed there."""
    switches: tuple[str, ...]
    link_speed: str | None
    """As written: Slurm gives it no unit and makes no use of it."""
    block: bool = False
    """Of topology/block, which does not describe what connects its blocks."""


@dataclass(frozen=True)
class Gres:
    """GPUs of a node, as Slurm counts them."""

    count: int
    kind: str | None
    """Its administrator's word for them (``gpu:h100:8``); None where there is none."""


def parse_topology(text: str, source: str) -> dict[str, Switch]:
    """The switches of `scontrol show topology` or of a topology.conf, by name, in their order.

    Blocks (topology/block) count as switches that nothing stands above.

    Raises:
        ConfigError: no switch in it, a name twice, a switch that nothing describes or that stands above
            itself, or a host list that cannot be read.
    """
    found: dict[str, Switch] = {}
    for fields in _records(text):
        switch = _switch(fields)
        if switch.name in found:
            raise ConfigError(f"{source}: the switch {switch.name} is described twice")
        found[switch.name] = switch
    if not found:
        raise ConfigError(f"{source}: no SwitchName= or BlockName=, as `scontrol show topology` prints them")
    for switch in found.values():
        for below in switch.switches:
            if below not in found:
                raise ConfigError(f"{source}: {switch.name} stands above {below}, which nothing describes")
    _check_acyclic(found, source)
    return found


def _records(text: str) -> list[dict[str, str]]:
    """The fields of each switch or block. A topology.conf has comments and any case, and may wrap lines."""
    lines = (line.partition("#")[0] for line in text.replace("\\\n", " ").splitlines())
    records: list[dict[str, str]] = []
    for key, value in _PAIR.findall("\n".join(lines)):
        if key.lower() in ("switchname", "blockname"):
            records.append({})
        if records:
            records[-1][key.lower()] = value
    # BlockSizes= stands alone in a topology.conf, after the blocks.
    return records


def _switch(fields: Mapping[str, str]) -> Switch:
    switches = expand(fields.get("switches", ""))
    return Switch(
        name=fields.get("switchname") or fields.get("blockname", ""),
        # `scontrol` repeats on a switch every host that is below its switches.
        hosts=() if switches else expand(fields.get("nodes", "")),
        switches=switches,
        link_speed=fields.get("linkspeed"),
        block="blockname" in fields,
    )


def _check_acyclic(switches: Mapping[str, Switch], source: str) -> None:
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise ConfigError(f"{source}: {name} stands above itself")
        if name not in done:
            for below in switches[name].switches:
                visit(below, (*above, name))
            done.add(name)

    for name in switches:
        visit(name, ())


def parse_nodes(text: str, source: str) -> dict[str, Gres]:
    """GPUs by host, from `scontrol show node`, with or without ``-o``; hosts without GPUs have a count of 0.

    Raises:
        ConfigError: no node in it.
    """
    found: dict[str, Gres] = {}
    for record in re.split(r"(?=\bNodeName=)", text):
        fields = dict(_PAIR.findall(record))
        if host := fields.get("NodeName"):
            found[host] = parse_gres(fields.get("Gres", ""))
    if not found:
        raise ConfigError(f"{source}: no NodeName=, as `scontrol show node` prints it")
    return found


def parse_gres(text: str) -> Gres:
    """Of ``gpu:h100:8(S:0-1),nic:2``, the GPUs; slices of a GPU (MIG) are one more kind."""
    kinds: dict[str | None, int] = {}
    for entry in re.sub(r"\([^)]*\)", "", text).split(","):
        name, *rest = entry.split(":")
        if name == "gpu":
            count = int(rest.pop()) if rest and rest[-1].isdecimal() else 1
            kind = rest[0] if rest else None
            kinds[kind] = kinds.get(kind, 0) + count
    named = "+".join(kind for kind in kinds if kind is not None)
    return Gres(sum(kinds.values()), named or None)
