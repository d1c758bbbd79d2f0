"""Training over emulated nodes of this machine, which `slurm/devcluster` makes and takes down."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Set
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from launchers.attempt import attempt
from launchers.local import show
from launchers.processes import Command, started
from launchers.ranks import WORKER, Ranks, Start
from orchestrate.config import Config
from orchestrate.plan.plan import Plan
from orchestrate.resources import folder

NAME = "bench"
DEVCLUSTER = [sys.executable, str(folder("slurm") / "devcluster")]
PORT = 29511
"""In networks of our own no port is taken."""


class Missing(Exception):
    """What this machine lacks to emulate nodes."""


@contextmanager
def up(count: int, rate: str) -> Iterator[None]:
    """``count`` nodes joined at ``rate``, as 200mbit, for as long as the context lasts.

    Raises:
        Missing: this machine cannot have them.
    """
    options = ["--name", NAME, "--no-slurm", f"--nodes={count}", f"--rate={rate}"]
    started = subprocess.run([*DEVCLUSTER, "up", *options], capture_output=True, text=True)
    if started.returncode:
        raise Missing(started.stderr.strip())
    try:
        yield
    finally:
        subprocess.run([*DEVCLUSTER, "down", "--name", NAME], check=True)


class Nodes:
    """As a `launchers.ranks.Launcher`: the processes of each host of a plan in a node of their own."""

    def check(self, plan: Plan) -> None:
        """All of them can be had."""

    def start(self, start: Start) -> AbstractContextManager[Ranks]:
        hosts = [node.host for node in start.plan.cluster.nodes]
        shared = {
            **os.environ,
            "MASTER_ADDR": f"{NAME}-1",
            "MASTER_PORT": str(PORT),
            "GLOO_SOCKET_IFNAME": "eth0",
            "OMP_NUM_THREADS": str(start.config.launcher.threads or 1),
        }
        commands = []
        for process, device in enumerate(start.devices):
            node = ["run", "--name", NAME, "--node", f"{NAME}-{hosts.index(device.host) + 1}"]
            environment = {**shared, **start.identity(process)}
            commands.append(Command([*DEVCLUSTER, *node, *start.argv], environment, start.log(process)))
        return started(commands)

    def down(self) -> Set[str]:
        return frozenset()

    def elsewhere(self, plan: Plan, lost: Set[str]) -> Plan | None:
        return None


def launch(
    plan: Plan,
    config: Config,
    run_dir: Path,
    *,
    module: str = WORKER,
    on_tick: Callable[[], None] | None = None,
) -> int:
    """As `launchers.local.launch`, over the nodes that are `up`."""
    ended = attempt(Nodes(), Start(plan, config, run_dir.resolve(), module), on_tick)
    if ended.failure is not None:
        show(ended.failure)
    return ended.status
