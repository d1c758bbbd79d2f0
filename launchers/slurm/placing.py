"""A plan onto a job's nodes: as it is where they are worth the same, else refused or made anew."""

from __future__ import annotations

from dataclasses import dataclass

from launchers.slurm.allocation import Allocation
from orchestrate.config import Config
from orchestrate.errors import ConfigError
from orchestrate.plan.placement.onto import Host, made_of, matched, moved
from orchestrate.plan.plan import Plan
from orchestrate.plan.search.replan import replan
from orchestrate.topology.cluster import Cluster


class NoEqualPlacement(ConfigError):
    """The nodes of a job are not what the plan counts on."""


@dataclass(frozen=True)
class Placed:
    plan: Plan
    changed: bool
    """Whether it had to be made anew."""


def place_on(plan: Plan, config: Config, allocation: Allocation, out: frozenset[str] = frozenset()) -> Placed:
    """``plan`` on the nodes of ``allocation``, those that are ``out`` left out.

    Raises:
        NoEqualPlacement: there is none, and ``launcher.replan`` is not set; the message is in one line,
            `maps` shows more.
        ConfigError: nothing fits on what was given.
    """
    hosts = [host for host in allocation.hosts if host.name not in out]
    names = matched(plan.cluster, hosts)
    if names is not None:
        return Placed(moved(plan, names), changed=False)
    if not config.launcher.replan:
        raise NoEqualPlacement(
            f"job {allocation.job} did not get what the plan counts on: {difference(plan.cluster, hosts)};"
            " ask Slurm for it, plan for what it gives, or set launcher.replan=true"
        )
    if plan.cluster.kinds:
        raise ConfigError(
            f"cluster={plan.cluster.name} has nodes of several kinds, and Slurm does not say which it gave:"
            " no plan can be made for them in a job"
        )
    if not hosts:
        raise ConfigError(f"job {allocation.job} has no node left to plan for")
    return Placed(
        replan(config, made_of(plan.cluster, hosts), {host.name: host.devices for host in hosts}),
        changed=True,
    )


def difference(cluster: Cluster, hosts: list[Host]) -> str:
    """In words, what ``hosts`` lack."""
    if len(hosts) < len(cluster.nodes):
        return f"{len(hosts)} of {len(cluster.nodes)} nodes"
    needed = sorted((node.devices for node in cluster.nodes), reverse=True)
    given = sorted((host.devices for host in hosts), reverse=True)
    for wanted, got in zip(needed, given, strict=False):
        if got < wanted:
            return f"a node with {got} devices where it needs {wanted}"
    return "nodes that share switches in another way"


def maps(cluster: Cluster, hosts: list[Host]) -> list[tuple[str, str]]:
    """The plan's nodes and the job's, switch by switch, a line of each side by side."""
    size = cluster.switches[0].nodes if cluster.switches else len(cluster.nodes)
    planned: dict[str, list[str]] = {}
    for node in cluster.nodes_by_position:
        switch = f"switch {node.position // size}" if cluster.switches else "any switch"
        planned.setdefault(switch, []).append(f"{node.host} ({node.devices})")
    given: dict[str, list[str]] = {}
    for host in hosts:
        given.setdefault(host.switch(0) or "switch unknown", []).append(f"{host.name} ({host.devices})")
    left, right = ([f"{s}: {', '.join(n)}" for s, n in side.items()] for side in (planned, given))
    lines = max(len(left), len(right))
    return list(zip(left + [""] * (lines - len(left)), right + [""] * (lines - len(right)), strict=True))
