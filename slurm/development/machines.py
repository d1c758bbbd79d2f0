"""The nodes' processes. A running node is a process namespace in its network namespace, with a host name and
mounts of its own: what kills its first process kills everything on it, as a power failure does."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from .spec import Mistake, Spec
from .tools import PATH, ToolFailed, call

_DEADLINE_S = 10.0
_POLL_S = 0.02
_BOOT = 'set -e; hostname "$0"; mount -t tmpfs tmpfs /dev/shm; '
_IDLE = "exec sleep infinity"
_DAEMON = "{} & wait"
"""Bash stays as the first process, to reap what loses its parent; when the daemon ends, the node does."""


def boot(spec: Spec, host: str) -> subprocess.Popen[bytes]:
    """Start ``host``, which does not run: with its daemons, or with nothing where ``spec`` has no Slurm.

    Returns:
        A process that lives as long as the node does.
    """
    if pids(host):
        raise Mistake(f"{host} runs already")
    if not spec.slurm:
        script = _IDLE
    elif host == spec.login:
        munge = spec.folder / "munge"
        script = (
            f"munged --key-file={munge}/key --socket={munge}/socket --seed-file={munge}/seed"
            f" --pid-file={munge}/pid --log-file={munge}/log; " + _DAEMON.format("slurmctld -D -c")
        )
    else:
        script = _DAEMON.format("slurmd -D")
    inside = ["unshare", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child"]
    with (spec.folder / "log" / f"{host}.out").open("ab") as out:
        return subprocess.Popen(
            ["ip", "netns", "exec", host, *inside, "bash", "-c", _BOOT + script, host],
            env={"PATH": PATH},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def crash(host: str) -> None:
    """Kill everything that runs on ``host``, at once; return when it is gone."""
    deadline = time.monotonic() + _DEADLINE_S
    while left := pids(host):
        if time.monotonic() > deadline:
            raise ToolFailed(f"{host}: processes {left} outlive SIGKILL")
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_S)


def pids(host: str) -> list[int]:
    """Process ids, as this machine counts them, of all that runs on ``host``."""
    return [int(pid) for pid in call("ip", "netns", "pids", host).split()]


def runs(host: str) -> bool:
    """Whether ``host`` has booted and can be entered."""
    return _first(host) is not None


def commands(host: str) -> list[str]:
    """Command line of every process on ``host`` but the one that holds its namespaces."""
    lines = []
    for pid in pids(host):
        if _number(pid) not in (None, 1):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                lines.append(b" ".join(words).decode(errors="replace").strip())
    return lines


def entering(host: str, argv: Sequence[str], user: str = "root") -> list[str]:
    """The command line that runs ``argv`` on ``host``, in the present folder, as ``user``.

    Raises:
        Mistake: ``host`` does not run, or there is no such user.
    """
    first = _first(host)
    if first is None:
        raise Mistake(f"{host} does not run: `devcluster start {host}` boots it")
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise Mistake(f"--user={user}: this machine has no such user") from None
    enter = ["nsenter", f"--target={first}", "--mount", "--uts", "--net", "--pid", "--"]
    if account.pw_uid != 0:
        enter += ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--init-groups"]
    # An `SLURM_CONF` of outside would lead to another cluster: inside, ours is /etc/slurm.
    home = [f"HOME={account.pw_dir}", f"USER={user}", f"LOGNAME={user}"]
    return [*enter, "env", "-u", "SLURM_CONF", f"--chdir={os.getcwd()}", *home, *argv]


def _first(host: str) -> int | None:
    """The first process of ``host``'s process namespace, as this machine counts it."""
    return next((pid for pid in pids(host) if _number(pid) == 1), None)


def _number(pid: int) -> int | None:
    """The process id that ``pid`` has on its node; None for one that is not on any."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            # One number for each namespace that the process is in, the innermost last.
            if line.startswith("NSpid:") and len(line.split()) == 3:
                return int(line.split()[-1])
    return None
