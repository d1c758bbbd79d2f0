"""One pool of worker processes that every multi-process check of a test session shares.

Workers are forked from a server that has imported torch and DeepSpeed once, so a fresh worker
costs milliseconds, and they are kept from call to call. A worker is replaced when its call failed
or when it brought DeepSpeed up: DeepSpeed keeps its backend, its groups and ZeRO-3's patches of
``torch.nn`` in module globals that name the process group of that call.
"""

from __future__ import annotations

import faulthandler
import importlib
import multiprocessing
import os
import pickle
import queue
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import connection, forkserver
from pathlib import Path
from typing import Any

SIZE = 8
TIMEOUT = 180.0
"""Seconds one call may take, unless it says otherwise."""

_PRELOAD = (
    "torch",
    "torch.distributed.fsdp",
    "torch.distributed.pipelining",
    "torch.distributed.checkpoint",
    "deepspeed",
    "orchestrate.train.record",
)
_GRACE = 1.0
"""Seconds that the other ranks get to report once one has failed."""


class RankFailed(Exception):
    """A rank raised, died or hung. The text names the first one and holds its traceback."""

    def __init__(self, rank: int, reason: str):
        super().__init__(f"rank {rank} failed\n{reason}")
        self.rank = rank
        self.reason = reason


@dataclass
class _Worker:
    process: Any
    pipe: connection.Connection
    log: Path

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


class Pool:
    """Up to ``size`` workers, started when first needed."""

    def __init__(self, size: int = SIZE, preload: tuple[str, ...] = _PRELOAD):
        self.size = size
        self._preload = preload
        self._workers: list[_Worker | None] = [None] * size
        self._folder = tempfile.TemporaryDirectory(prefix="pool-")
        self._calls = 0
        self._store: Any = None

    def run(
        self, world_size: int, function: Callable[..., Any], *args: Any, timeout: float = TIMEOUT
    ) -> list[Any]:
        """Call ``function(*args)`` on ``world_size`` ranks of a fresh gloo world; results by rank.

        ``function`` is named by its module and name, so it must stand at the top level of a module;
        arguments and results are pickled by value. ``RANK``, ``WORLD_SIZE`` and the other launcher
        variables are set for the call.

        Raises:
            RankFailed: the first rank that raised, died, or did not finish within ``timeout`` seconds.
        """
        if not 1 <= world_size <= self.size:
            raise ValueError(f"world_size={world_size}: the pool has {self.size} workers")
        self._calls += 1
        payload = pickle.dumps(args)
        for rank in range(world_size):
            worker = self._worker(rank)
            call = (
                (function.__module__, function.__qualname__),
                payload,
                rank,
                world_size,
                self._port,
                self._calls,
                timeout,
            )
            worker.pipe.send_bytes(pickle.dumps(call))
        try:
            return self._collect(world_size, timeout)
        except BaseException:
            self._replace(range(world_size))
            raise

    def close(self) -> None:
        """Stop every worker. The server they are forked from ends with this process."""
        self._replace(range(self.size))
        self._store = None
        self._folder.cleanup()

    @property
    def processes(self) -> list[int]:
        """Process ids of the living workers."""
        return [w.process.pid for w in self._workers if w is not None]

    @property
    def _port(self) -> int:
        if self._store is None:
            from torch.distributed import TCPStore

            self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        return int(self._store.port)

    def _worker(self, rank: int) -> _Worker:
        worker = self._workers[rank]
        if worker is None:
            self._workers[rank] = worker = self._start(Path(self._folder.name) / f"worker-{rank}.log")
        return worker

    def _start(self, log: Path) -> _Worker:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(self._preload))
        ours, theirs = context.Pipe()
        with _environment(_server_environment()):
            forkserver.ensure_running()  # type: ignore[attr-defined]
            process = context.Process(target=_serve, args=(theirs, str(log)), daemon=True)
            process.start()
        theirs.close()
        return _Worker(process, ours, log)

    def _replace(self, ranks: Any) -> None:
        for rank in ranks:
            worker, self._workers[rank] = self._workers[rank], None
            if worker is not None:
                worker.kill()

    def _collect(self, world_size: int, timeout: float) -> list[Any]:
        results: dict[int, Any] = {}
        failures: dict[int, tuple[float, str]] = {}
        used_up = []
        deadline = time.monotonic() + timeout
        while len(results) + len(failures) < world_size:
            pending = {
                r: self._worker(r) for r in range(world_size) if r not in results and r not in failures
            }
            left = deadline - time.monotonic()
            ready = connection.wait([w.pipe for w in pending.values()], max(left, 0))
            if not ready and failures:
                break
            if not ready:
                rank = min(pending)
                raise RankFailed(
                    rank, f"no answer in {timeout:g} s from ranks {sorted(pending)}\n{_stacks(pending)}"
                )
            for rank, worker in pending.items():
                if worker.pipe not in ready:
                    continue
                try:
                    status, when, value, spent = pickle.loads(worker.pipe.recv_bytes())
                except EOFError:
                    worker.process.join()
                    # Whoever lost a connection to it noticed at about the same time, but died of nothing.
                    status, when, spent = "failed", 0.0, True
                    value = f"the process died with exit code {worker.process.exitcode}\n{_tail(worker.log)}"
                if status == "failed":
                    failures[rank] = (when, value)
                    deadline = min(deadline, time.monotonic() + _GRACE)
                else:
                    results[rank] = value
                    if spent:
                        used_up.append(rank)
        if failures:
            # The first by the clock: the others mostly report a connection that it closed.
            first = min(failures, key=lambda rank: failures[rank][0])
            raise RankFailed(first, failures[first][1])
        self._replace(used_up)
        return [results[rank] for rank in range(world_size)]


