"""A plan for the devices that are left of a cluster, for the same model and global batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import gcd

from orchestrate.config import Config, ParallelConfig, RecomputeConfig
from orchestrate.errors import ConfigError
from orchestrate.plan.plan import Plan
from orchestrate.plan.search.search import search
from orchestrate.topology.cluster import Cluster, Node, config_of


def replan(config: Config, cluster: Cluster, left: Mapping[str, int]) -> Plan:
    """The fastest plan on the devices that are ``left`` of ``cluster``.

    What ``config`` pins is kept as far as that goes: dp gives way first, then the pipeline, then the
    rest. Where no layout uses all devices that are left, because they do not divide the batch or the
    model, it uses as many of them as it can.

    Args:
        left: devices by host; a host that is not named has none.

    Raises:
        ConfigError: nothing fits on what is left.
    """
    remaining = {node.host: min(node.devices, left.get(node.host, 0)) for node in cluster.nodes}
    total = sum(remaining.values())
    problem = "none is left"
    while any(remaining.values()):
        for candidate in _relaxed(config):
            try:
                return search(replace(candidate, cluster=config_of(_cut(cluster, remaining))))
            except ConfigError as error:
                problem = str(error)
        # Of the most damaged node, so that the whole ones stay whole.
        host = min((h for h, devices in remaining.items() if devices), key=lambda h: remaining[h])
        remaining[host] -= 1
    raise ConfigError(f"no layout for the {total} of {cluster.world} devices of {cluster.name}: {problem}")


def _relaxed(config: Config) -> Iterator[Config]:
    """``config`` without dp, without what depends on the pipeline, and without anything pinned."""
    given = config.parallel
    config = replace(config, plan=replace(config.plan, file=None))
    free_replicas = replace(given, dp=None, cp=given.cp or 1)
    free_pipeline = replace(
        free_replicas, pp=None, vpp=None, micro_batch=None, schedule=None, stage_layers=None, order=None
    )
    free = ParallelConfig(cp=free_replicas.cp, allow_tp_across_nodes=given.allow_tp_across_nodes)
    yield replace(config, parallel=free_replicas)
    yield replace(config, parallel=free_pipeline)
    yield replace(config, parallel=free, recompute=RecomputeConfig(), zero=replace(config.zero, stage=None))


def _cut(cluster: Cluster, left: Mapping[str, int]) -> Cluster:
    nodes = (_shrunk(node, left[node.host]) for node in cluster.nodes if left[node.host])
    return replace(cluster, nodes=tuple(nodes))


def _shrunk(node: Node, devices: int) -> Node:
    domain = node.nvlink_domain
    if domain <= node.devices:
        domain = devices if domain == node.devices else gcd(domain, devices)
    return replace(node, devices=devices, nvlink_domain=domain)
