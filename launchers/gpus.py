"""The GPUs of this machine, without asking CUDA."""

from __future__ import annotations

import os
from collections.abc import Sequence, Set
from pathlib import Path


def visible_count() -> int | None:
    """GPUs that a process here would see; None where only CUDA could tell."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return len([entry for entry in chosen.split(",") if entry.strip() not in ("", "-1", "NoDevFiles")])
    if Path("/dev/dxg").exists():
        return None
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def visible(devices: Sequence[int] | None) -> dict[str, str]:
    """What makes CUDA show only ``devices``, counted among those that this process sees; None: all."""
    if devices is None:
        return {}
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = None if chosen is None else chosen.split(",")
    return {"CUDA_VISIBLE_DEVICES": ",".join(str(i) if names is None else names[i] for i in devices)}


def processors_near(device: int, root: Path = Path("/")) -> Set[int]:
    """The processors of this process's that are next to its ``device``-th visible GPU, counted by bus id as
    with CUDA_DEVICE_ORDER=PCI_BUS_ID; empty where that is not known."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        index = device if chosen is None else int(chosen.split(",")[device])
        buses = sorted(folder.name for folder in (root / "proc/driver/nvidia/gpus").iterdir())
        text = (root / "sys/bus/pci/devices" / buses[index] / "local_cpulist").read_text()
        return _numbers(text) & os.sched_getaffinity(0)
    except (OSError, ValueError, IndexError, AttributeError):
        return frozenset()


def _numbers(ranges: str) -> set[int]:
    """Of ``0-3,8``: 0, 1, 2, 3, 8."""
    found: set[int] = set()
    for part in ranges.strip().split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found
