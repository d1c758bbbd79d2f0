"""Deputies put a job back into the queue that lost the node of its batch step.

Slurm does so itself, but not with ``--no-kill``: then it takes the node from the job and leaves the job
RUNNING with nobody in charge. Its steps on other nodes live on, though, and some of them are there for this:
``python -m launchers.slurm.deputy RUN BATCH_HOST FIRST_S EVERY_S``.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from launchers.slurm import client, srun
from launchers.slurm.allocation import Allocation
from launchers.slurm.commands import CommandError, ask
from launchers.slurm.jobs import What, note, this_job, was_cancelled
from launchers.slurm.requeue import outlives_nodes
from orchestrate.config import Config
from orchestrate.errors import ConfigError
from orchestrate.topology.discover.hostlist import expand

_MODULE = "launchers.slurm.deputy"
_MOST = 3
_ASK_S = 20.0
"""Between two questions to Slurm's controller, all deputies of a job taken together."""
_LEAVE_S = 5.0
_FIELD = re.compile(r"(?:^|\s)(JobState|Restarts|Requeue|NodeList)=(\S+)")


@dataclass(frozen=True)
class Seen:
    """A job as Slurm's controller has it."""

    state: str
    restarts: int
    nodes: tuple[str, ...]
    """Without those that Slurm has taken back."""
    returns: bool
    """Whether it may go back into the queue."""

    @classmethod
    def of(cls, text: str) -> Seen:
        """From `scontrol --oneliner show job`.

        Raises:
            ConfigError: it shows none.
        """
        fields = dict(_FIELD.findall(text))
        try:
            state, restarts, nodes = fields["JobState"], int(fields["Restarts"]), fields["NodeList"]
        except (KeyError, ValueError):
            raise CommandError("scontrol shows no job") from None
        held = () if nodes == "(null)" else expand(nodes)
        return cls(state, restarts, held, fields.get("Requeue") == "1")

    def lost(self, batch: str) -> bool:
        """Whether it has lost its batch step, which ran on host ``batch``. Slurm kills what still runs on a
        node that the job does not have once it reaches it, so this is said of no job that could go on."""
        return self.state == "RUNNING" and bool(self.nodes) and batch not in self.nodes


@contextlib.contextmanager
def deputies(config: Config, allocation: Allocation, run_dir: Path) -> Iterator[None]:
    """Inside the block, should this process's node be lost, the job is put back into the queue: by its
    deputies, where Slurm does not do it itself."""
    batch = os.environ["SLURMD_NODENAME"]
    hosts = chosen(allocation.names, batch) if outlives_nodes(config.launcher) else []
    started: list[subprocess.Popen[bytes]] = []
    for number, host in enumerate(hosts, start=1):
        told = [str(run_dir.absolute()), batch, str(_ASK_S * number), str(_ASK_S * len(hosts))]
        # A step each: a node where nothing starts would hold up the others.
        argv = [*srun.command_on(host), "--job-name=deputy", sys.executable, "-m", _MODULE, *told]
        with (run_dir / "logs" / "deputies.log").open("ab") as words:
            started.append(
                subprocess.Popen(
                    argv,
                    env=srun.environment(config),
                    stdin=subprocess.DEVNULL,
                    stdout=words,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
    try:
        yield
    finally:
        _end(started)


def chosen(names: Sequence[str], batch: str) -> list[str]:
    """The nodes that get a deputy: a few, and not side by side, for neighbours fail together."""
    others = [name for name in names if name != batch]
    return others[:: max(1, -(-len(others) // _MOST))]


def _end(started: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in started:
        process.terminate()
    deadline = time.monotonic() + _LEAVE_S
    for process in started:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:  # its node is away, and its step ends with the job
            process.kill()
            process.wait()


def watch(run_dir: Path, batch: str, first_s: float, every_s: float) -> None:
    """Return once the job that this process runs in has lost its batch step on ``batch``, and is in the queue
    again; or has ended, where it may not go back.

    This process does not outlive the job's present start: before the next one, Slurm ends all steps of this.
    """
    job, restart = this_job(), int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    assert job is not None, "a step runs in a job"
    time.sleep(first_s)
    while True:
        with contextlib.suppress(ConfigError):  # the controller is busy, or out of reach
            seen = Seen.of(ask("scontrol", "--oneliner", "show", "job", job))
            if seen.restarts != restart:
                return  # this node was away meanwhile
            if seen.lost(batch):
                _act(run_dir, job, restart, batch, seen.returns)
                return
        time.sleep(every_s)


def _act(run_dir: Path, job: str, restart: int, batch: str, returns: bool) -> None:
    back = returns and not was_cancelled(run_dir, job)
    what, status = (What.requeued, None) if back else (What.ended, 1)
    text = f"{batch}, the node of its batch step, is gone"
    # Noted first: Slurm then ends this process. Done also where the disk takes no note.
    with contextlib.suppress(OSError):
        note(run_dir, what, job, restart=restart, status=status, text=text)
    if back:
        client.requeue(job)
    else:
        client.cancel([job])


if __name__ == "__main__":
    watch(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
