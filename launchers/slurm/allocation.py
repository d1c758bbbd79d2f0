"""What a job was given: hosts, their devices and processors, and the switches above them."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from launchers.slurm.commands import CommandError, ask
from launchers.slurm.jobs import this_job
from orchestrate.config import DeviceKind
from orchestrate.errors import ConfigError
from orchestrate.plan.placement.onto import Host
from orchestrate.topology.discover.hostlist import compress, expand
from orchestrate.topology.discover.slurm import Switch, parse_gres, parse_topology

ANSWER_S = 3.0
"""Longest wait for a node's daemon to take a connection."""
_SLURMD_PORT = 6818
_AT_ONCE = 64
_COUNT = re.compile(r"(\d+)(?:\(x(\d+)\))?")
_PAIR = re.compile(r"(\w+)=(\S+)")


@dataclass(frozen=True)
class Daemon:
    """Where Slurm's daemon on a node listens."""

    address: str
    port: int


@dataclass(frozen=True)
class Allocation:
    """The nodes of a job, in Slurm's order."""

    job: str
    """As Slurm's commands take it: ``1234``, or ``1234_5`` of an array."""
    number: int
    """The job's own, also where it is one of an array."""
    hosts: tuple[Host, ...]
    cpus: Mapping[str, int]
    """By host, the processors that are the job's."""
    daemons: Mapping[str, Daemon]
    """By host."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(host.name for host in self.hosts)

    def taken(self) -> Set[str]:
        """The nodes that Slurm has taken back from the job: it does so with those that fail."""
        try:
            held = ask("squeue", "--noheader", f"--jobs={self.job}", "--format=%N").split()
            return set(self.names) - set(expand(",".join(held))) if held else frozenset()
        except ConfigError:
            return frozenset()

    def silent(self, hosts: Iterable[str]) -> Set[str]:
        """Those of ``hosts`` whose daemon takes no connection: they are down, or cut off."""
        asked = list(hosts)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            answers = list(pool.map(lambda host: _answers(self.daemons[host]), asked))
        return {host for host, answered in zip(asked, answers, strict=True) if not answered}


def read_allocation(
    kind: DeviceKind,
    environment: Mapping[str, str] = os.environ,
    command: Callable[..., str] = ask,
) -> Allocation:
    """The allocation of the job that this process runs in.

    A node has as many devices as the job was given GPUs there; where the cluster's devices are CPUs, as
    many as it was given tasks.

    Raises:
        ConfigError: this is no job, or Slurm does not say what it was given.
    """
    try:
        number, nodes = int(environment["SLURM_JOB_ID"]), environment["SLURM_JOB_NODELIST"]
        cpus = _counts(environment["SLURM_JOB_CPUS_PER_NODE"])
    except KeyError as error:
        raise ConfigError(
            f"{error.args[0]} is not set: this runs in a job that orchestrate submit made"
        ) from None
    names, job = expand(nodes), this_job(environment) or str(number)
    if kind is DeviceKind.cuda:
        gpus = _gpus(command("scontrol", "show", "job", "-d", job))
        devices = [gpus.get(name, 0) for name in names]
    else:
        devices = _counts(environment.get("SLURM_TASKS_PER_NODE", "")) or cpus
    if not len(names) == len(cpus) == len(devices):
        raise ConfigError(
            f"Slurm gave {nodes}, but processors for {len(cpus)} nodes and tasks for {len(devices)}"
        )
    switches = _switches(command)
    return Allocation(
        job=job,
        number=number,
        hosts=tuple(
            Host(name, count, switches.get(name, ())) for name, count in zip(names, devices, strict=True)
        ),
        cpus=dict(zip(names, cpus, strict=True)),
        daemons=_daemons(names, command),
    )


def _counts(text: str) -> list[int]:
    """Of ``4(x2),8``: 4, 4, 8."""
    found = [_COUNT.fullmatch(part) for part in text.split(",")]
    return [int(m[1]) for m in found if m is not None for _ in range(int(m[2] or 1))]


def _gpus(text: str) -> dict[str, int]:
    """By host, from `scontrol show job -d`."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        fields = dict(_PAIR.findall(line))
        if "Nodes" in fields and "GRES" in fields:
            found |= dict.fromkeys(expand(fields["Nodes"]), parse_gres(fields["GRES"]).count)
    return found


def _switches(command: Callable[..., str]) -> dict[str, tuple[str, ...]]:
    """By host, the switches above it, the leaf first; empty where Slurm knows of none."""
    try:
        tree = parse_topology(command("scontrol", "show", "topology"), "scontrol show topology")
    except ConfigError:
        return {}
    above: dict[str, str] = {}
    for switch in tree.values():
        for below in switch.switches:
            above.setdefault(below, switch.name)
    return {host: _upwards(switch, above) for switch in tree.values() for host in switch.hosts}


def _upwards(leaf: Switch, above: Mapping[str, str]) -> tuple[str, ...]:
    path = [leaf.name]
    while (parent := above.get(path[-1])) is not None:
        path.append(parent)
    return tuple(path)


def _daemons(names: tuple[str, ...], command: Callable[..., str]) -> dict[str, Daemon]:
    usual = _SLURMD_PORT
    try:
        if match := re.search(
            r"^SlurmdPort\s*=\s*(\d+)", command("scontrol", "show", "config"), re.MULTILINE
        ):
            usual = int(match[1])
        nodes = command("scontrol", "--oneliner", "show", "node", compress(names))
    except CommandError:
        nodes = ""
    found = {name: Daemon(name, usual) for name in names}
    for line in nodes.splitlines():
        fields: dict[str, str] = dict(_PAIR.findall(line))
        if (name := fields.get("NodeName", "")) in found:
            found[name] = Daemon(fields.get("NodeAddr", name), int(fields.get("Port", usual)))
    return found


def _answers(daemon: Daemon) -> bool:
    try:
        socket.create_connection((daemon.address, daemon.port), ANSWER_S).close()
    except OSError:
        return False
    return True
