"""The development cluster as the tests hold it: through the command that people use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DEVCLUSTER = ROOT / "slurm" / "devcluster"
DEADLINE_S = 300.0


class Missing(Exception):
    """What this machine lacks to have one."""


class Cluster:
    """A cluster that is up."""

    def __init__(self, name: str) -> None:
        self.name = name

    def call(
        self, verb: str, *words: str, environment: Mapping[str, str] | None = None, cwd: Path = ROOT
    ) -> subprocess.CompletedProcess[str]:
        """Run ``devcluster verb`` and return how it ended, whatever the exit code."""
        return subprocess.run(
            [sys.executable, str(DEVCLUSTER), verb, "--name", self.name, *words],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            env={**os.environ, **(environment or {})},
            cwd=cwd,
        )

    def do(self, verb: str, *words: str) -> str:
        """What ``devcluster verb`` printed; it has to end well."""
        ended = self.call(verb, *words)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def run(self, *argv: str) -> str:
        """What ``argv`` printed on the login node; it has to end well."""
        return self.do("run", *argv)

    def node(self, number: int) -> dict[str, Any]:
        """All that `status` knows about a node, counted from 1."""
        found: dict[str, Any] = json.loads(self.do("status", "--json"))["nodes"][number - 1]
        return found

    def host(self, number: int) -> str:
        """Name of a node, counted from 1."""
        return f"{self.name}-{number}"


@contextmanager
def running(name: str, *options: str) -> Iterator[Cluster]:
    """A cluster for as long as the context lasts, or this process does, however it ends.

    Raises:
        Missing: this machine lacks something.
    """
    cluster = Cluster(name)
    down = f'cat > /dev/null; exec "{sys.executable}" "{DEVCLUSTER}" down --name {name}'
    guard = subprocess.Popen(["sh", "-c", down], stdin=subprocess.PIPE, start_new_session=True)
    assert guard.stdin is not None
    try:
        ended = cluster.call("up", *options)
        if ended.returncode == 2:
            raise Missing(ended.stderr.strip())
        assert ended.returncode == 0, ended.stderr
        yield cluster
    finally:
        guard.stdin.close()
        guard.wait()


def until(done: Callable[[], object], deadline_s: float = DEADLINE_S) -> None:
    """Return once ``done`` says so; fail after ``deadline_s``."""
    deadline = time.monotonic() + deadline_s
    while not done():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
