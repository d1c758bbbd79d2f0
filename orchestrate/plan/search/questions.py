"""The planner asked the other way round: not which layout is fastest, but what it takes, how far it goes,
and what is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import gcd

from orchestrate.config import Ask, Config, Schedule
from orchestrate.errors import ConfigError
from orchestrate.plan.choice import fixed, pinned
from orchestrate.plan.numbers import divisors
from orchestrate.plan.search.best_row import Row, best_row, fits
from orchestrate.plan.search.bounds import least_state
from orchestrate.plan.search.branch_and_bound import Report
from orchestrate.plan.search.no_layout import no_layout_suits
from orchestrate.plan.search.rules import first_violation
from orchestrate.plan.search.search import devices_of, prepare
from orchestrate.plan.units import GIB, count, seconds
from orchestrate.topology.cluster import build_cluster, resized

MOST_NODES = 512
"""Clusters of more nodes are not looked at, unless the given one has more."""
SEQUENCE_UNIT = 1024
"""Sequences are searched in multiples of so many tokens: every tp and cp in use divides those."""
IDLE_GAIN = 1.1
"""How much more work a device may do in a smaller cluster, at most, for a smaller cluster to be tried."""


@dataclass(frozen=True)
class Survey:
    """The best plans of several sizes: what they say in sentences, and row by row."""

    ask: Ask
    sentences: tuple[str, ...]
    rows: tuple[Row, ...]


def answer(config: Config, ask: Ask, report: Report | None = None) -> Survey:
    """What ``ask`` asks about ``config``.

    Raises:
        ConfigError: nothing of any size fits, or there are fewer nodes than would be lost.
    """
    asked: dict[Ask, Callable[[Config, Report | None], Survey]] = {
        Ask.fewest_gpus: fewest_gpus,
        Ask.longest_sequence: longest_sequence,
        Ask.largest_model: largest_model,
        Ask.scaling: scaling,
        Ask.lost_nodes: lost_nodes,
    }
    return asked[ask](config, report)


def fewest_gpus(config: Config, report: Report | None = None) -> Survey:
    """The smallest part of one node, or the smallest number of whole ones, on which a layout fits, and the
    best plan there."""
    _require_one_kind(config, Ask.fewest_gpus)
    most = max(MOST_NODES, config.cluster.nodes)
    capacity = build_cluster(config.cluster).device.memory_gib * GIB
    each, name = config.cluster.gpus_per_node, config.cluster.device.name

    def may_fit(devices: int) -> bool:
        return least_state(config, devices) <= capacity

    def found(row: Row, where: str, fewer: str) -> Survey:
        told = (
            f"{config.model.name} fits on {row.devices} x {name}, {where}, and on no {fewer}: {_does(row)}."
        )
        return Survey(Ask.fewest_gpus, (told,), (row,))

    for devices in filter(may_fit, divisors(each)[:-1]):
        part = _part_of_a_node(config, devices)
        if fits(part):
            return found(best_row(part, report), f"a part of one node of {each}", "smaller even part")
    for nodes in range(1, most + 1 if may_fit(devices_of(config, most)) else 0):
        if may_fit(devices_of(config, nodes)) and fits(smaller := on_nodes(config, nodes)):
            where = f"{_nodes(nodes)} of {each}"
            fewer = "fewer nodes" if nodes > 1 else "even part of it"
            return found(best_row(smaller, report), where, fewer)
    raise ConfigError(
        f"model {config.model.name} fits on no number of nodes up to {most}: it takes more memory per "
        "device, or fewer pinned choices"
    )


def _part_of_a_node(config: Config, devices: int) -> Config:
    """``config`` with so many ``devices`` of a single node."""
    domain = config.cluster.nvlink_domain
    inside = None if domain is None or domain > config.cluster.gpus_per_node else gcd(domain, devices)
    cluster = replace(resized(config.cluster, 1), gpus_per_node=devices, nvlink_domain=inside, switches=())
    return replace(config, cluster=cluster)


def _require_one_kind(config: Config, ask: Ask) -> None:
    """Refuse to change the number of nodes where they are of several kinds: which ones is not said."""
    if config.cluster.groups:
        raise ConfigError(
            f"plan.ask={ask.value} changes the number of nodes, but cluster.groups names other kinds of "
            "them and not which to change: plan with cluster.nodes and cluster.groups as they would be"
        )


def longest_sequence(config: Config, report: Report | None = None) -> Survey:
    """The longest sequence of which a layout fits, the batch as many sequences as ever."""

    def at(units: int) -> Config:
        return replace(config, model=replace(config.model, seq=units * SEQUENCE_UNIT))

    most = _largest(lambda units: fits(at(units)))
    if most == 0:
        raise ConfigError(
            _broken_rule(at(1))
            or f"model {config.model.name} does not fit at {SEQUENCE_UNIT} tokens a sequence: add nodes "
            "(plan.ask=fewest_gpus says how many), or pin less"
        )
    sizes = sorted({config.model.seq // SEQUENCE_UNIT, *_halves(most)} - {0})
    rows = tuple(best_row(at(units), report) for units in sizes if units <= most)
    told = (
        f"{config.model.name} trains on up to {most * SEQUENCE_UNIT:,} tokens a sequence (in steps of "
        f"{SEQUENCE_UNIT:,}) on {_devices(config, rows[-1])}: {_does(rows[-1])}."
    )
    if (cp := config.parallel.cp) is not None:
        told += f" This is with cp pinned to {cp}: parallel.cp=auto searches context parallelism too."
    return Survey(Ask.longest_sequence, (told,), rows)


def largest_model(config: Config, report: Report | None = None) -> Survey:
    """The most layers of the model's width of which a layout fits."""

    def at(layers: int) -> Config:
        parallel = replace(config.parallel, stage_layers=None)
        return replace(config, model=replace(config.model, layers=layers), parallel=parallel)

    least = _fewest_layers(config)
    most = _largest(lambda layers: fits(at(layers)), least)
    if most == 0:
        few = "one layer" if least == 1 else f"{least} layers"
        raise ConfigError(
            _broken_rule(at(least))
            or f"not even {few} of {config.model.name} fit{'s' if least == 1 else ''} the memory: add nodes, "
            "or make it narrower (model.hidden)"
        )
    rows = tuple(best_row(at(layers), report) for layers in sorted({*_halves(most)}) if layers >= least)
    return Survey(
        Ask.largest_model,
        (
            f"Up to {most} layers like {config.model.name}'s, {config.model.hidden:,} wide, fit on "
            f"{_devices(config, rows[-1])}: {count(rows[-1].parameters)} parameters; "
            f"{_does(rows[-1])}.",
        ),
        rows,
    )


