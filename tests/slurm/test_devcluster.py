"""What the development cluster promises: its links, its failures, and that nothing stays behind."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.devcluster import DEVCLUSTER, Cluster, running, until

SIZE = 2_000_000
RECEIVE = (
    "import socket; socket.setdefaulttimeout(90); s = socket.create_server(('', 7000));"
    "print('ready', flush=True); c = s.accept()[0];"
    "print(sum(len(p) for p in iter(lambda: c.recv(65536), b'')))"
)
SEND = f"""
import socket, sys, time
host, seconds = sys.argv[1:]
deadline = time.monotonic() + float(seconds)
while True:
    try:
        connection = socket.create_connection((host, 7000), max(0.1, deadline - time.monotonic()))
        break
    except OSError:
        if time.monotonic() > deadline:
            raise
connection.sendall(bytes({SIZE}))
"""
"""Tries until some seconds have passed: a link that was put back a moment ago still counts as no route."""


def send(cluster: Cluster, sender: int, receiver: int) -> None:
    """Send ``SIZE`` bytes from a process of one node to one of another, by host name."""
    argv = ["run", "--name", cluster.name, "--node", cluster.host(receiver), "python3", "-c", RECEIVE]
    with subprocess.Popen(
        [sys.executable, str(DEVCLUSTER), *argv], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            cluster.run("--node", cluster.host(sender), "python3", "-c", SEND, cluster.host(receiver), "60")
            assert server.stdout.read() == f"{SIZE}\n"
        finally:
            server.kill()  # whatever went wrong, or the block would wait for it at its end


def test_a_program_that_never_ends_is_given_up_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(DEVCLUSTER.parent)
    from development import tools

    monkeypatch.setattr(tools, "TIMEOUT_S", 0.1)
    with pytest.raises(tools.ToolFailed, match=r"^tail -f /dev/null: has not ended in 0\.1 s$"):
        tools.call("tail", "-f", "/dev/null")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder in which anybody may write."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


def test_bytes_between_nodes_cross_the_link_and_those_within_do_not(cluster: Cluster) -> None:
    def links() -> list[dict[str, int]]:
        return [cluster.node(number)["link"] for number in (1, 2)]

    before = links()
    send(cluster, 1, 2)
    between = links()
    send(cluster, 1, 1)
    within = links()
    assert SIZE <= between[0]["sent"] - before[0]["sent"] < 1.2 * SIZE
    assert SIZE <= between[1]["received"] - before[1]["received"] < 1.2 * SIZE
    assert within[0]["local"] - between[0]["local"] >= SIZE
    assert within[0]["sent"] - between[0]["sent"] < 0.2 * SIZE


def test_a_shaped_link_is_as_slow_as_asked_for(cluster: Cluster) -> None:
    cluster.do("shape", "20mbit", cluster.host(1))
    assert cluster.node(1)["link"]["rate_bits_per_s"] == 20_000_000
    assert cluster.node(2)["link"]["rate_bits_per_s"] is None
    began = time.monotonic()
    send(cluster, 1, 2)
    assert time.monotonic() - began > 0.8 * (SIZE - 256_000) * 8 / 20e6  # the bucket passes at once
    cluster.do("shape", "off")
    assert cluster.node(1)["link"]["rate_bits_per_s"] is None


def test_a_cut_node_cannot_be_reached_until_it_is_mended(cluster: Cluster) -> None:
    cluster.do("cut", cluster.host(3))
    assert not cluster.node(3)["link"]["connected"]
    sent = cluster.call("run", "--node", cluster.host(1), "python3", "-c", SEND, cluster.host(3), "2")
    assert "timed out" in sent.stderr or "No route to host" in sent.stderr
    cluster.do("mend", cluster.host(3))
    send(cluster, 1, 3)


def test_a_crashed_node_has_no_processes_and_boots_again(cluster: Cluster) -> None:
    host = cluster.host(4)
    cluster.do("crash", host)
    assert cluster.node(4)["processes"] == []
    assert "does not run" in cluster.call("run", "--node", host, "true").stderr
    cluster.do("start", host)
    until(lambda: cluster.run("sinfo", "--noheader", f"--nodes={host}", "--format=%T") == "idle\n")
    assert cluster.run("srun", f"--nodelist={host}", "hostname") == f"{host}\n"


def test_anybody_submits_and_gets_gpus_on_nodes_below_one_switch(cluster: Cluster, open_folder: Path) -> None:
    script = "srun sh -c 'echo $(id -un) $(hostname) $CUDA_VISIBLE_DEVICES $SLURM_TOPOLOGY_ADDR'"
    wanted = ["--nodes=2", "--switches=1", "--ntasks-per-node=1", "--gpus-per-node=2"]
    output = open_folder / "out"
    cluster.run(
        "--user=nobody", "sbatch", "--wait", "--chdir=/", f"--output={output}", *wanted, f"--wrap={script}"
    )
    hosts = (cluster.host(1), cluster.host(2))
    assert sorted(output.read_text().splitlines()) == [f"nobody {h} 0,1 spine.leaf1.{h}" for h in hosts]


def test_the_exit_code_and_the_folder_of_a_command_are_kept(cluster: Cluster, tmp_path: Path) -> None:
    ended = cluster.call("run", "sh", "-c", "pwd; exit 7", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (7, f"{tmp_path}\n")


def test_up_is_content_with_what_is_up_and_refuses_another_shape(cluster: Cluster) -> None:
    again = cluster.call("up", "--nodes=4", "--gpus=4", "--cpus=8")
    assert (again.returncode, again.stderr) == (0, f"cluster {cluster.name} is up already\n")
    other = cluster.call("up", "--nodes=2")
    assert other.returncode == 2
    assert len(other.stderr.splitlines()) == 1
    assert f"devcluster down --name {cluster.name}" in other.stderr


def test_mistakes_are_one_line(cluster: Cluster) -> None:
    for words, says in (
        (("crash", f"{cluster.name}-9"), "no such node"),
        (("shape", "fast"), "as 200mbit"),
        (("cut", f"{cluster.name}-login"), "no link of its own"),
        (("run", "--user=nobody-at-all", "true"), "no such user"),
    ):
        ended = cluster.call(*words)
        assert ended.returncode == 2
        assert says in ended.stderr
        assert len(ended.stderr.splitlines()) == 1


def test_nothing_stays_behind(cluster: Cluster, tmp_path: Path) -> None:
    name = f"gone{os.getpid()}"
    with running(name, "--nodes=1"):
        assert left(name)
    assert left(name) == []
    broken = tmp_path / "munged"
    broken.write_text("#!/bin/sh\necho 'munged: Error: broken' >&2\nexit 1\n")
    broken.chmod(0o755)
    failed = Cluster(name).call("up", environment={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert (failed.returncode, "munged: Error: broken" in failed.stderr) == (1, True)
    assert left(name) == []
    assert Cluster(name).call("down").stderr == f"no cluster {name} was up\n"


def left(name: str) -> list[str]:
    """What there is of the cluster ``name`` on this machine."""
    spaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    found = [*spaces.splitlines(), *Path("/proc/mounts").read_text().splitlines()]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(process.read_text().replace("\0", " "))
    for folder in (Path("/run/devcluster"), Path("/etc/netns")):
        found += [str(path) for path in folder.glob("*")]
    return [line for line in found if name in line]
