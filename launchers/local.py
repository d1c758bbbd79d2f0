"""Starts every process of a plan on this machine; knows environments and exit codes, no training code."""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from launchers.exits import AGREED
from launchers.failure import Failure, Suspect, first_failure, memory_of
from launchers.heartbeat import forget_beats
from launchers.supervise import Command, Outcome, Stalled, supervise
from orchestrate.config import Config, DeviceKind
from orchestrate.errors import ConfigError
from orchestrate.plan.plan import Plan
from orchestrate.topology.cluster import Device

WORKER = "orchestrate.train.worker"
FAILED, MISTAKE = 1, 2


@dataclass(frozen=True)
class Attempt:
    """How one start of all ranks ended."""

    status: int
    """0: well. 1: a rank failed or hung. 2: over a mistake of the user's. `REQUEUE` and `GO_BACK` of
    `launchers.exits`, where all ranks left with it. 128 plus the signal: told to stop, and not saved."""
    failure: Failure | None = None
    """Where one failed: which came first."""
    hung: tuple[int, ...] = ()
    """Where they were ended over it: the processes that made no progress."""
    signal: int | None = None
    """The signal that told this process to stop."""


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

    As `attempt`, with nothing watched but whether processes run.

    Args:
        on_failure: called with the first failure; by default it is printed on stderr.

    Returns:
        `Attempt.status`.

    Raises:
        ConfigError: the cluster has devices that this machine cannot stand for.
    """
    ended = attempt(plan, config, run_dir, module=module, arguments=arguments, on_tick=on_tick)
    if ended.failure is not None:
        (on_failure or show)(ended.failure)
    return ended.status


def attempt(
    plan: Plan,
    config: Config,
    run_dir: Path,
    *,
    module: str = WORKER,
    arguments: Sequence[str] = (),
    on_tick: Callable[[], None] | None = None,
    stalled: Stalled | None = None,
    shown: Mapping[str, Sequence[int]] | None = None,
) -> Attempt:
    """Run ``python -m module run_dir *arguments`` once per device of ``plan`` until all have ended.

    Processes are numbered in the order of the cluster's devices, whatever ranks the plan places there:
    each is told its host and device, and finds its rank in the placement.

    Args:
        run_dir: the run's folder; ``logs/rank-K.log`` there gets the output of process K.
        on_tick: called some times a second meanwhile.
        stalled: says which of the running processes make no progress; see `launchers.supervise`.
        shown: by host, the GPUs that its processes may see; all where it is not named.

    Raises:
        ConfigError: the cluster has devices that this machine cannot stand for.
    """
    check(plan)
    logs = run_dir / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    for stale in logs.glob("failure-*.json"):
        stale.unlink()
    forget_beats(run_dir)
    devices = launch_order(plan)
    environments = _environments(devices, config.launcher.threads, shown or {})
    argv = [sys.executable, "-m", module, str(run_dir), *arguments]
    commands = [Command(argv, env, logs / f"rank-{k}.log") for k, env in enumerate(environments)]
    log_starts = [c.log.stat().st_size if c.log.exists() else 0 for c in commands]
    outcome = supervise(commands, config.launcher.grace_s, on_tick, stalled)
    if outcome.hung:
        return Attempt(FAILED, hung=outcome.hung)
    if not outcome.failed:
        return Attempt(_status(outcome), signal=outcome.signal)
    suspects = []
    for process, (device, command) in enumerate(zip(devices, commands, strict=True)):
        code, seen = outcome.failed.get(process, (None, math.inf))
        rank = plan.placement.rank_of(device)
        start = log_starts[process]
        suspects.append(Suspect(rank, process, device.host, device.index, command.log, start, code, seen))
    failure = first_failure(suspects)
    if failure.out_of_memory:
        failure = replace(failure, memory=memory_of(plan, failure.suspect.rank))
    status = FAILED if failure.mistake is None else MISTAKE
    return Attempt(status, failure, signal=outcome.signal)


def _status(outcome: Outcome) -> int:
    codes = set(outcome.codes.values())
    if outcome.signal == signal.SIGINT:
        return 128 + outcome.signal
    if len(codes) == 1 and codes <= AGREED:
        return codes.pop()
    return 0 if outcome.signal is None or codes == {0} else 128 + outcome.signal


def launch_order(plan: Plan) -> tuple[Device, ...]:
    """The devices that ``plan`` uses, node by node: process K runs on the K-th."""
    used = set(plan.placement.devices)
    return tuple(device for device in plan.cluster.devices if device in used)


def check(plan: Plan) -> None:
    """Raise ConfigError where this machine cannot stand for the cluster of ``plan``."""
    if plan.cluster.device.kind is not DeviceKind.cuda:
        return
    name, nodes = plan.cluster.name, plan.cluster.nodes
    if len(nodes) > 1:
        raise ConfigError(
            f"launcher=local starts processes on this machine alone, and cluster={name} has"
            f" {len(nodes)} nodes of GPUs: set cluster.nodes=1"
        )
    visible = _visible_gpus()
    if visible is not None and visible < nodes[0].devices:
        nearest = (
            f"set cluster.gpus_per_node={visible}" if visible else "choose a cluster of CPUs, as local_cpu"
        )
        raise ConfigError(
            f"cluster={name} has {nodes[0].devices} GPUs per node and this machine shows {visible}: {nearest}"
        )


def _visible_gpus() -> int | None:
    """GPUs that a process here would see, without asking CUDA; None where only CUDA could tell."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return len([entry for entry in chosen.split(",") if entry.strip() not in ("", "-1", "NoDevFiles")])
    if Path("/dev/dxg").exists():
        return None
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def _environments(
    devices: Sequence[Device], threads: int | None, shown: Mapping[str, Sequence[int]]
) -> list[dict[str, str]]:
    shared = {
        **os.environ,
        "WORLD_SIZE": str(len(devices)),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        # Otherwise gloo resolves the host name, which on a laptop may lead to an address that is down.
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
        "OMP_NUM_THREADS": str(threads or max(1, _cores() // len(devices))),
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
    }
    if not {"", os.getcwd()} & set(sys.path):
        # As the `orchestrate` command itself does, workers look for modules in the installation alone: a
        # folder named like one of them, where the user happens to stand, must not be imported.
        shared["PYTHONSAFEPATH"] = "1"
    return [
        {
            **shared,
            "RANK": str(process),
            "LOCAL_RANK": str(device.index),
            "ORCHESTRATE_HOST": device.host,
            "ORCHESTRATE_DEVICE": str(device.index),
            **_visible(shown.get(device.host)),
        }
        for process, device in enumerate(devices)
    ]


def _visible(devices: Sequence[int] | None) -> dict[str, str]:
    """What makes CUDA show only ``devices``, counted among those that this process sees; None: all."""
    if devices is None:
        return {}
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = None if chosen is None else chosen.split(",")
    return {"CUDA_VISIBLE_DEVICES": ",".join(str(i) if names is None else names[i] for i in devices)}


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
