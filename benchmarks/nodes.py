"""Training over emulated nodes of this machine, which `slurm/devcluster` makes and takes down."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from launchers.local import launch_order
from launchers.supervise import Command, supervise
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
    started = subprocess.run([*DEVCLUSTER, "up", *options], stderr=subprocess.PIPE, text=True)
    if started.returncode:
        raise Missing(started.stderr.strip())
    try:
        yield
    finally:
        subprocess.run([*DEVCLUSTER, "down", "--name", NAME], check=True)


def launch(
    plan: Plan,
    config: Config,
    run_dir: Path,
    *,
    module: str = "orchestrate.train.worker",
    arguments: Sequence[str] = (),
    on_tick: Callable[[], None] | None = None,
) -> int:
    """As `launchers.local.launch`, with the processes of each host of ``plan`` in a node of their own."""
    logs = run_dir / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    hosts = [node.host for node in plan.cluster.nodes]
    commands = []
    devices = launch_order(plan)
    for process, device in enumerate(devices):
        environment = {
            **os.environ,
            "RANK": str(process),
            "WORLD_SIZE": str(len(devices)),
            "LOCAL_RANK": str(device.index),
            "ORCHESTRATE_HOST": device.host,
            "ORCHESTRATE_DEVICE": str(device.index),
            "MASTER_ADDR": f"{NAME}-1",
            "MASTER_PORT": str(PORT),
            "GLOO_SOCKET_IFNAME": "eth0",
            "OMP_NUM_THREADS": str(config.launcher.threads or 1),
        }
        node = ["run", "--name", NAME, "--node", f"{NAME}-{hosts.index(device.host) + 1}"]
        argv = [*DEVCLUSTER, *node, sys.executable, "-m", module, str(run_dir.resolve()), *arguments]
        commands.append(Command(argv, environment, logs / f"rank-{process}.log"))
    outcome = supervise(commands, config.launcher.grace_s, on_tick)
    if outcome.signal is not None:
        return 128 + outcome.signal
    for process in sorted(outcome.failed):
        print(f"process {process} failed; log: {commands[process].log}", file=sys.stderr)
    return 1 if outcome.failed else 0
