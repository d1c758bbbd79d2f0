"""Starts every process of a plan on this machine; knows environments and exit codes, no training code."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Sequence, Set
from contextlib import AbstractContextManager
from pathlib import Path

from launchers.attempt import attempt
from launchers.failure import Failure
from launchers.gpus import visible, visible_count
from launchers.processes import Command, started
from launchers.ranks import WORKER, Ranks, Start
from orchestrate.config import Config, DeviceKind
from orchestrate.errors import ConfigError
from orchestrate.plan.plan import Plan


class Local:
    """This machine as a `launchers.ranks.Launcher`."""

    def check(self, plan: Plan) -> None:
        check(plan)

    def start(self, start: Start) -> AbstractContextManager[Ranks]:
        shared = _environment(start)
        return started(
            [
                Command(
                    start.argv,
                    {**shared, **start.identity(process), **visible(start.shown.get(device.host))},
                    start.log(process),
                )
                for process, device in enumerate(start.devices)
            ]
        )

    def down(self) -> Set[str]:
        return frozenset()

    def beside(self, host: str) -> Sequence[str]:
        return ()

    def elsewhere(self, plan: Plan, lost: Set[str]) -> Plan | None:
        return None


def launch(
    plan: Plan,
    config: Config,
    run_dir: Path,
    *,
    module: str = WORKER,
    arguments: Sequence[str] = (),
    on_tick: Callable[[], None] | None = None,
    on_failure: Callable[[Failure], None] | None = None,
) -> int:
    """Run ``python -m module run_dir *arguments`` once per device of ``plan`` until all have ended.

    As `launchers.attempt.attempt`, with nothing watched but whether processes run.

    Args:
        on_failure: called with the first failure; by default it is printed on stderr.

    Returns:
        `Attempt.status`.

    Raises:
        ConfigError: the cluster has devices that this machine cannot stand for.
    """
    ended = attempt(Local(), Start(plan, config, run_dir, module, arguments), on_tick)
    if ended.failure is not None:
        (on_failure or show)(ended.failure)
    return ended.status


def check(plan: Plan) -> None:
    """Raise ConfigError where this machine cannot stand for the cluster of ``plan``."""
    if plan.cluster.device.kind is not DeviceKind.cuda:
        return
    name, nodes = plan.cluster.name, plan.cluster.nodes
    if len(nodes) > 1:
        raise ConfigError(
            f"launcher=local starts processes on this machine alone, and cluster={name} has"
            f" {len(nodes)} nodes of GPUs: set cluster.nodes=1, or launcher=slurm on their login node"
        )
    visible = visible_count()
    if visible is not None and visible < nodes[0].devices:
        nearest = (
            f"set cluster.gpus_per_node={visible}" if visible else "choose a cluster of CPUs, as local_cpu"
        )
        raise ConfigError(
            f"cluster={name} has {nodes[0].devices} GPUs per node and this machine shows {visible}: {nearest}"
        )


def _environment(start: Start) -> dict[str, str]:
    """What all processes of ``start`` have in their environment."""
    shared = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        # Otherwise gloo resolves the host name, which on a laptop may lead to an address that is down.
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
        "OMP_NUM_THREADS": str(start.config.launcher.threads or max(1, _cores() // len(start.devices))),
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
    }
    if not {"", os.getcwd()} & set(sys.path):
        # As the `orchestrate` command itself does, workers look for modules in the installation alone: a
        # folder named like one of them, where the user happens to stand, must not be imported.
        shared["PYTHONSAFEPATH"] = "1"
    return shared


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def show(failure: Failure) -> None:
    """Print ``failure`` on stderr."""
    sys.stdout.flush()
    print(failure.text, file=sys.stderr, flush=True)
