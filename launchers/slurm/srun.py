"""The command lines of the steps that a job starts, and what is in their environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from launchers.slurm.commands import log_pattern
from launchers.snapshot import source_tree
from orchestrate.config import Config, ContainerRuntime, DeviceKind, LauncherConfig
from orchestrate.topology.discover.hostlist import compress

_ASKED_OF_THE_JOB = (
    "SLURM_NTASKS",
    "SLURM_NPROCS",
    "SLURM_NTASKS_PER_NODE",
    "SLURM_TASKS_PER_NODE",
    "SLURM_NNODES",
    "SLURM_JOB_NUM_NODES",
    "SLURM_DISTRIBUTION",
    "SLURM_CPUS_PER_TASK",
    "SLURM_CPU_BIND",
    "SLURM_CPU_BIND_LIST",
    "SLURM_CPU_BIND_TYPE",
    "SLURM_CPU_BIND_VERBOSE",
    "SLURM_HOSTFILE",
)
"""What sbatch was asked for the job as a whole; srun would take it as asked for a step."""

_ANY_STEP = (
    "--overlap",  # an earlier step may hold its share for as long as one of its nodes is away
    "--no-kill",
    "--kill-on-bad-exit=0",  # who goes on and who is ended is for the supervisor to say
    "--wait=0",
    "--input=none",
    "--mpi=none",
    "--export=ALL",
)


def ranks_step(
    config: Config,
    cpus: Mapping[str, int],
    hosts: Sequence[str],
    name: str,
    run_dir: Path,
    command: Sequence[str],
) -> list[str]:
    """`srun` of ``command``, one task per device.

    Args:
        cpus: by host, the job's processors there.
        hosts: by process; needs `SLURM_HOSTFILE` with the same.
        name: of the step.
    """
    launcher = config.launcher
    per_host = {host: hosts.count(host) for host in dict.fromkeys(hosts)}
    each = max(1, min(cpus[host] // count for host, count in per_host.items()))
    return [
        "srun",
        f"--job-name={name}",
        f"--nodes={len(per_host)}",
        f"--ntasks={len(hosts)}",
        "--distribution=arbitrary",
        f"--cpus-per-task={each}",
        f"--cpu-bind={launcher.cpu_bind or 'none'}",
        # A rank reaches its neighbours' memory directly only where it sees their devices.
        *(["--gpu-bind=none"] if config.cluster.device.kind is DeviceKind.cuda else []),
        *_ANY_STEP,
        f"--output={log_pattern(run_dir.absolute())}/logs/rank-%t.log",
        "--open-mode=append",
        *_contained(config, run_dir),
        *launcher.srun,
        *inside(config, run_dir, command),
    ]


def node_step(
    config: Config, hosts: Sequence[str], name: str, run_dir: Path, command: Sequence[str], log: str
) -> list[str]:
    """`srun` of ``command``, one task on each of ``hosts``, which may use the whole node.

    Args:
        log: file name in the run's ``logs``, where %N stands for the host.
    """
    return [
        "srun",
        f"--job-name={name}",
        f"--nodes={len(hosts)}",
        f"--ntasks={len(hosts)}",
        "--ntasks-per-node=1",
        f"--nodelist={compress(hosts)}",
        "--cpu-bind=none",
        *_ANY_STEP,
        f"--output={log_pattern(run_dir.absolute())}/logs/{log}",
        "--open-mode=truncate",
        *_contained(config, run_dir),
        *inside(config, run_dir, command),
    ]


def command_on(host: str) -> list[str]:
    """`srun` of one task on ``host``, for a command to follow."""
    return ["srun", "--nodes=1", "--ntasks=1", "--ntasks-per-node=1", f"--nodelist={host}", *_ANY_STEP]


def environment(config: Config, **more: str) -> dict[str, str]:
    """What `srun` gets, and with it every task."""
    kept = {key: value for key, value in os.environ.items() if key not in _ASKED_OF_THE_JOB}
    interface = config.launcher.interface
    chosen = {} if interface is None else {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}
    return {**kept, **chosen, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", **more}


def python(launcher: LauncherConfig) -> str:
    """The interpreter of the ranks."""
    return sys.executable if launcher.container is None else launcher.container_python


def inside(config: Config, run_dir: Path, command: Sequence[str]) -> list[str]:
    """``command``, in the container that the config names, where srun does not see to that itself."""
    launcher = config.launcher
    if launcher.container is None or launcher.container_runtime is not ContainerRuntime.apptainer:
        return list(command)
    nvidia = ["--nv"] if config.cluster.device.kind is DeviceKind.cuda else []
    binds = [part for mount in _mounts(config, run_dir) for part in ("--bind", mount)]
    return ["apptainer", "exec", *nvidia, *binds, launcher.container, *command]


def _contained(config: Config, run_dir: Path) -> list[str]:
    """Pyxis adds options of its own to srun."""
    launcher = config.launcher
    if launcher.container is None or launcher.container_runtime is not ContainerRuntime.pyxis:
        return []
    return [
        f"--container-image={launcher.container}",
        f"--container-mounts={','.join(_mounts(config, run_dir))}",
    ]


def _mounts(config: Config, run_dir: Path) -> list[str]:
    """FROM:TO; the run's folder, the code's and the data's are seen where they are."""
    # The runs of a job array share a copy of the code, beside their folders.
    root = source_tree()
    code = [] if root is None or run_dir.absolute() in root.parents else [str(root)]
    own = [str(run_dir.absolute()), *code, str(Path(config.data.cache).expanduser().absolute())]
    asked = [mount if ":" in mount else f"{mount}:{mount}" for mount in config.launcher.container_mounts]
    return [*(f"{folder}:{folder}" for folder in own), *asked]
