"""The ranks of one start, wherever they run: what is started, and what can be asked of it.

`launchers.local` starts processes on this machine, `launchers.slurm` one task per device of a job's
allocation. All that decides something (`launchers.supervise`, `launchers.restart`) is the same for both.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from orchestrate.config import Config
from orchestrate.errors import ConfigError
from orchestrate.plan.plan import Plan
from orchestrate.topology.cluster import Device

WORKER = "orchestrate.train.worker"


@dataclass(frozen=True)
class Start:
    """One start of all ranks of a plan: ``python -m module run_dir *arguments`` once per device.

    Processes are numbered in the order of the cluster's devices, whatever ranks the plan places there:
    each is told its host and device, and finds its rank in the placement.
    """

    plan: Plan
    config: Config
    run_dir: Path
    module: str = WORKER
    arguments: Sequence[str] = ()
    shown: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """By host, the GPUs that its processes may see; all where it is not named."""

    @property
    def argv(self) -> list[str]:
        return [sys.executable, "-m", self.module, str(self.run_dir), *self.arguments]

    @property
    def devices(self) -> tuple[Device, ...]:
        """By process."""
        return launch_order(self.plan)

    def log(self, process: int) -> Path:
        """Gets the process's stdout and stderr, appended."""
        return log_of(self.run_dir, process)

    def identity(self, process: int) -> dict[str, str]:
        """The environment that tells a process who it is; `orchestrate.train.process` reads it."""
        device = self.devices[process]
        return {
            "RANK": str(process),
            "WORLD_SIZE": str(len(self.devices)),
            "LOCAL_RANK": str(device.index),
            "ORCHESTRATE_HOST": device.host,
            "ORCHESTRATE_DEVICE": str(device.index),
        }


def log_of(run_dir: Path, process: int) -> Path:
    """Where a process's stdout and stderr go, in the run's folder."""
    return run_dir / "logs" / f"rank-{process}.log"


def launch_order(plan: Plan) -> tuple[Device, ...]:
    """The devices that ``plan`` uses, node by node: process K runs on the K-th."""
    used = set(plan.placement.devices)
    return tuple(device for device in plan.cluster.devices if device in used)


def nodes_of(plan: Plan) -> int:
    """How many nodes ``plan`` uses."""
    return len({device.host for device in plan.placement.devices})


def devices_per_node(plan: Plan) -> int:
    """How many devices ``plan`` uses on each node.

    Raises:
        ConfigError: not as many on every node: no scheduler is asked for that.
    """
    used: dict[str, int] = {}
    for device in plan.placement.devices:
        used[device.host] = used.get(device.host, 0) + 1
    if len(counts := sorted(set(used.values()))) > 1:
        raise ConfigError(
            f"cluster={plan.cluster.name}: the plan uses {' and '.join(map(str, counts))} devices per node,"
            " and a job gets the same of every node: set cluster.groups=[] or cluster.gpus_per_node"
        )
    return counts[0]


class Reachable(Protocol):
    """Processes that can be sent a signal."""

    def ask(self, number: int) -> None:
        """Send signal ``number`` to every one that runs, but not to what it started: that is its to end."""

    def held(self) -> Set[int]:
        """Those known to be stopped by the system, as after SIGSTOP."""


class Ranks(Reachable, Protocol):
    """The processes of one start, which has begun."""

    @property
    def count(self) -> int:
        """How many there are."""

    @property
    def again_s(self) -> float:
        """Seconds between one SIGTERM and the next: the first asks a rank to finish its step, the second to
        leave."""

    def ended(self) -> Mapping[int, int]:
        """Those that have ended since the last call, with return codes as `subprocess` has them."""

    def end(self, number: int) -> None:
        """Send signal ``number`` to every one that runs and to all that it started."""

    def lost(self) -> Set[str]:
        """The hosts known to have gone down with their processes, which then count as ended."""


class Launcher(Protocol):
    """What starts ranks."""

    def check(self, plan: Plan) -> None:
        """Raise ConfigError where it has not the devices that ``plan`` needs."""

    def start(self, start: Start) -> AbstractContextManager[Ranks]:
        """Start the ranks; when the context ends, nothing of them is left."""

    def down(self) -> Set[str]:
        """The hosts that can no longer be used."""

    def beside(self, host: str) -> Sequence[str]:
        """What a command begins with to run on ``host``."""

    def elsewhere(self, plan: Plan, lost: Set[str]) -> Plan | None:
        """``plan`` with other hosts in place of the ``lost`` ones, which are not used again; None where there
        are none that do as well."""
