"""Signals to a rank: stop at the next step, leave at once, show where you are.

========  ==================================================================================
SIGTERM   finish the step, save, leave; a second one: leave at once
SIGUSR1   the same: what schedulers send some time before a limit
SIGUSR2   write every thread's Python stack and the flight recorder to the run's logs
SIGINT    ignored: Ctrl-C is the launcher's, which passes it on as SIGTERM
========  ==================================================================================
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import torch.distributed as dist

from orchestrate.mesh import ParallelContext

_STOP = {signal.SIGTERM, signal.SIGUSR1}


class Requests:
    """What this process has been asked for so far; listens from the moment it is made.

    A Python signal handler would have to wait for the main thread, which may sit in a collective
    whose other ranks are already gone. The interpreter's wake-up descriptor is written to by the
    signal itself, and a thread of its own reads it.

    Args:
        leave: called on that thread when the process must end at once.
    """

    def __init__(self, run_dir: Path, process: int, leave: Callable[[], None]) -> None:
        self.stop = False
        self._axes: dict[str, str] = {}
        self._leave = leave
        self._flight = flight_file(run_dir, process)
        self._flight.parent.mkdir(parents=True, exist_ok=True)
        self._flight.unlink(missing_ok=True)
        self._reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (*_STOP, signal.SIGUSR2):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        # Written by the signal handler itself, whatever the interpreter is busy with.
        self._stacks = stacks_file(run_dir, process).open("w")
        faulthandler.register(signal.SIGUSR2, file=self._stacks, all_threads=True, chain=True)
        threading.Thread(target=self._listen, name="requests", daemon=True).start()

    def name_groups(self, context: ParallelContext) -> None:
        """From now on call the groups of ``context`` by the names of their axes."""
        for axis in (context.tp, context.cp, context.dp, context.pp, context.model, context.tied):
            if axis.group is not None:
                self._axes.setdefault(str(axis.group.group_name), axis.name)

    def _listen(self) -> None:
        while True:
            number = os.read(self._reading, 1)[0]
            if number == signal.SIGUSR2:
                self._send_stacks()
                self._show_collectives()
            elif number == signal.SIGTERM and self.stop:
                self._leave()
            elif number in _STOP:
                self.stop = True

    def _send_stacks(self) -> None:
        """See to it that other machines can read the stacks that the signal handler has written."""
        with contextlib.suppress(OSError):
            os.fsync(self._stacks.fileno())

    def _show_collectives(self) -> None:
        """Write what torch's flight recorder knows, and who is in each group."""
        partial = self._flight.with_suffix(".partial")
        with contextlib.suppress(OSError):
            partial.write_bytes(b'{"groups": %s, "trace": %s}' % (_groups(self._axes), _trace()))
            partial.rename(self._flight)


def stacks_file(run_dir: Path, process: int) -> Path:
    """Where a rank writes its Python stacks."""
    return run_dir / "logs" / f"stacks-{process}.txt"


def flight_file(run_dir: Path, process: int) -> Path:
    """Where a rank writes the collectives that it has begun."""
    return run_dir / "logs" / f"flight-{process}.json"


def _trace() -> bytes:
    from torch._C import _distributed_c10d as c10d

    for name in ("_dump_nccl_trace_json", "_dump_fr_trace_json"):
        dump = getattr(c10d, name, None)
        if dump is not None:
            return bytes(dump())
    return b"{}"


def _groups(axes: Mapping[str, str]) -> bytes:
    """By the name of each group: what it is for and its ranks."""
    if not dist.is_initialized():
        return b"{}"
    world = dist.distributed_c10d._world
    known = {
        str(name): {
            "what": axes.get(str(name), str(group.group_desc)),
            "ranks": dist.get_process_group_ranks(group),
        }
        for group, name in world.pg_names.items()
    }
    return json.dumps(known).encode()
