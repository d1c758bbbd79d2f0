"""Kills the ranks that a dead launcher left behind. A script of its own: `launchers.supervise` starts it.

The launcher writes the process group of each rank to this process's stdin, one number per line, and
``-N`` when group N has ended. When stdin closes, the launcher is gone, however it went: SIGKILL and a
lost terminal included. What is still listed then is killed, with whatever those ranks started.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterable


def watch(lines: Iterable[str]) -> None:
    """Follow ``lines`` to their end, then kill every process group that is still listed."""
    groups: set[int] = set()
    for line in lines:
        number = int(line)
        if number > 0:
            groups.add(number)
        else:
            groups.discard(-number)
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    watch(sys.stdin)
