"""Slurm's tree of switches as the levels, and the order of hosts, that a cluster file describes."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

from orchestrate.errors import ConfigError
from orchestrate.topology.discover.slurm import Switch


@dataclass(frozen=True)
class Level:
    nodes: int
    """Places below one switch of this level; the fullest has as many hosts as places."""
    switches: tuple[str, ...]
    hosts: tuple[int, ...]
    """Hosts below each of `switches`."""


@dataclass(frozen=True)
class Arrangement:
    hosts: tuple[str, ...]
    """Leaf by leaf, so that neighbours in the network are neighbours in the list."""
    levels: tuple[Level, ...]
    """The leaves first; a level of one switch, which nothing leaves upwards, is left out."""
    positions: tuple[int, ...]
    """Where each host sits among the places; empty where they are filled in order without gaps."""


def arrange(switches: Mapping[str, Switch], wanted: Set[str] | None, source: str) -> Arrangement:
    """The hosts in ``wanted`` (None: all) below the switches that connect them.

    A switch with fewer hosts than its neighbours keeps the places that it does not fill, as `levels` describe
    switches of equal size.

    Raises:
        ConfigError: no host left, one below two switches, or hosts that no switch connects.
    """
    children = _children(switches)
    hosts = {name: _hosts(name, switches, children, wanted) for name in switches}
    below = {name for found in children.values() for name in found}
    roots = [name for name in switches if name not in below and hosts[name]]
    if not roots:
        raise ConfigError(f"{source}: no switch has one of the hosts looked for below it")
    if len(roots) > 1 and not all(switches[name].block for name in roots):
        raise ConfigError(
            f"{source}: nothing connects {' and '.join(roots[:3])}; choose the hosts below one of them with "
            "topology.hosts"
        )
    grouped = _levels(roots, switches, children, hosts)
    order = [host for _, found in grouped[0] for host in found]
    if len(set(order)) < len(order):
        twice = next(host for host in order if order.count(host) > 1)
        raise ConfigError(f"{source}: {twice} is below more than one switch")
    sizes, places = _places(grouped)
    levels = tuple(
        Level(size, tuple(name for name, _ in groups), tuple(len(found) for _, found in groups))
        for size, groups in zip(sizes, grouped, strict=True)
        if len(groups) > 1
    )
    positions = tuple(places[host] for host in order)
    return Arrangement(tuple(order), levels, () if positions == tuple(range(len(order))) else positions)


_Group = tuple[str, tuple[str, ...]]
"""A switch, and the hosts below it."""


def _children(switches: Mapping[str, Switch]) -> dict[str, tuple[str, ...]]:
    """The switches of each; of those that several name, the first keeps it (as planes of a network do)."""
    owner: dict[str, str] = {}
    for name, switch in switches.items():
        for below in switch.switches:
            owner.setdefault(below, name)
    return {name: tuple(b for b in switch.switches if owner[b] == name) for name, switch in switches.items()}


def _hosts(
    name: str,
    switches: Mapping[str, Switch],
    children: Mapping[str, tuple[str, ...]],
    wanted: Set[str] | None,
) -> tuple[str, ...]:
    own = tuple(host for host in switches[name].hosts if wanted is None or host in wanted)
    return own + tuple(host for below in children[name] for host in _hosts(below, switches, children, wanted))


def _levels(
    roots: list[str],
    switches: Mapping[str, Switch],
    children: Mapping[str, tuple[str, ...]],
    hosts: Mapping[str, tuple[str, ...]],
) -> list[list[_Group]]:
    """Groups of hosts by level, the leaves first. A leaf beside taller branches is its own group in them."""

    def height(name: str) -> int:
        return (
            0
            if switches[name].hosts
            else 1 + max((height(b) for b in children[name] if hosts[b]), default=-1)
        )

    def groups(name: str, level: int) -> list[_Group]:
        if height(name) <= level:
            return [(name, hosts[name])]
        return [group for below in children[name] if hosts[below] for group in groups(below, level)]

    tallest = max(map(height, roots))
    return [[group for root in roots for group in groups(root, level)] for level in range(tallest + 1)]


def _places(levels: list[list[_Group]]) -> tuple[list[int], dict[str, int]]:
    """Places below one switch of each level, and the place of each host."""
    sizes = [max(len(found) for _, found in levels[0])]
    places = {host: at for _, found in levels[0] for at, host in enumerate(found)}
    everything = [("", tuple(places))]
    for inner, outer in zip(levels, [*levels[1:], everything], strict=True):
        owner = {host: at for at, (_, found) in enumerate(outer) for host in found}
        members = [0] * len(outer)
        for _, found in inner:
            at = owner[found[0]]
            for host in found:
                places[host] += members[at] * sizes[-1]
            members[at] += 1
        sizes.append(sizes[-1] * max(members))
    return sizes[: len(levels)], places
