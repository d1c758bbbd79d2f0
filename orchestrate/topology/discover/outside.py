"""The network between nodes, as a cluster file describes it: adapters, hosts and switches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from orchestrate.errors import ConfigError
from orchestrate.topology.discover.draft import MISSING, Remark, Section, Value
from orchestrate.topology.discover.facts import Adapter
from orchestrate.topology.discover.hostlist import compress
from orchestrate.topology.discover.inside import LATENCY, Inside
from orchestrate.topology.discover.reading import Reading
from orchestrate.topology.discover.slurm import Gres
from orchestrate.topology.discover.tree import Arrangement, arrange


def network(reading: Reading, inside: Inside, nodes: int) -> Section:
    """The ``network`` section: what each GPU can send out of its node."""
    rates = _rates(reading)
    nearest, left_out = _used_adapters(reading, rates)
    parts = inside.domain.value
    if not nearest and nodes == 1 and not _adapters_seen(reading):
        if isinstance(parts, int) and parts < inside.devices:
            note = "one node, no adapter: between the NVLink domains of the node, over PCIe"
            return _link(round(inside.pcie, 1) if inside.pcie else MISSING, note)
        # Copied, not guessed: with one node nothing crosses it.
        note = "no adapter, and one node: nothing crosses it. Fill this in where there are more nodes"
        return {
            "bandwidth_gbps": Value("${cluster.nvlink.bandwidth_gbps}", note),
            "latency_us": Value("${cluster.nvlink.latency_us}"),
        }
    if not nearest:
        return _link(MISSING, _why_no_adapters(reading))
    unknown = [name for name in nearest if rates[name].gbits is None]
    if unknown:
        return _link(
            MISSING,
            f"GB/s per GPU. Adapters nearest to a GPU: {_names(nearest)}; no rate of "
            f"{'any' if unknown == nearest else _names(unknown)} was read (sysfs has them)",
        )
    gbits = sum(rates[name].gbits or 0.0 for name in nearest)
    note = f"{_count(nearest, rates)} for {inside.devices} GPUs: {_names(nearest)}"
    if left_out:
        note += f". Not counted, no GPU is nearest to them or they are down: {_names(left_out)}"
    return _link(gbits / 8 / inside.devices, note)


def rails(reading: Reading) -> Remark | None:
    """What is known of rails; None where GPUs share adapters."""
    wiring = reading.wiring
    nearest = wiring.nearest() if wiring and wiring.adapters else ()
    if len(nearest) < 2 or any(len(set(own)) != 1 for own in nearest) or len(set(nearest)) < len(nearest):
        return None
    return Remark(
        "not read. Each GPU has an adapter of its own; true if adapters of equal place in all nodes share "
        "leaf switches that no others use"
    )


def _rates(reading: Reading) -> dict[str, Adapter]:
    """Adapters by name; sysfs knows which are up, NCCL lists only those that are."""
    known = {adapter.name: adapter for adapter in (reading.system.adapters if reading.system else ())}
    known.update({adapter.name: adapter for adapter in reading.adapters})
    wiring = reading.wiring
    for name in wiring.adapters if wiring else ():
        known.setdefault(name, Adapter(name, None))
    return known


def _adapters_seen(reading: Reading) -> bool:
    return bool(_rates(reading))


def _used_adapters(reading: Reading, rates: Mapping[str, Adapter]) -> tuple[list[str], list[str]]:
    """The adapters that are up and nearest to some GPU, which are those that NCCL picks; and the others.

    Without distances a single adapter is what there is; which of several serve the GPUs is not known.
    """
    up = [name for name, adapter in rates.items() if adapter.up]
    wiring = reading.wiring
    if wiring is None or not wiring.adapters:
        return (up, [name for name in rates if name not in up]) if len(up) == 1 else ([], [])
    keep = [at for at, name in enumerate(wiring.adapters) if name in up]
    alive = replace(
        wiring,
        adapters=tuple(wiring.adapters[at] for at in keep),
        distances=tuple(tuple(row[at] for at in keep) for row in wiring.distances),
    )
    near = {name for own in (alive.nearest() if keep else ()) for name in own}
    used = [name for name in alive.adapters if name in near]
    return used, [name for name in rates if name not in used]


def _why_no_adapters(reading: Reading) -> str:
    if not _adapters_seen(reading):
        return "GB/s per GPU. No adapter was found"
    names = [f"{name} {_rate(adapter)}" for name, adapter in _rates(reading).items()]
    return (
        "GB/s per GPU. Which adapters serve the GPUs was not read (nvidia-smi topo -m shows it); there are "
        + _names(names)
    )


def _rate(adapter: Adapter) -> str:
    return "down" if not adapter.up else "" if adapter.gbits is None else f"{adapter.gbits:g} Gb/s"


def _count(names: list[str], rates: Mapping[str, Adapter]) -> str:
    """``8 adapters of 400 Gb/s``."""
    counted = Counter(rates[name].gbits or 0.0 for name in names)
    return " and ".join(f"{n} adapter{'s' * (n > 1)} of {rate:g} Gb/s" for rate, n in counted.items())


def _names(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 12 else f"{', '.join(names[:12])} and {len(names) - 12} more"


def _link(bandwidth: object, note: str) -> Section:
    return {"bandwidth_gbps": Value(bandwidth, note), "latency_us": Value(MISSING, LATENCY)}


def choose_hosts(reading: Reading, inside: Inside | None) -> tuple[list[str] | None, int | None, str]:
    """Slurm's nodes like the one that was read: their names, GPUs of each, and a note.

    Names are None where Slurm was not read, in the order of Slurm else.

    Raises:
        ConfigError: no such node, or nodes of several kinds that nothing tells apart.
    """
    if reading.nodes is None:
        hosts = _hosts_of_tree(reading)
        note = (
            "hosts of Slurm's tree; their GPUs were not read (scontrol show node has them)" if hosts else ""
        )
        return hosts, None, note
    wanted = set(reading.wanted) or set(reading.nodes)
    if unknown := wanted - set(reading.nodes):
        raise ConfigError(f"topology.hosts: Slurm has no node {sorted(unknown)[0]}")
    kinds = Counter(gres for host, gres in reading.nodes.items() if host in wanted and gres.count)
    if not kinds and inside is None:
        return None, None, "this machine; none of Slurm's nodes has a GPU"
    chosen = _like(kinds, inside)
    hosts = [host for host, gres in reading.nodes.items() if gres == chosen and host in wanted]
    note = f"Slurm's nodes with {_gres(chosen)}"
    if others := [f"{n} with {_gres(gres)}" for gres, n in kinds.items() if gres != chosen]:
        note += f"; not among them: {', '.join(others)}"
    return hosts, chosen.count, note


def _hosts_of_tree(reading: Reading) -> list[str] | None:
    if reading.switches is None:
        return list(reading.wanted) or None
    wanted = set(reading.wanted)
    names = (host for switch in reading.switches.values() for host in switch.hosts)
    return list(dict.fromkeys(name for name in names if not wanted or name in wanted))


def _like(kinds: Counter[Gres], inside: Inside | None) -> Gres:
    if not kinds:
        raise ConfigError("none of Slurm's nodes has a GPU (Gres=gpu:…)")
    listed = ", ".join(f"{n} with {_gres(gres)}" for gres, n in kinds.items())
    fitting = [gres for gres in kinds if inside is None or gres.count == inside.devices]
    if not fitting and inside is not None:
        raise ConfigError(
            f"the node that was read shows {inside.devices} GPUs, but Slurm has {listed}: read a whole node, "
            "outside a job or in one that has all its GPUs"
        )
    if len(fitting) > 1 and inside is not None and inside.name is not None:
        words = inside.name.lower().replace("-", " ").split()
        fitting = [gres for gres in fitting if (gres.kind or "").lower() in words]
    if len(fitting) != 1:
        raise ConfigError(f"Slurm has {listed}: name the nodes to describe, as topology.hosts=node[01-16]")
    return fitting[0]


def _gres(gres: Gres) -> str:
    return f"gpu:{gres.kind}:{gres.count}" if gres.kind else f"gpu:{gres.count}"


def place(reading: Reading, hosts: list[str]) -> tuple[Arrangement | None, Section]:
    """``hosts`` by Slurm's tree, with the keys that describe them; None where there is no tree.

    Raises:
        ConfigError: hosts that the tree does not have, or does not connect.
    """
    if reading.switches is None:
        return None, {"hosts": Value(hosts, compress(hosts))}
    tree = arrange(reading.switches, frozenset(hosts), "Slurm's topology")
    if lost := set(hosts) - set(tree.hosts):
        raise ConfigError(
            f"Slurm's topology has no switch above {sorted(lost)[0]}, which is one of its nodes"
        )
    keys: Section = {"hosts": Value(list(tree.hosts), f"leaf by leaf: {_shortened(tree)}")}
    if tree.levels:
        keys["switches"] = Value(
            [{"nodes": level.nodes, "oversubscription": MISSING} for level in tree.levels],
            "the leaves first: "
            + "; ".join(f"{len(level.switches)} switches ({_some(level.switches)})" for level in tree.levels)
            + f". Oversubscription is not in Slurm's tree{_speeds(reading)}: the nodes' bandwidth over what "
            "leaves a switch upwards, 1 where that is as much",
        )
    else:
        keys["switches"] = Remark("one switch")
    if tree.positions:
        keys["positions"] = Value(
            list(tree.positions), "switches are not equally full: these are the places that hosts fill"
        )
    return tree, keys


def _shortened(tree: Arrangement) -> str:
    text = compress(tree.hosts)
    return text if len(text) < 300 else f"{text[:300]}…"


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{names[0]} … {names[-1]}"


def _speeds(reading: Reading) -> str:
    speeds = sorted(
        {s.link_speed for s in (reading.switches or {}).values() if s.link_speed not in (None, "1")}
    )
    return f", whose LinkSpeed ({', '.join(map(str, speeds))}) has no unit" if speeds else ""
