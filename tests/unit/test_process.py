"""How a worker process learns who it is, and how it leaves."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from launchers.exits import PORT_TAKEN
from orchestrate.errors import ConfigError, DataError
from orchestrate.topology.cluster import Device
from orchestrate.train.process import Process, rendezvous, report_failure

ROOT = Path(__file__).parents[2]
SET = {
    "RANK": "3",
    "WORLD_SIZE": "8",
    "ORCHESTRATE_HOST": "node1",
    "ORCHESTRATE_DEVICE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "1234",
}

BLOCKED = """
import ctypes
from orchestrate.train.process import on_terminate
on_terminate(lambda: print("told", flush=True))
print("ready", flush=True)
mutex = ctypes.create_string_buffer(64)
for _ in range(2):  # The second waits for ever, in C, where no signal handler of Python's runs.
    ctypes.CDLL(None).pthread_mutex_lock(mutex)
"""


def process() -> Process:
    return Process(index=3, count=8, here=Device("node1", 2), master="127.0.0.1", port=1234)


def test_it_learns_who_it_is_from_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SET.items():
        monkeypatch.setenv(name, value)
    assert Process.from_environment() == process()


@pytest.mark.parametrize("missing", SET)
def test_without_a_launcher_it_says_what_is_missing(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SET.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(missing)
    with pytest.raises(ConfigError, match=f"^{missing} is not set"):
        Process.from_environment()


@pytest.mark.skipif(sys.platform != "linux", reason="a zeroed mutex is Linux's")
def test_sigterm_ends_a_process_whose_main_thread_is_stuck() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", BLOCKED],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGINT)  # the launcher's business
    child.send_signal(signal.SIGTERM)
    rest, _ = child.communicate(timeout=30)
    assert rest == "told\n"
    assert child.returncode == 128 + signal.SIGTERM


def test_a_failure_is_written_for_the_launcher(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    try:
        raise RuntimeError("no good")
    except RuntimeError as error:
        report_failure(error, process(), tmp_path)
    failure = json.loads((tmp_path / "logs" / "failure-3.json").read_text())
    assert (failure["rank"], failure["host"], failure["device"]) == (3, "node1", 2)
    assert failure["traceback"].rstrip().endswith("RuntimeError: no good")
    assert failure["user_error"] is None
    assert failure["time"] > 0
    assert capfd.readouterr().err == failure["traceback"] + "\n"


def test_a_mistake_of_the_user_is_marked_as_one(tmp_path: Path) -> None:
    report_failure(DataError("words.txt is empty"), process(), tmp_path)
    failure = json.loads((tmp_path / "logs" / "failure-3.json").read_text())
    assert failure["user_error"] == "words.txt is empty"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere 127.0.0.2 is no address by itself")
def test_the_rendezvous_listens_where_it_is_told_and_nowhere_else() -> None:
    with socket.create_server(("127.0.0.2", 0)) as probe:
        port = probe.getsockname()[1]
    store = rendezvous("127.0.0.2", port, 1, is_master=True)
    rendezvous("127.0.0.2", port, 1, is_master=False).set("key", "value")
    assert store.get("key") == b"value"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_a_rendezvous_elsewhere_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"MASTER_ADDR=192\.0\.2\.1 is no address of "):
        rendezvous("192.0.2.1", 29500, 1, is_master=True)


def test_other_machines_are_not_sent_to_an_address_of_their_own() -> None:
    with pytest.raises(ConfigError, match=r"MASTER_ADDR=localhost is .*set launcher\.interface"):
        rendezvous("localhost", 29500, 2, is_master=True, from_afar=True)


def test_a_port_that_is_taken_is_told_by_the_exit_status(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(OSError, match="in use") as caught:
        rendezvous("127.0.0.1", other.getsockname()[1], 2, is_master=True)
    assert report_failure(caught.value, process(), tmp_path) == PORT_TAKEN
    assert report_failure(OSError("another"), process(), tmp_path) == 1
