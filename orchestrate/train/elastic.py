"""One process of a run that torchrun started: ``torchrun … -m orchestrate.train.elastic RUN_DIR``."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from launchers import torchrun
from launchers.ranks import log_of
from orchestrate.errors import UserError
from orchestrate.plan import plan as plans
from orchestrate.train import worker


def main(run_dir: Path) -> None:
    """Find this process's place in the plan, then train as any other worker; ends the process."""
    try:
        plan = plans.load(run_dir / "plan.yaml")
        told = torchrun.who(plan, os.environ, socket.gethostname())
    except UserError as error:
        print(f"orchestrate: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    os.environ.update(told)
    write_also_to(log_of(run_dir, int(told["RANK"])))
    worker.main(run_dir)


def write_also_to(log: Path) -> None:
    """Append what this process prints from now on to ``log``; all of it goes to stderr too.

    torchrun could write such files as well, but under names of its own, one for each start and stream.
    """
    log.parent.mkdir(exist_ok=True)
    reading, writing = os.pipe()
    # Outside of this process, so that the last words of one that crashes are kept, and in a session of its
    # own, so that it outlives the signals that end this one.
    subprocess.Popen(["tee", "-a", str(log)], stdin=reading, stdout=sys.stderr, start_new_session=True)
    os.close(reading)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(writing, stream.fileno())
    os.close(writing)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