def scaling(config: Config, report: Report | None = None) -> Survey:
    """The best plan for powers of two of nodes up to those of the cluster, the batch unchanged."""
    _require_one_kind(config, Ask.scaling)
    nodes = config.cluster.nodes
    sizes = [*(2**power for power in range(nodes.bit_length()) if 2**power < nodes), nodes]
    rows = _efficient([best_row(on_nodes(config, size), report) for size in sizes])
    done = [row for row in rows if row.layout is not None]
    if not done:
        raise ConfigError(
            f"model {config.model.name} fits on no number of nodes up to {nodes}: plan.ask=fewest_gpus says "
            "how many it takes"
        )
    first, last = done[0], done[-1]
    sentence = f"{_nodes(first.nodes).capitalize()} of {first.devices // first.nodes}: {_does(first)}."
    if last is not first:
        assert last.efficiency is not None
        sentence += (
            f" On {last.nodes} nodes: {_does(last)}; each device does {last.efficiency:.0%} of the work "
            f"that it does on {first.nodes}."
        )
    return Survey(Ask.scaling, (sentence,), tuple(rows))


def lost_nodes(config: Config, report: Report | None = None) -> Survey:
    """The best plan on what is left when nodes are lost; where that makes an awkward number, some more may
    better stand idle."""
    _require_one_kind(config, Ask.lost_nodes)
    lost, nodes = config.plan.lost_nodes or 1, config.cluster.nodes
    if lost >= nodes:
        raise ConfigError(
            f"plan.lost_nodes={lost}: the cluster has {nodes}, so at most {nodes - 1} can be lost"
        )
    before = best_row(config, report)
    best: Row | None = None
    tried = []
    for left in range(nodes - lost, 0, -1):
        if best is not None and not _may_gain(left, before, best):
            break
        row = best_row(on_nodes(config, left), report)
        tried.append(row)
        if row.tokens_per_s is not None and (best is None or row.tokens_per_s > (best.tokens_per_s or 0.0)):
            best = row
    if best is None:
        raise ConfigError(
            f"model {config.model.name} fits on none of the {nodes - lost} nodes that are left, however many "
            "of them are used"
        )
    idle = nodes - lost - best.nodes
    do = "does" if best.nodes == 1 else "do"
    sentence = f"Without {_nodes(lost)}, {_nodes(best.nodes)} {do} best: {_does(best)}"
    if before.tokens_per_s and best.tokens_per_s:
        sentence += f", {best.tokens_per_s / before.tokens_per_s:.1%} of the speed with all {nodes}"
    sentence += "."
    if idle:
        straight = tried[0]
        speed = "does not fit" if straight.layout is None else f"would be slower ({_does(straight)})"
        stand = "stands" if idle == 1 else "stand"
        sentence += f" {_nodes(idle).capitalize()} {stand} idle: to use all {nodes - lost} {speed}."
    return Survey(Ask.lost_nodes, (sentence,), tuple(_efficient([before, *tried])))


