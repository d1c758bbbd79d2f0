"""A machine without GPUs: its cores are the devices."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Processor:
    name: str | None
    cores: int
    """That this process may run on."""
    memory_gib: float | None
    """Of the machine, or what its control group allows where that is less."""
    bf16: bool | None
    """Whether it has bf16 arithmetic (AMX, AVX-512 BF16, Arm BF16); None where it lists no features."""


def read_processor(root: Path = Path("/")) -> Processor:
    """The processor that ``root``/proc describes, as far as it does."""
    info = _text(root / "proc/cpuinfo")
    name = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", info, re.MULTILINE)
    return Processor(
        name=" ".join(name[1].split()) if name else None,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gib=_memory_gib(root),
        bf16=bool({"amx_bf16", "avx512_bf16", "bf16"} & set(flags[1].split())) if flags else None,
    )


def _memory_gib(root: Path) -> float | None:
    total = re.search(r"^MemTotal:\s*(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    limit = _text(root / "sys/fs/cgroup/memory.max").strip()
    sizes = [int(total[1]) / 2**20] if total else []
    if limit.isdecimal():
        sizes.append(int(limit) / 2**30)
    return min(sizes, default=None)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
