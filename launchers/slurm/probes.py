"""What every node of a job is asked before training, and what it says of itself.

One task per node (`orchestrate.train.preflight_probe`) writes what it finds into a file of the run's folder;
nothing is decided there.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from launchers.slurm import srun
from launchers.slurm.allocation import Allocation
from launchers.slurm.commands import signal_step, steps_of
from launchers.slurm.ports import PREFLIGHT, port_of
from orchestrate.config import Config, DeviceKind
from orchestrate.plan.plan import Plan

PROBE = "orchestrate.train.preflight_probe"
REQUEST_FILE = "request.json"
_STEP = "preflight"
_POLL_S = 0.05


@dataclass(frozen=True)
class Request:
    """What the probes are asked."""

    hosts: tuple[str, ...]
    """In the order in which neighbours exchange data."""
    addresses: tuple[str, ...]
    """By host, where its neighbour finds it."""
    port: int
    kind: DeviceKind
    gbps: float
    """GB/s that a link should have; 0: links are not measured."""
    interface: str | None
    files: tuple[str, ...]
    """Whose content all nodes must see alike."""
    link_timeout_s: float


@dataclass(frozen=True)
class Link:
    """What a node found of the way to one other."""

    peer: str
    gbps: float | None = None
    ahead_s: float | None = None
    """How far the peer's clock is ahead."""
    problem: str = ""


@dataclass(frozen=True)
class Answer:
    """What one node says."""

    host: str
    devices: int
    memory_gib: float
    """Of its smallest device; free memory of the node where devices are CPUs."""
    device_name: str
    driver: str
    """Empty where there is none."""
    disk_gib: dict[str, float]
    """Free, by folder."""
    content: str
    """Digest of the files that all must see alike."""
    address: str | None
    """Of ``Request.interface`` here."""
    links: tuple[Link, ...] | None = None
    """None until they are measured."""


def ask(
    plan: Plan,
    config: Config,
    allocation: Allocation,
    hosts: Sequence[str],
    run_dir: Path,
    name: str,
    deadline: float,
) -> dict[str, Answer]:
    """What those of ``hosts`` say that have said anything when all have ended, or at ``deadline``.

    Args:
        name: of the folder in the run's ``preflight`` for what is asked and answered.
        deadline: of `time.monotonic`.
    """
    folder = run_dir / "preflight" / name
    folder.mkdir(parents=True, exist_ok=True)
    network = plan.cluster.network
    request = Request(
        hosts=tuple(hosts),
        addresses=tuple(allocation.daemons[host].address for host in hosts),
        port=port_of(allocation.number, PREFLIGHT),
        kind=plan.cluster.device.kind,
        gbps=network.bandwidth_gbps * network.efficiency if config.launcher.preflight_bandwidth else 0.0,
        interface=config.launcher.interface,
        link_timeout_s=config.launcher.preflight_timeout_s / 4,
        files=tuple(str(run_dir.absolute() / file) for file in ("config.yaml", "planned.yaml")),
    )
    (folder / REQUEST_FILE).write_text(json.dumps(asdict(request)), encoding="utf-8")
    if hosts:
        _run_probes(config, hosts, run_dir, folder, deadline, allocation.job)
    return {host: answer for host in hosts if (answer := read_answer(folder, host)) is not None}


def _run_probes(
    config: Config, hosts: Sequence[str], run_dir: Path, folder: Path, deadline: float, job: str
) -> None:
    command = [srun.python(config.launcher), "-m", PROBE, str(folder.absolute())]
    argv = srun.node_step(config, hosts, _STEP, run_dir, command, "preflight-%N.log")
    with (run_dir / "logs" / "preflight.log").open("wb") as words:
        step = subprocess.Popen(
            argv,
            env=srun.environment(config),
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
            start_new_session=True,
        )
        try:
            while step.poll() is None and time.monotonic() < deadline:
                time.sleep(_POLL_S)
        finally:
            if step.poll() is None:
                if (running := steps_of(job).get(_STEP)) is not None:
                    signal_step(running, signal.SIGKILL)
                step.kill()
                step.wait()


def read_answer(folder: Path, host: str) -> Answer | None:
    """What ``host`` wrote last; None where it has written nothing."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        values = json.loads((folder / f"{host}.json").read_text(encoding="utf-8"))
        links = values["links"]
        return Answer(**{**values, "links": None if links is None else tuple(Link(**link) for link in links)})
    return None


def write_answer(folder: Path, answer: Answer) -> None:
    """For `read_answer`."""
    partial = folder / f"{answer.host}.partial"
    partial.write_text(json.dumps(asdict(answer)), encoding="utf-8")
    partial.rename(folder / f"{answer.host}.json")
