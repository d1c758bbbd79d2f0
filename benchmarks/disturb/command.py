"""The ``orchestrate`` command, but for a witness in each rank: `benchmarks.disturb.witness`."""

from __future__ import annotations

import sys

from launchers import ranks

ranks.WORKER = "benchmarks.disturb.witness"

from orchestrate.cli import main  # noqa: E402 (after the worker has been chosen)

if __name__ == "__main__":
    sys.exit(main())
