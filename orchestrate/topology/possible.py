"""Whether a cluster can be: every number that a cluster file may get wrong, one line each."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite, lcm

from orchestrate.config import ClusterConfig, DeviceConfig, LinkConfig, NodeGroupConfig
from orchestrate.errors import ConfigError

MOST_DEVICES = 2**20
"""Of one cluster: several times the largest; what the planner's answers are still made for."""


def require_possible(config: ClusterConfig) -> None:
    """Make sure that ``config`` describes a cluster that can be.

    Raises:
        ConfigError: the first number that cannot be: its value, the rule, and the nearest valid choice.
    """
    for problem in problems(config):
        raise ConfigError(problem)


def problems(config: ClusterConfig) -> Iterator[str]:
    """One line for every number of ``config`` that cannot be."""
    counts = list(_counts(config))
    yield from counts
    if counts:
        return  # what follows counts with them
    yield from _links(config)
    yield from _switches(config)
    yield from _names(config)
    for index, group in enumerate(config.groups):
        if group.device is not None:
            yield from _device(f"cluster.groups[{index}].device", group.device, config.device)


def _counts(config: ClusterConfig) -> Iterator[str]:
    own = NodeGroupConfig(config.nodes, config.gpus_per_node, config.nvlink_domain)
    groups = {"cluster": own, **{f"cluster.groups[{i}]": group for i, group in enumerate(config.groups)}}
    for at, group in groups.items():
        devices = config.gpus_per_node if group.gpus_per_node is None else group.gpus_per_node
        for key, value in (("nodes", group.nodes), ("gpus_per_node", devices)):
            if value < 1:
                yield f"{at}.{key}={value}: needs at least 1"
                return
        if (all_of_them := group.nodes * devices) > MOST_DEVICES:
            shown = f"{group.nodes} nodes x {devices} = {all_of_them} devices"
            yield f"{at}: {shown}: must be at most {MOST_DEVICES}"
            return
        size = config.nvlink_domain if group.nvlink_domain is None else group.nvlink_domain
        if size is not None and (size < 1 or (devices % size and size % devices)):
            yield (
                f"{at}.nvlink_domain={size}: must divide the {devices} devices of a node, or be those of "
                f"whole nodes; nearest is {_nearest_domain(size, devices)}"
            )


def _nearest_domain(size: int, devices: int) -> int:
    """The size of domain closest to ``size`` that parts a node, or is made of nodes, evenly."""
    inside = (d for d in range(1, devices + 1) if devices % d == 0)
    outside = (devices * max(1, size // devices + more) for more in (0, 1))
    return min((*inside, *outside), key=lambda d: (abs(d - size), d))


def _links(config: ClusterConfig) -> Iterator[str]:
    for name, link in (("nvlink", config.nvlink), ("network", config.network)):
        yield from _link(f"cluster.{name}", link)


def _link(at: str, link: LinkConfig) -> Iterator[str]:
    yield from _positive(f"{at}.bandwidth_gbps", link.bandwidth_gbps)
    if not (isfinite(link.latency_us) and link.latency_us >= 0):
        yield f"{at}.latency_us={link.latency_us:g}: must be at least 0"
    if not 0 < link.efficiency <= 1:
        yield f"{at}.efficiency={link.efficiency:g}: must be above 0 and at most 1"
    if link.in_switch_gbps is not None:
        yield from _positive(f"{at}.in_switch_gbps", link.in_switch_gbps)
    if link.shared_by < 1:
        yield f"{at}.shared_by={link.shared_by}: must be at least 1"


def _positive(key: str, value: float) -> Iterator[str]:
    if not (isfinite(value) and value > 0):
        yield f"{key}={value:g}: must be a number above 0"


def _switches(config: ClusterConfig) -> Iterator[str]:
    domains = {
        (group.nvlink_domain or config.nvlink_domain or 1) // (group.gpus_per_node or config.gpus_per_node)
        for group in (NodeGroupConfig(config.nodes), *config.groups)
    }
    below, ratio, what = lcm(*(domains - {0})), 1.0, "of an NVLink domain"
    for level, switch in enumerate(config.switches):
        at = f"cluster.switches[{level}]"
        if switch.nodes < below or switch.nodes % below:
            nearest = max(1, round(switch.nodes / below)) * below
            rule = f"a multiple of the {below} nodes {what}" if below > 1 else "at least 1"
            yield f"{at}.nodes={switch.nodes}: must be {rule}; nearest is {nearest}"
            return
        if not (isfinite(switch.oversubscription) and switch.oversubscription >= 1):
            yield f"{at}.oversubscription={switch.oversubscription:g}: must be at least 1 (1: blocks nothing)"
        elif switch.oversubscription < ratio:
            yield (
                f"{at}.oversubscription={switch.oversubscription:g}: counted from the nodes, it cannot be "
                f"less than the {ratio:g} of the level below, through which its traffic comes; nearest is "
                f"{ratio:g}"
            )
        below, ratio, what = switch.nodes, switch.oversubscription, f"of cluster.switches[{level}]"


def _names(config: ClusterConfig) -> Iterator[str]:
    nodes = config.nodes + sum(group.nodes for group in config.groups)
    counted = f"cluster.nodes={nodes}" if not config.groups else f"the cluster has {nodes} nodes"
    if config.hosts and len(set(config.hosts)) != nodes:
        yield f"cluster.hosts names {len(set(config.hosts))} different hosts, but {counted}"
    elif len(config.hosts) > nodes:
        yield f"cluster.hosts names {len(config.hosts)} hosts, but {counted}"
    if not config.positions:
        return
    if len(config.positions) != nodes:
        yield f"cluster.positions has {len(config.positions)} places, but {counted}"
    if (least := min(config.positions)) < 0:
        yield f"cluster.positions has {least}: places count from 0"
    seen: set[int] = set()
    for place in config.positions:
        if place in seen:
            yield f"cluster.positions has {place} twice: no two nodes hang in one place"
            return
        seen.add(place)


def _device(at: str, device: DeviceConfig, own: DeviceConfig) -> Iterator[str]:
    if device.kind is not own.kind:
        yield f"{at}.kind={device.kind.value}: the cluster's own nodes have {own.kind.value}"
    for key in ("memory_gib", "memory_bandwidth_gbps", "matmul_efficiency"):
        yield from _positive(f"{at}.{key}", getattr(device, key))
    for dtype, peak in device.peak_tflops.items():
        yield from _positive(f"{at}.peak_tflops.{dtype.value}", peak)
    if device.memory_gib <= device.reserved_gib:
        yield f"{at}.memory_gib={device.memory_gib:g}: must be above its reserved_gib={device.reserved_gib:g}"
    if not set(device.peak_tflops) & set(own.peak_tflops):
        yield f"{at}.peak_tflops: {device.name} has no precision in common with {own.name}"
