"""A job's allocation as a `launchers.ranks.Launcher`."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from launchers.ranks import Ranks, Start
from launchers.slurm import srun
from launchers.slurm.allocation import Allocation
from launchers.slurm.ports import port_of
from launchers.slurm.step import RANKS, started
from launchers.slurm.task import BIND, SHOWN
from orchestrate.errors import ConfigError
from orchestrate.plan.placement.onto import matched, moved
from orchestrate.plan.plan import Plan

_TASK = "launchers.slurm.task"
_RECORDS_S, _POLL_S = 2.0, 0.1


@dataclass
class Slurm:
    """Starts ranks as steps of the job that this process runs in."""

    allocation: Allocation
    addresses: Mapping[str, str] = field(default_factory=dict)
    """By host, where its ranks are reached; otherwise where Slurm reaches it."""
    out: frozenset[str] = frozenset()
    """Hosts that must not be used."""
    unfit: frozenset[str] = frozenset()
    """Those that were so from the start."""
    _starts: int = 0

    def check(self, plan: Plan) -> None:
        given = {host.name: host.devices for host in self.allocation.hosts if host.name not in self.out}
        for node in plan.cluster.nodes:
            if given.get(node.host, 0) < node.devices:
                raise ConfigError(
                    f"the plan needs {node.devices} devices of {node.host}, and job {self.allocation.job} has"
                    f" {given.get(node.host, 0)} there"
                )

    def start(self, start: Start) -> AbstractContextManager[Ranks]:
        self._starts += 1
        return self._started(start, f"{RANKS}{self._starts}")

    @contextlib.contextmanager
    def _started(self, start: Start, name: str) -> Iterator[Ranks]:
        launcher, allocation = start.config.launcher, self.allocation
        hosts = [device.host for device in start.devices]
        each = max(1, min(allocation.cpus[host] // hosts.count(host) for host in set(hosts)))
        environment = srun.environment(
            start.config,
            MASTER_ADDR=self.addresses.get(hosts[0], allocation.daemons[hosts[0]].address),
            MASTER_PORT=str(port_of(allocation.number, self._starts)),
            OMP_NUM_THREADS=str(launcher.threads or each),
            ORCHESTRATE_START=f"{allocation.job}.{name}",
            **({SHOWN: json.dumps({h: list(d) for h, d in start.shown.items()})} if start.shown else {}),
            **({BIND: "1"} if launcher.cpu_bind is None else {}),
        )
        command = [
            srun.python(launcher),
            "-m",
            _TASK,
            start.module,
            str(start.run_dir.absolute()),
            *start.arguments,
        ]
        argv = srun.ranks_step(start.config, allocation.cpus, hosts, name, start.run_dir, command)
        words = start.run_dir / "logs" / "srun.log"
        said = words.stat().st_size if words.exists() else 0
        with started(argv, environment, words, hosts, allocation.job, name, allocation.silent) as step:
            yield step
            _await_records(start.run_dir / "logs", step.failed)
            if step.never_began:
                # What srun has to say of it stands in for the ranks' own words.
                with start.log(0).open("ab") as log:
                    log.write(words.read_bytes()[said:])

    def down(self) -> Set[str]:
        gone = self.out | self.allocation.taken()
        return gone | self.allocation.silent(set(self.allocation.names) - gone)

    def beside(self, host: str) -> Sequence[str]:
        return srun.command_on(host)

    def elsewhere(self, plan: Plan, lost: Set[str]) -> Plan | None:
        self.out |= lost
        names = matched(plan.cluster, [host for host in self.allocation.hosts if host.name not in self.out])
        return None if names is None else moved(plan, names)


def _await_records(logs: Path, failed: Set[int]) -> None:
    """Wait a little until what failed processes wrote of it has come through the network file system."""
    wanted = {f"failure-{process}.json" for process in failed}
    deadline = time.monotonic() + _RECORDS_S
    while not wanted <= set(os.listdir(logs)) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
