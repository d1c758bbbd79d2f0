"""Where each rank stands: the degrees, the order of the axes, and the device under every rank.

A *rank* here is logical: its coordinates follow from the degrees and the axis order alone. Which
process plays it is decided by the placement, never by the order in which processes started.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

from orchestrate.config import Schedule
from orchestrate.topology.cluster import Device

AXES = ("tp", "cp", "dp", "pp")
"""Every mesh axis, in the default order: the one whose neighbours talk most first."""


@dataclass(frozen=True)
class Coordinates:
    """A rank's position along every axis."""

    tp: int
    cp: int
    dp: int
    pp: int


@dataclass(frozen=True)
class ParallelDims:
    """The degrees of parallelism, and ``order``: axes from fastest to slowest varying."""

    tp: int = 1
    cp: int = 1
    dp: int = 1
    pp: int = 1
    vpp: int = 1
    order: tuple[str, ...] = AXES

    def __post_init__(self) -> None:
        if sorted(self.order) != sorted(AXES):
            raise ValueError(f"axis order {self.order} must name each of {AXES} once")
        for field in fields(self):
            if field.name != "order" and getattr(self, field.name) < 1:
                raise ValueError(f"{field.name}={getattr(self, field.name)}: a degree is at least 1")

    @property
    def world(self) -> int:
        """Ranks in all."""
        return self.tp * self.cp * self.dp * self.pp

    def degree(self, axis: str) -> int:
        if axis not in AXES:
            raise KeyError(axis)
        return int(getattr(self, axis))

    def coordinates(self, rank: int) -> Coordinates:
        """Coordinates of logical ``rank`` (0 … world-1)."""
        if not 0 <= rank < self.world:
            raise IndexError(f"rank {rank} of {self.world}")
        position = {}
        for axis in self.order:
            rank, position[axis] = divmod(rank, self.degree(axis))
        return Coordinates(**position)

    def rank(self, at: Coordinates) -> int:
        """The logical rank at coordinates ``at``."""
        rank = 0
        for axis in reversed(self.order):
            rank = rank * self.degree(axis) + getattr(at, axis)
        return rank

    def groups(self, axis: str) -> Iterator[tuple[int, ...]]:
        """Ranks that differ along ``axis`` alone, in the axis's order; every rank is in one group."""
        stride = math.prod(self.degree(a) for a in self.order[: self.order.index(axis)])
        degree = self.degree(axis)
        for start in range(self.world):
            if (start // stride) % degree == 0:
                yield tuple(range(start, start + stride * degree, stride))

    def model_groups(self) -> Iterator[tuple[int, ...]]:
        """Ranks of each data-parallel replica, ascending; every rank is in one group."""
        members: dict[int, list[int]] = {}
        for rank in range(self.world):
            members.setdefault(self.coordinates(rank).dp, []).append(rank)
        yield from map(tuple, members.values())


@dataclass(frozen=True)
class Placement:
    """The device under every logical rank: ``devices[rank]``."""

    devices: tuple[Device, ...]

    def __post_init__(self) -> None:
        if len(set(self.devices)) != len(self.devices):
            raise ValueError("a placement puts two ranks on one device")

    def rank_of(self, device: Device) -> int:
        """The logical rank on ``device``.

        Raises:
            ValueError: the plan places no rank there.
        """
        if device not in self.devices:
            raise ValueError(f"the plan places no rank on device {device.index} of {device.host}")
        return self.devices.index(device)


def pipeline_rank(schedule: Schedule, pp: int, stage: int) -> int:
    """The pipeline rank that holds virtual ``stage``.

    Interleaved schedules loop (0 1 2 3 0 1 2 3); ZBV walks a V (0 1 2 3 3 2 1 0).
    """
    lap, position = divmod(stage, pp)
    back = schedule is Schedule.zbv and lap % 2 == 1
    return pp - 1 - position if back else position


def stages_by_rank(schedule: Schedule, pp: int, stages: int) -> tuple[tuple[int, ...], ...]:
    """By pipeline rank, the virtual stages that it holds, first to last."""
    held: list[list[int]] = [[] for _ in range(pp)]
    for stage in range(stages):
        held[pipeline_rank(schedule, pp, stage)].append(stage)
    return tuple(map(tuple, held))
