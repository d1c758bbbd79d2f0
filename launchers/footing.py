"""What a run stands on: the devices that are left of its cluster, and how it goes on without the others."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

from launchers.devices import Survivors, parse, reported_lost, unhealthy
from launchers.ranks import Launcher
from orchestrate.config import Config, DeviceKind
from orchestrate.errors import ConfigError
from orchestrate.plan.plan import Plan
from orchestrate.plan.search.replan import replan
from orchestrate.topology.cluster import Cluster, Device


class TooFew(ConfigError):
    """Nothing fits on the devices that are left; on others it might."""


@dataclass(frozen=True)
class Change:
    """How a run goes on."""

    plan: Plan
    kind: str
    """moved | replanned, as of a `launchers.faults.Fault`."""
    text: str
    """What was lost and what takes its place, in a line."""


@dataclass
class Footing:
    """The devices that a run may use, which become fewer."""

    config: Config
    run_dir: Path
    launcher: Launcher
    _cluster: Cluster
    _left: Survivors = field(init=False)

    def __post_init__(self) -> None:
        self._left = Survivors.of(self._cluster)

    def lost_before(self) -> set[Device]:
        """What is known to be lost before anything has started.

        Raises:
            ConfigError: ``faults.lost`` names what is not there.
        """
        return parse(self.config.faults.lost, self._cluster) | reported_lost(self.run_dir, self._cluster)

    def lost(self, broken: Set[Device]) -> set[Device]:
        """Which devices are lost of those that were left: ``broken`` ones, and what is found out now.

        Raises:
            ConfigError: there is no such command as ``faults.health_check``.
        """
        lost = reported_lost(self.run_dir, self._cluster) | broken
        down = self.launcher.down()
        lost |= {device for device in self._left.devices if device.host in down}
        if self.config.faults.health_check:
            reachable = [device for device in self._left.devices if device.host not in down]
            lost |= unhealthy(reachable, self.config.faults.health_check, self.launcher.beside)
        return lost & set(self._left.devices)

    def go_on_without(self, lost: Set[Device], plan: Plan) -> Change:
        """Take other hosts in place of those of ``lost``, as ``plan`` is, or plan anew.

        Raises:
            TooFew: nothing fits on those that are left.
        """
        names = ", ".join(self._names(lost))
        whole = self._left == Survivors.of(self._cluster)
        moved = self.launcher.elsewhere(plan, {device.host for device in lost}) if whole else None
        if moved is not None:
            spare = sorted({node.host for node in moved.cluster.nodes} - self._left.by_host.keys())
            self._cluster, self._left = moved.cluster, Survivors.of(moved.cluster)
            return Change(moved, "moved", f"lost {names}; going on with {', '.join(spare)} in place of it")
        left = self._left.without(lost)
        try:
            fewer = replan(self.config, self._cluster, left.counts)
        except ConfigError as error:
            raise TooFew(str(error)) from None
        # The plan on fewer devices of a node counts those from 0.
        used = {d.host: left.by_host[d.host] for d in fewer.placement.devices}
        self._left = replace(left, by_host=used)
        text = f"lost {names}; planned again for {fewer.dims.world} devices: {_degrees(fewer)}"
        return Change(fewer, "replanned", text)

    def _names(self, lost: Set[Device]) -> Iterator[str]:
        """Hosts of which all devices are lost, and single devices of others."""
        for host in sorted({device.host for device in lost}):
            indices = sorted(device.index for device in lost if device.host == host)
            whole = len(indices) == len(self._left.by_host[host])
            yield from [host] if whole else [f"{host}:{index}" for index in indices]

    def physical(self, device: Device) -> Device:
        """The device of the machine that stands behind ``device`` of the plan that the run is on."""
        return self._left.physical(device)

    def shown(self) -> dict[str, tuple[int, ...]]:
        """The GPUs that each host's processes may see, where they are not all of them."""
        if self._cluster.device.kind is not DeviceKind.cuda:
            return {}
        whole = Survivors.of(self._cluster).by_host
        return {host: left for host, left in self._left.by_host.items() if left != whole[host]}


def _degrees(plan: Plan) -> str:
    return " ".join(f"{axis}{plan.dims.degree(axis)}" for axis in ("tp", "pp", "dp"))
