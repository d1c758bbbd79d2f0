"""The pool itself: fresh worlds, failures that come back quickly, no orphans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import torch.distributed as dist

from orchestrate.parallel.zero.deepspeed_setup import import_deepspeed
from tests.distributed.pool import Pool, RankFailed


def total(value: float) -> tuple[int, int, float]:
    summed = torch.tensor(value * (dist.get_rank() + 1))
    dist.all_reduce(summed)
    return os.getpid(), dist.get_rank(), summed.item()


def fail_on(rank: int) -> None:
    if dist.get_rank() == rank:
        raise ArithmeticError("this rank is wrong")
    dist.all_reduce(torch.ones(1))


def die_on(rank: int) -> None:
    if dist.get_rank() == rank:
        os._exit(7)
    dist.all_reduce(torch.ones(1))


def hang_on(rank: int) -> None:
    if dist.get_rank() != rank:
        dist.all_reduce(torch.ones(1))
    else:
        signal.pause()


def use_deepspeed() -> tuple[int, float]:
    # As training does, which compiles nothing: a build that is cut short leaves a lock that others wait for.
    deepspeed = import_deepspeed(torch.device("cpu"))
    summed = torch.ones(1)
    deepspeed.comm.all_reduce(summed)
    return os.getpid(), summed.item()


def test_worlds_of_any_size_reuse_the_workers(pool: Pool) -> None:
    for world_size in (2, 1, 4, 3):
        pids, ranks, sums = zip(*pool.run(world_size, total, 2.0), strict=True)
        assert ranks == tuple(range(world_size))
        assert set(sums) == {world_size * (world_size + 1.0)}
        assert set(pids) <= set(pool.processes)


def test_a_failing_rank_is_named_with_its_traceback(pool: Pool) -> None:
    with pytest.raises(RankFailed, match=r"(?s)rank 1 failed.*in fail_on.*this rank is wrong") as caught:
        pool.run(3, fail_on, 1)
    assert caught.value.rank == 1
    assert pool.run(3, total, 1.0)[0][2] == 6.0


def test_a_dead_rank_is_named_with_its_exit_code(pool: Pool) -> None:
    with pytest.raises(RankFailed, match="exit code 7"):
        pool.run(2, die_on, 0)
    assert pool.run(2, total, 1.0)[1][2] == 3.0


def test_a_hanging_call_ends_and_shows_where_it_hangs(pool: Pool) -> None:
    with pytest.raises(RankFailed, match=r"(?s)ranks \[0, 1\].*in hang_on"):
        pool.run(2, hang_on, 1, timeout=3)
    assert pool.run(2, total, 1.0)[1][2] == 3.0


def test_a_worker_that_brought_deepspeed_up_is_replaced(pool: Pool) -> None:
    first = pool.run(2, use_deepspeed)
    second = pool.run(4, use_deepspeed)
    assert [value for _, value in first + second] == [2.0, 2.0, 4.0, 4.0, 4.0, 4.0]
    assert not {pid for pid, _ in first} & {pid for pid, _ in second}


def test_no_worker_outlives_a_killed_session() -> None:
    script = (
        "from tests.distributed.pool import Pool\n"
        "from tests.distributed.test_pool import total\n"
        "pool = Pool(preload=('torch',))\n"
        "print(*[pid for pid, _, _ in pool.run(2, total, 1.0)], flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as session:
        try:
            assert session.stdout is not None
            pids = [int(pid) for pid in session.stdout.readline().split()]
            assert len(pids) == 2
        finally:
            session.kill()  # whatever went wrong, or the block would wait for it at its end
    deadline = time.monotonic() + 30
    while any(map(_alive, pids)):
        assert time.monotonic() < deadline, "workers outlived their session"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