def _server_environment() -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    wanted = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths), "DS_ACCELERATOR": "cpu"}
    if sys.platform == "linux":
        wanted["GLOO_SOCKET_IFNAME"] = "lo"  # a test machine's host name may not resolve
    return wanted


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def _stacks(workers: dict[int, _Worker]) -> str:
    for worker in workers.values():
        os.kill(worker.process.pid, signal.SIGUSR1)
    # Nothing tells when faulthandler has written from its signal handler: allow it a moment.
    connection.wait([worker.pipe for worker in workers.values()], 0.3)
    return "\n".join(f"--- rank {rank}\n{_tail(worker.log)}" for rank, worker in workers.items())


def _tail(log: Path, lines: int = 60) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""


def _serve(pipe: connection.Connection, log: str) -> None:
    """The worker's life: answer calls until the pool goes away."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    calls: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, calls), daemon=True).start()
    while True:
        pipe.send_bytes(_answer(*pickle.loads(calls.get())))


def _listen(pipe: connection.Connection, calls: queue.SimpleQueue[bytes]) -> None:
    """Hand calls on; end the process with the pool, even in the middle of a collective."""
    try:
        while True:
            calls.put(pipe.recv_bytes())
    except (EOFError, OSError):
        os._exit(1)


def _answer(
    name: tuple[str, str], payload: bytes, rank: int, world_size: int, port: int, call: int, timeout: float
) -> bytes:
    import torch
    import torch.distributed as dist

    where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in where.items()}, MASTER_ADDR="127.0.0.1")
    torch.set_num_threads(1)
    try:
        store = dist.PrefixStore(f"call-{call}", dist.TCPStore("127.0.0.1", port, is_master=False))
        dist.init_process_group(
            "gloo", store=store, rank=rank, world_size=world_size, timeout=timedelta(seconds=timeout)
        )
        function = getattr(importlib.import_module(name[0]), name[1])
        value = function(*pickle.loads(payload))
        dist.barrier()  # nobody closes connections that another rank still reads from
        answer = pickle.dumps(("done", time.time(), value, _deepspeed_is_up()))
        dist.destroy_process_group()
    except Exception:
        answer = pickle.dumps(("failed", time.time(), traceback.format_exc(), True))
    return answer


def _deepspeed_is_up() -> bool:
    module = sys.modules.get("deepspeed.comm.comm")
    return module is not None and module.cdb is not None