def _may_gain(left: int, before: Row, best: Row) -> bool:
    """Whether ``left`` nodes could beat ``best``, as far as the whole cluster's pace can tell."""
    if not before.tokens_per_s:
        return left > best.nodes // 2
    return IDLE_GAIN * before.tokens_per_s * left / before.nodes > (best.tokens_per_s or 0.0)


def on_nodes(config: Config, nodes: int) -> Config:
    """``config`` with another number of nodes."""
    return replace(config, cluster=resized(config.cluster, nodes))


def _efficient(rows: list[Row]) -> list[Row]:
    """``rows`` with their efficiency."""
    each = [row.tokens_per_s / row.devices if row.tokens_per_s else None for row in rows]
    first = next((one for one in each if one is not None), None)
    return [
        row if one is None or first is None else replace(row, efficiency=one / first)
        for row, one in zip(rows, each, strict=True)
    ]


def _fewest_layers(config: Config) -> int:
    """Layers of which every virtual stage that ``config`` pins gets one."""
    start = fixed(config)
    looped = start.schedule in (Schedule.interleaved, Schedule.zbv)
    vpp = start.vpp or (2 if looped else 1)
    return (start.pp or (2 if vpp > 1 else 1)) * vpp


def _broken_rule(config: Config) -> str | None:
    """The rule that forbids every layout of ``config``; None where memory is what it lacks."""
    cluster = build_cluster(config.cluster)
    start = pinned(config, cluster.world)
    if (violation := first_violation(config, cluster, start)) is not None:
        return violation[1]
    search = prepare(config, cluster, start)
    return None if search.leanest(lambda _fullest: True) is not None else no_layout_suits(search)


def _largest(fits_at: Callable[[int], bool], least: int = 1) -> int:
    """The largest size that fits, if what fits fits smaller too, down to ``least``; 0 where not even that
    does."""
    if not fits_at(least):
        return 0
    low, high = least, 2 * least
    while fits_at(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits_at(middle) else (low, middle)
    return low


def _halves(most: int) -> Iterator[int]:
    """``most``, a half of it, and so on for a few."""
    for power in range(4):
        if most >> power:
            yield most >> power


def _devices(config: Config, row: Row) -> str:
    return f"{row.devices} x {build_cluster(config.cluster).device_names}"


def _nodes(number: int) -> str:
    return "one node" if number == 1 else f"{number} nodes"


def _does(row: Row) -> str:
    assert row.layout is not None
    assert row.step_s is not None
    assert row.tokens_per_s is not None
    assert row.mfu is not None
    speed = f"{count(row.tokens_per_s)} tokens/s at an MFU of {row.mfu:.0%}"
    return f"{row.layout} steps in {seconds(row.step_s)}, {speed}"
