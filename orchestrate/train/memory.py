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


def _peak_resident() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: on Linux its peak is inherited over exec from the process that forked us.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
