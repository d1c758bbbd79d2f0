"""A cluster as a whole: up, down, and how it is."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from . import configuration, machines, network
from .network import Link
from .spec import FOLDERS, Mistake, Spec
from .tools import ToolFailed, call

_DEADLINE_S = 90.0
"""Of what takes a second or two where the machine has nothing else to do."""
_POLL_S = 0.05


@dataclass(frozen=True)
class Node:
    """One node as it is now."""

    name: str
    address: str
    state: str
    """As Slurm sees it: idle, allocated, down, …; without Slurm up or down."""
    link: Link
    processes: tuple[str, ...]
    """Command lines of what runs on it."""


def up(spec: Spec, rate: str | None) -> bool:
    """Bring the cluster up; False where it was. Whatever goes wrong, nothing of it is left.

    Raises:
        Mistake: one of this name is up and is not like ``spec``.
        ToolFailed: it does not come up.
    """
    if _runs(spec):
        return False
    down(spec.name)
    try:
        spec.folder.mkdir(parents=True)
        network.make(spec)
        configuration.write(spec)
        for host in spec.hosts:
            network.shape(spec, host, rate)
        booted = [machines.boot(spec, spec.login)]
        _wait(spec, "the controller does not answer", lambda: _answers(spec), booted)
        booted += [machines.boot(spec, host) for host in spec.hosts]
        _wait(spec, "not all nodes come up", lambda: _all_ready(spec), booted)
        spec.write()
    except BaseException:
        down(spec.name)
        raise
    return True


def down(name: str) -> bool:
    """Take the cluster ``name`` down, with all that runs on it; False where there was nothing of it."""
    spec = Spec(name)
    there = bool(network.spaces(name)) or spec.folder.exists()
    for space in network.spaces(name):
        machines.crash(space)
    network.remove(name)
    shutil.rmtree(spec.folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # other clusters are up, or none ever was
        FOLDERS.rmdir()
    return there


def nodes(spec: Spec) -> list[Node]:
    """Every node of a cluster that is up."""
    states = (_states(spec) or {}) if spec.slurm else {}
    links = network.links(spec)
    found = []
    for host in spec.hosts:
        running = tuple(machines.commands(host))
        here = "up" if machines.runs(host) else "down"
        found.append(Node(host, spec.address(host), states.get(host, here), links[host], running))
    return found


def _runs(spec: Spec) -> bool:
    """Whether this very cluster is up."""
    try:
        present = Spec.read(spec.name)
    except Mistake:
        return False
    if set(network.spaces(spec.name)) != {*present.hosts, present.login} or not machines.runs(present.login):
        return False
    if present != spec:
        raise Mistake(
            f"cluster {spec.name} is up and not like that: `devcluster down --name {spec.name}` first"
        )
    return True


def _states(spec: Spec) -> dict[str, str] | None:
    """State of each node by its name; None where the controller does not answer."""
    try:
        listed = call(*machines.entering(spec.login, ["sinfo", "--noheader", "--Node", "--format=%N %T"]))
    except (ToolFailed, Mistake):
        return None
    return dict(line.split() for line in listed.splitlines())


def _answers(spec: Spec) -> bool:
    return machines.runs(spec.login) and (not spec.slurm or _states(spec) is not None)


def _all_ready(spec: Spec) -> bool:
    if not all(machines.runs(host) for host in spec.hosts):
        return False
    return not spec.slurm or set((_states(spec) or {}).values()) == {"idle"}


def _wait(spec: Spec, what: str, done: Callable[[], bool], booted: Sequence[subprocess.Popen[bytes]]) -> None:
    """Return when ``done``; raise ToolFailed, with what the logs say, when it takes too long or one ends."""
    deadline = time.monotonic() + _DEADLINE_S
    while not done():
        if time.monotonic() > deadline or any(node.poll() is not None for node in booted):
            raise ToolFailed(f"{what}: {_last_words(spec)}")
        time.sleep(_POLL_S)


def _last_words(spec: Spec) -> str:
    """The complaints at the end of the daemons' logs, which go when the cluster does."""
    logs = sorted(path for folder in ("log", "munge") for path in (spec.folder / folder).glob("*[!y]"))
    said = [line for log in logs for line in log.read_text(errors="replace").splitlines()[-20:]]
    return (
        "; ".join(line for line in said if "error" in line.lower() or "fatal" in line.lower())
        or "no reason given"
    )
