"""Training over emulated nodes of this machine, which `emulated_nodes.sh` makes and takes down."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from launchers.local import launch_order
from launchers.supervise import Command, supervise
from orchestrate.config import Config
from orchestrate.plan.plan import Plan

SCRIPT = Path(__file__).with_name("emulated_nodes.sh")
PORT = 29511
"""In namespaces of our own no port is taken."""


def missing() -> str | None:
    """What this machine lacks to emulate nodes; None where it has all."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs Linux and root"
    tools = [tool for tool in ("ip", "tc", "bash") if shutil.which(tool) is None]
    return f"needs {', '.join(tools)} (iproute2)" if tools else None


@contextmanager
def up(count: int, rate: str) -> Iterator[None]:
    """``count`` nodes joined at ``rate`` (as tc writes it) for as long as the context lasts."""
    subprocess.run(["bash", str(SCRIPT), "up", str(count), rate], check=True)
    try:
        yield
    finally:
        subprocess.run(["bash", str(SCRIPT), "down"], check=True)


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
            "MASTER_ADDR": "10.211.0.1",
            "MASTER_PORT": str(PORT),
            "GLOO_SOCKET_IFNAME": "eth0",
            "OMP_NUM_THREADS": str(config.launcher.threads or 1),
        }
        node = ["ip", "netns", "exec", f"orchestrate-{hosts.index(device.host) + 1}"]
        argv = [*node, sys.executable, "-m", module, str(run_dir.resolve()), *arguments]
        commands.append(Command(argv, environment, logs / f"rank-{process}.log"))
    outcome = supervise(commands, config.launcher.grace_s, on_tick)
    if outcome.signal is not None:
        return 128 + outcome.signal
    for process in sorted(outcome.failed):
        print(f"process {process} failed; log: {commands[process].log}", file=sys.stderr)
    return 1 if outcome.failed else 0
