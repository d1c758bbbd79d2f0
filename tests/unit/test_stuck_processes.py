"""Nobody waits for ever for a process that outlives SIGKILL, as one may that waits for a driver."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launchers import devices, processes
from launchers.processes import Command, Stuck, started
from orchestrate.topology.cluster import Device

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="held by Linux's ptrace")

HELD = """
import ctypes, os, signal, sys
libc = ctypes.CDLL(None)
libc.prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)  # PR_SET_PTRACER: anybody may
if os.fork() == 0:
    os.setsid()
    seized = libc.ptrace(0x4206, os.getppid(), 0, 0) == 0
    with open(sys.argv[1] + ".partial", "w") as file:
        file.write(f"{os.getpid()} {int(seized)}")
    os.rename(sys.argv[1] + ".partial", sys.argv[1])
signal.pause()
"""
"""As long as its child does not let go, the kernel tells nobody that this process has been killed."""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Path]:
    """Where `HELD` says who holds it, and whether that works here."""
    file = tmp_path / "holder"
    yield file
    if file.exists():
        os.kill(int(file.read_text().split()[0]), signal.SIGKILL)


def held(holder: Path) -> None:
    deadline = time.monotonic() + 60
    while not holder.exists():
        assert time.monotonic() < deadline, "it has not started"
    if holder.read_text().endswith("0"):
        pytest.skip("no process may trace another here")


def test_a_rank_that_outlives_sigkill_is_named(
    holder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_GIVEN_UP_S", 0.2)
    command = Command([sys.executable, "-c", HELD, str(holder)], os.environ, tmp_path / "rank-0.log")
    message = r"^process 0 \(pid \d+\) has not ended 0\.2 s after SIGKILL"
    with pytest.raises(Stuck, match=message), started([command]):
        held(holder)


def test_checks_that_take_turns_may_together_take_longer_than_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "CHECK_TIMEOUT_S", 1.5)
    slow = ["flock", str(tmp_path / "turn"), "sleep", "0.8"]
    assert devices.unhealthy([Device("node0", 0), Device("node0", 1)], slow, lambda host: ()) == set()


def test_a_device_whose_check_outlives_sigkill_is_lost(holder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "CHECK_TIMEOUT_S", 2.0)
    monkeypatch.setattr(devices, "_GONE_S", 0.2)
    device = Device("node0", 0)
    lost = devices.unhealthy([device], [sys.executable, "-c", HELD, str(holder)], lambda host: ())
    assert lost == {device}
    held(holder)
