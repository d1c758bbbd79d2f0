"""One node's part of a job's preflight: ``python -m orchestrate.train.preflight_probe FOLDER``, by srun.

Says what the node is without torch first, so that a node where torch does not start is known too; then
exchanges data with its neighbours as training will, through gloo or NCCL.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launchers.slurm.probes import REQUEST_FILE, Answer, Link, Request, write_answer
from orchestrate.config import DeviceKind
from orchestrate.plan.units import GIB

if TYPE_CHECKING:
    import torch

_SECONDS = 0.25
"""How long one direction of a link is kept busy, were it as fast as it should be."""
_ROUNDS, _SHORT = 5, 2
"""Of the rounds that follow short ones the best counts: a busy moment says nothing of the link. The short
ones find the size, and use up what a switch lets through at once."""
_LARGEST = 256 << 20
_SMALLEST = 64 << 10
_SIOCGIFADDR = 0x8915


def main(folder: Path) -> None:
    """Answer the request in ``folder``."""
    values = json.loads((folder / REQUEST_FILE).read_text(encoding="utf-8"))
    request = Request(
        **{
            **values,
            "kind": DeviceKind(values["kind"]),
            **{name: tuple(values[name]) for name in ("hosts", "addresses", "files")},
        }
    )
    answer = _itself(request, folder)
    write_answer(folder, answer)
    links = tuple(_links(request, answer.host)) if len(request.hosts) > 1 and request.gbps else ()
    write_answer(folder, dataclasses.replace(answer, links=links))
    os._exit(0)  # nobody waits for the threads of libraries


def _itself(request: Request, folder: Path) -> Answer:
    gpus = _gpus() if request.kind is DeviceKind.cuda else []
    digest = hashlib.sha256()
    for file in request.files:
        digest.update(Path(file).read_bytes())
    memory = min((float(gpu[1]) / 1024 for gpu in gpus), default=0.0)
    return Answer(
        host=os.environ["SLURMD_NODENAME"],
        devices=len(gpus),
        memory_gib=memory if request.kind is DeviceKind.cuda else _free_memory_gib(),
        device_name=", ".join(sorted({gpu[0] for gpu in gpus})),
        driver=", ".join(sorted({gpu[2] for gpu in gpus})),
        disk_gib={
            str(place): shutil.disk_usage(place).free / GIB for place in (folder, Path(tempfile.gettempdir()))
        },
        content=digest.hexdigest(),
        address=None if request.interface is None else _address(request.interface),
    )


def _gpus() -> list[list[str]]:
    """Name, MiB and driver of each."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    return [row for row in rows if len(row) == 3]


def _free_memory_gib() -> float:
    text = Path("/proc/meminfo").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("MemAvailable")) / 2**20


def _address(interface: str) -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            packed = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", interface.encode()[:15]))
        except OSError:
            return None
    return socket.inet_ntoa(packed[20:24])


def neighbours(count: int) -> Iterator[tuple[int, int]]:
    """Pairs that make a ring of so many nodes, ordered so that a node is in one pair at a time."""
    ring = [(i, (i + 1) % count) for i in range(count if count > 2 else count - 1)]
    yield from (pair for pair in ring if pair[0] % 2 == 0 and pair[1] != 0)
    yield from (pair for pair in ring if pair[0] % 2 == 1 and pair[1] != 0)
    yield from (pair for pair in ring if pair[1] == 0)


def _links(request: Request, host: str) -> Iterator[Link]:
    """What this node finds of the ways to its neighbours; of each pair, the first one tells."""
    import torch

    here = request.hosts.index(host)
    cuda = request.kind is DeviceKind.cuda
    device = torch.device("cuda", 0) if cuda else torch.device("cpu")
    server = None
    for first, second in neighbours(len(request.hosts)):
        if here not in (first, second):
            continue
        peer = request.hosts[second if here == first else first]
        try:
            server = server or _store(request, here, is_master=True)
            store = server if here == first else _store(request, first, is_master=False)
            gbps, ahead = _exchange(request, store, device, f"{first}-{second}", int(here == second))
        except Exception as error:  # whatever it is, it is what is wrong with the link
            if here == first:
                words = str(error).strip().splitlines()
                yield Link(
                    peer, problem=f"no connection: {words[0] if words else type(error).__name__}"[:200]
                )
        else:
            if here == first:
                yield Link(peer, gbps, ahead)


def _store(request: Request, at: int, *, is_master: bool) -> Any:
    from datetime import timedelta

    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    address = request.addresses[at]
    timeout = timedelta(seconds=request.link_timeout_s)
    return TCPStore(address, request.port, 2, is_master, timeout, wait_for_workers=False)


def _exchange(
    request: Request, store: Any, device: torch.device, name: str, rank: int
) -> tuple[float, float]:
    """GB/s, the mean of both directions, and how far the other's clock is ahead in seconds; on both."""
    from datetime import timedelta

    import torch
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    timeout = timedelta(seconds=request.link_timeout_s)
    group: Any
    if device.type == "cuda":
        from torch.distributed import ProcessGroupNCCL

        options = ProcessGroupNCCL.Options()
        options._timeout = timeout
        group = ProcessGroupNCCL(PrefixStore(name, store), rank, 2, options)
    else:
        from torch.distributed import ProcessGroupGloo

        group = ProcessGroupGloo(PrefixStore(name, store), rank, 2, timeout)

    def send(tensor: torch.Tensor) -> None:
        group.send([tensor], 1 - rank, 0).wait()

    def receive(tensor: torch.Tensor) -> None:
        group.recv([tensor], 1 - rank, 0).wait()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def there_and_back(tensor: torch.Tensor) -> float:
        began = time.perf_counter()
        for step in (send, receive) if rank == 0 else (receive, send):
            step(tensor)
        return time.perf_counter() - began

    small = torch.zeros(_SMALLEST, dtype=torch.uint8, device=device)
    there_and_back(small)
    ahead = _clock(send, receive, device, rank)
    size = torch.zeros(1, dtype=torch.int64, device=device)
    speeds: list[float] = []
    for _ in range(_ROUNDS):
        # The first says how much: the second cannot tell when a message was sent.
        if rank == 0:
            at_speed = min(request.gbps * 1e9, speeds[-1]) * _SECONDS if speeds else 0.0
            grown = min(at_speed, 8 * float(size.item()), _LARGEST)
            size.fill_(int(max(_SMALLEST, grown)))
            send(size)
        else:
            receive(size)
        tensor = torch.zeros(int(size.item()), dtype=torch.uint8, device=device)
        speeds.append(2 * tensor.numel() / there_and_back(tensor))
    return max(speeds[_SHORT:]) / 1e9, ahead


def _clock(send: Any, receive: Any, device: torch.device, rank: int) -> float:
    """How far the other's clock is ahead: its time, against the middle of the question and the answer."""
    import torch

    told = torch.zeros(1, dtype=torch.float64, device=device)
    asked = time.time()
    if rank == 0:
        send(told)
        receive(told)
        return float(told.item()) - (asked + time.time()) / 2
    receive(told)
    told.fill_(time.time())
    send(told)
    return 0.0


if __name__ == "__main__":
    main(Path(sys.argv[1]))
