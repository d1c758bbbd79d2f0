"""A worker process at its edges: who it is, how it joins the others, and how it leaves."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from launchers.exits import PORT_TAKEN
from orchestrate.config import DeviceKind
from orchestrate.errors import ConfigError, UserError
from orchestrate.mesh import join_world
from orchestrate.plan.plan import Plan
from orchestrate.topology.cluster import Device

JOIN_TIMEOUT_S = 300.0
"""Longest wait for the other processes to start, and for a collective of all ranks afterwards."""


@dataclass(frozen=True)
class Process:
    """What the launcher told this process about itself."""

    index: int
    """Which process of the launch this is; says nothing about its logical rank."""
    count: int
    here: Device
    master: str
    port: int
    remote: bool = False
    """Whether who started it watches it from another machine."""
    start: str = ""
    """Tells this start of the ranks from all others that may meet at the same address."""
    served: bool = False
    """Whether another process than one of the ranks serves that address."""

    @classmethod
    def from_environment(cls) -> Process:
        """Read the launcher's variables.

        Raises:
            ConfigError: one is missing: the process was not started by a launcher.
        """
        try:
            return cls(
                index=int(os.environ["RANK"]),
                count=int(os.environ["WORLD_SIZE"]),
                here=Device(os.environ["ORCHESTRATE_HOST"], int(os.environ["ORCHESTRATE_DEVICE"])),
                master=os.environ["MASTER_ADDR"],
                port=int(os.environ["MASTER_PORT"]),
                remote="ORCHESTRATE_REMOTE" in os.environ,
                start=os.environ.get("ORCHESTRATE_START", ""),
                served=os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
            )
        except KeyError as error:
            raise ConfigError(f"{error.args[0]} is not set: start workers with orchestrate train") from None

    def device(self, kind: DeviceKind) -> torch.device:
        """The torch device of this process; makes it the current one.

        Raises:
            ConfigError: the machine does not have it.
        """
        if kind is DeviceKind.cpu:
            return torch.device("cpu")
        # A scheduler that binds devices shows each process its own alone, always as number 0.
        visible = torch.cuda.device_count()
        index = 0 if visible == 1 else self.here.index
        if index >= visible:
            raise ConfigError(
                f"{self.here.host} should have CUDA device {index}, but {visible} are visible: "
                f"cluster.gpus_per_node is at most {visible} here"
            )
        torch.cuda.set_device(index)
        return torch.device("cuda", index)

    def join(self, plan: Plan, device: torch.device) -> None:
        """Join the other processes of ``plan``; waits until all are there."""
        is_master = self.index == 0 and not self.served
        several = len({device.host for device in plan.placement.devices}) > 1
        store = rendezvous(
            self.master, self.port, self.count, is_master=is_master, from_afar=self.remote and several
        )
        join_world(plan, self.here, device, PrefixStore(self.start, store), JOIN_TIMEOUT_S)


def rendezvous(master: str, port: int, count: int, *, is_master: bool, from_afar: bool = False) -> TCPStore:
    """Where ``count`` processes meet: at address ``master``, and at no other of the machine that has it.

    Args:
        from_afar: whether some of them run on other machines.

    Raises:
        ConfigError: ``master`` is no address of the machine that the master runs on, or one that only that
            machine reaches.
    """
    if not is_master:
        # Nobody is counted: who else listens there may be another run's.
        return TCPStore(master, port, count, is_master=False, wait_for_workers=False)
    # Left to itself, torch listens on every interface, for anybody.
    try:
        family, *_, address = socket.getaddrinfo(master, port, type=socket.SOCK_STREAM)[0]
        # As Debian and Ubuntu have it in /etc/hosts for the machine's own name. Who gives the address itself
        # means it.
        if from_afar and address[0] != master and ipaddress.ip_address(address[0]).is_loopback:
            raise ConfigError(
                f"MASTER_ADDR={master} is {address[0]} on {socket.gethostname()}, which no other machine"
                " reaches: set launcher.interface"
            )
        listening = socket.create_server(address[:2], family=family, backlog=count)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise
        raise ConfigError(f"MASTER_ADDR={master} is no address of {socket.gethostname()}: {error}") from None
    return TCPStore(
        master, port, count, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach()
    )


def report_failure(error: BaseException, process: Process, run_dir: Path) -> int:
    """Write the traceback to stderr, and to ``logs/failure-<index>.json`` for the launcher to show.

    Returns:
        The status to leave with.
    """
    text = "".join(traceback.format_exception(error))
    with contextlib.suppress(OSError):  # the log may lie on a disk that is full
        print(text, file=sys.stderr, flush=True)
    failure = {
        "rank": process.index,
        "host": process.here.host,
        "device": process.here.index,
        "time": time.time(),
        "traceback": text,
        "user_error": str(error) if isinstance(error, UserError) else None,
        "final": bool(getattr(error, "final", False)),
    }
    path = run_dir / "logs" / f"failure-{process.index}.json"
    path.parent.mkdir(exist_ok=True)
    # Renamed into place: the launcher may look at any moment.
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(failure))
    partial.rename(path)
    taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
    return PORT_TAKEN if taken else 1


def leave(status: int) -> None:
    """End the process at once.

    Not by returning: closing process groups waits for ranks that may be gone, and exit handlers of
    libraries wait for their servers.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status)


def on_terminate(action: Callable[[], None]) -> None:
    """Run ``action`` and leave with status 143 when SIGTERM comes; SIGINT is left to the launcher.

    A Python signal handler would have to wait for the main thread, which may sit in a collective
    whose other ranks are already gone. The interpreter's wake-up descriptor is written to by the
    signal itself, and a thread of its own reads it.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.set_wakeup_fd(writing)

    def wait() -> None:
        while os.read(reading, 1) != bytes([signal.SIGTERM]):
            pass
        action()
        leave(128 + signal.SIGTERM)

    threading.Thread(target=wait, name="terminate", daemon=True).start()
