"""The most memory that this process has used."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch


def memory_kind(device: torch.device) -> str:
    """What `peak_bytes` counts on ``device``: ``cuda_allocated`` or ``process_resident``."""
    return "cuda_allocated" if device.type == "cuda" else "process_resident"


def peak_bytes(device: torch.device) -> int:
    """Peak bytes since the process started.

    On a CUDA device, what PyTorch's allocator handed out. On a CPU, where no allocator counts, the
    peak resident set of the whole process: the interpreter and its libraries are part of it.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return _peak_resident()


def resident_bytes() -> int:
    """Resident bytes of this process now; where the system does not tell, the most it has had."""
    return _status("VmRSS") or _peak_resident()


def _peak_resident() -> int:
    # Not getrusage where possible: on Linux its peak is inherited over exec from the process that forked us.
    if (known := _status("VmHWM")) is not None:
        return known
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _status(key: str) -> int | None:
    """Bytes that ``/proc/self/status`` has under ``key``; None where there is no such thing."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    return None
