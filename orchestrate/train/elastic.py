"""One process of a run that torchrun started: ``torchrun … -m orchestrate.train.elastic RUN_DIR``."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from launchers import torchrun
from orchestrate.errors import UserError
from orchestrate.plan import plan as plans
from orchestrate.train import worker


def main(run_dir: Path) -> None:
    """Find this process's place in the plan, then train as any other worker; ends the process."""
    try:
        plan = plans.load(run_dir / "plan.yaml")
        os.environ.update(torchrun.who(plan, os.environ, socket.gethostname()))
    except UserError as error:
        print(f"orchestrate: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    worker.main(run_dir)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
