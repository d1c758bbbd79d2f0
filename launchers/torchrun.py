"""torchrun's command for people with a scheduler of their own, and who each of its processes is."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from launchers.ranks import devices_per_node, launch_order, nodes_of
from orchestrate.config import Config
from orchestrate.errors import ConfigError
from orchestrate.plan.plan import Plan

WORKER = "orchestrate.train.elastic"


def command(config: Config, plan: Plan, run_dir: Path, python: str) -> list[str]:
    """What starts the processes of one node; alike on every node.

    Raises:
        ConfigError: several nodes, and nothing says where they meet; or not as many devices on each.
    """
    nodes = nodes_of(plan)
    place = config.launcher.rendezvous
    if place is None and nodes > 1:
        raise ConfigError(
            f"launcher=torchrun: {nodes} nodes must know where to meet: set launcher.rendezvous=HOST:PORT,"
            " with the name of one of them"
        )
    # Runs of one user on one machine may overlap.
    name = hashlib.sha256(str(run_dir).encode()).hexdigest()[:12]
    meet = (
        ["--standalone"]
        if place is None
        else ["--rdzv-backend=c10d", f"--rdzv-endpoint={place}", f"--rdzv-id={name}", f"--nnodes={nodes}"]
    )
    return [
        *(python, "-m", "torch.distributed.run"),
        *meet,
        f"--nproc-per-node={devices_per_node(plan)}",
        f"--max-restarts={config.faults.tries}",
        *("-m", WORKER, str(run_dir)),
    ]


def variables(config: Config, code: Path | None) -> dict[str, str]:
    """What the processes need in their environment."""
    interface = config.launcher.interface
    network = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME") if interface is not None else ()
    path = {} if code is None else {"PYTHONPATH": str(code)}
    threads = {"OMP_NUM_THREADS": str(config.launcher.threads or 1)}
    chosen = {name: str(interface) for name in network}
    words = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
    return {**threads, **chosen, **config.launcher.env, **path, "PYTHONSAFEPATH": "1", **words}


def shown(environment: Mapping[str, str], argv: Sequence[str]) -> str:
    """One line of shell that runs ``argv`` with ``environment``."""
    return " ".join(
        [*(f"{name}={shlex.quote(value)}" for name, value in environment.items()), shlex.join(argv)]
    )


def who(plan: Plan, environment: Mapping[str, str], hostname: str) -> dict[str, str]:
    """What `launchers` tell a process about itself, from what torchrun told it.

    The node is the one of the plan that is called like this machine. Where the plan's nodes have no names of
    machines (node0, node1, …) it is the one that torchrun counts as ``GROUP_RANK``.

    Raises:
        ConfigError: a variable is missing, or the plan knows no such node.
    """
    order = launch_order(plan)
    hosts = list(dict.fromkeys(device.host for device in order))
    try:
        node, local = int(environment["GROUP_RANK"]), int(environment["LOCAL_RANK"])
        attempt = f"{environment['TORCHELASTIC_RUN_ID']}.{environment['TORCHELASTIC_RESTART_COUNT']}"
    except KeyError as error:
        raise ConfigError(f"{error.args[0]} is not set: start {WORKER} with torchrun") from None
    nameless = [f"node{index}" for index, _ in enumerate(plan.cluster.nodes)]
    if [each.host for each in plan.cluster.nodes] == nameless:
        if node >= len(hosts):
            raise ConfigError(f"torchrun started node number {node}, and the plan uses {len(hosts)}")
        host = hosts[node]
    else:
        short = {name.partition(".")[0]: name for name in hosts}
        host = short.get(hostname.partition(".")[0], "")
        if not host:
            raise ConfigError(
                f"this is {hostname}, and the plan's hosts are {', '.join(hosts)}: plan for cluster.hosts=[]"
                " to take any"
            )
    used = [device for device in order if device.host == host]
    if local >= len(used):
        raise ConfigError(
            f"torchrun started {local + 1} processes on {hostname}, and the plan has {len(used)}"
        )
    device = used[local]
    return {
        # torchrun counts nodes as they came.
        "RANK": str(order.index(device)),
        "ORCHESTRATE_HOST": host,
        "ORCHESTRATE_DEVICE": str(device.index),
        "ORCHESTRATE_START": attempt,
    }
