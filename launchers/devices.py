"""Which devices of a cluster can still be used, and how those that are left are counted anew."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrate.errors import ConfigError
from orchestrate.topology.cluster import Cluster, Device

LOST_FILE = "lost.txt"
"""In a run's folder: one lost node or device per line. Anybody may write it while the run goes on."""
CHECK_TIMEOUT_S = 30.0
"""Of the wait for a check to end since the last one did."""
_GONE_S = 2.0
"""The same for checks that were killed to be gone. What asks a driver that hangs may never be."""
_POLL_S = 0.05


@dataclass(frozen=True)
class Survivors:
    """By host, the devices that are left, by the number that the machine knows them by.

    A plan counts the devices of a node 0, 1, …; once some are lost, its k-th is the k-th survivor.
    """

    by_host: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, cluster: Cluster) -> Survivors:
        """All devices of ``cluster``."""
        return cls({node.host: tuple(range(node.devices)) for node in cluster.nodes})

    def without(self, lost: Iterable[Device]) -> Survivors:
        gone = set(lost)
        left = {
            host: tuple(index for index in devices if Device(host, index) not in gone)
            for host, devices in self.by_host.items()
        }
        return Survivors(left)

    def physical(self, device: Device) -> Device:
        """The device of the machine that stands behind ``device`` of a plan on these survivors."""
        return Device(device.host, self.by_host[device.host][device.index])

    @property
    def devices(self) -> tuple[Device, ...]:
        return tuple(Device(host, index) for host, left in self.by_host.items() for index in left)

    @property
    def counts(self) -> dict[str, int]:
        """How many each host has left."""
        return {host: len(devices) for host, devices in self.by_host.items()}


def parse(names: Iterable[str], cluster: Cluster) -> set[Device]:
    """The devices that ``names`` stand for: ``node1`` is all of a node, ``node1:3`` one device of it.

    Raises:
        ConfigError: there is no such node or device.
    """
    by_host = {node.host: node for node in cluster.nodes}
    found: set[Device] = set()
    for name in names:
        host, colon, index = name.partition(":")
        if host not in by_host:
            raise ConfigError(f"faults.lost={name}: no such node; {cluster.name} has {', '.join(by_host)}")
        devices = cluster.devices_of(by_host[host])
        if colon and not (index.isdecimal() and int(index) < len(devices)):
            raise ConfigError(f"faults.lost={name}: {host} has devices 0 to {len(devices) - 1}")
        found.update([devices[int(index)]] if colon else devices)
    return found


def reported_lost(run_dir: Path, cluster: Cluster) -> set[Device]:
    """The devices that `LOST_FILE` names; lines that name none of ``cluster`` are passed over."""
    try:
        lines = (run_dir / LOST_FILE).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError):
        return set()
    found: set[Device] = set()
    for line in lines:
        with contextlib.suppress(ConfigError):
            found |= parse([line], cluster)
    return found


def unhealthy(
    devices: Sequence[Device], command: Sequence[str], beside: Callable[[str], Sequence[str]]
) -> set[Device]:
    """Of ``devices``, those for which ``command`` fails, or has not ended when for `CHECK_TIMEOUT_S` seconds
    none has.

    It runs for all devices at once, without a shell, with ``ORCHESTRATE_HOST`` and
    ``ORCHESTRATE_DEVICE`` in its environment.

    Args:
        beside: by host, what a command begins with to run there.

    Raises:
        ConfigError: there is no such command.
    """
    running: dict[Device, subprocess.Popen[bytes]] = {}
    try:
        for device in devices:
            told = {"ORCHESTRATE_HOST": device.host, "ORCHESTRATE_DEVICE": str(device.index)}
            running[device] = subprocess.Popen(
                [*beside(device.host), *command],
                env={**os.environ, **told},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        codes = _ended(running, CHECK_TIMEOUT_S)
        return {device for device in running if codes.get(device) != 0}
    except OSError as error:
        raise ConfigError(f"faults.health_check={command[0]}: {error.strerror}") from None
    finally:
        for process in running.values():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        _ended(running, _GONE_S)


def _ended(running: Mapping[Device, subprocess.Popen[bytes]], seconds: float) -> dict[Device, int]:
    """The return codes of those that end before none has for so many ``seconds``. Drivers and Slurm let many
    take turns, so together they may need longer."""
    codes: dict[Device, int] = {}
    deadline = time.monotonic() + seconds
    while True:
        for device in running.keys() - codes.keys():
            if (code := running[device].poll()) is not None:
                codes[device] = code
                deadline = time.monotonic() + seconds
        if len(codes) == len(running) or time.monotonic() > deadline:
            return codes
        time.sleep(_POLL_S)
