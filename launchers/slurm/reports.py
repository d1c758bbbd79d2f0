"""What srun says about the tasks of its step, read as it comes."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrate.errors import ConfigError
from orchestrate.topology.discover.hostlist import expand

_TASKS = re.compile(r"srun: error: \S+: tasks? (?P<tasks>[\d,\[\]-]+): (?P<how>.+)")
_NODES = re.compile(r"srun: error: Node failure on (?P<hosts>\S+)")
_ABORTED = re.compile(
    r"srun: error: (Cannot communicate with node|Timed out waiting for job step|Aborting, (io|step))"
)
_EXIT = re.compile(r"Exited with exit code (\d+)")
_SIGNALS = {signal.strsignal(number): int(number) for number in signal.valid_signals()}


@dataclass(frozen=True)
class TaskEnded:
    task: int
    code: int
    """As `subprocess` has it."""


@dataclass(frozen=True)
class NodeLost:
    host: str


@dataclass(frozen=True)
class Aborted:
    """srun has given up on tasks that it cannot reach."""


Report = TaskEnded | NodeLost | Aborted


def parse(line: str) -> Iterator[Report]:
    """What ``line`` of srun's stderr reports; nothing of most lines."""
    try:
        if match := _TASKS.match(line):
            # Without a prefix, a list of hosts is a list of numbers.
            for task in expand(f"[{match['tasks'].strip('[]')}]"):
                yield TaskEnded(int(task), _code(match["how"]))
        elif match := _NODES.match(line):
            yield from map(NodeLost, expand(match["hosts"]))
        elif _ABORTED.match(line):
            yield Aborted()
    except ConfigError:
        return


def _code(how: str) -> int:
    if match := _EXIT.match(how):
        return int(match[1])
    if how.startswith("Out Of Memory"):
        return -signal.SIGKILL
    return -_SIGNALS.get(how.partition(" (core dumped)")[0], -1)


class Tail:
    """The lines that are added to a file from now on, each once it is whole."""

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, path.stat().st_size if path.exists() else 0

    def lines(self) -> list[str]:
        try:
            with self._path.open("rb") as file:
                file.seek(self._at)
                text = file.read()
        except OSError:
            return []
        whole = text.rpartition(b"\n")[0]
        if not whole:
            return []
        self._at += len(whole) + 1
        return whole.decode(errors="replace").splitlines()
