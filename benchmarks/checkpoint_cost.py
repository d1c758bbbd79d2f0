"""What checkpoints cost a run: training standing still, and the steps beside the writing going slower.

    python benchmarks/checkpoint_cost.py --saves 3 cluster=local_cpu parallel.tp=1 parallel.pp=1 parallel.dp=2

Trains the quickstart, with the overrides given, with one checkpoint per ``--every`` steps: written while
training goes on, and waited for. Prints one JSON line with shares of the time of so many steps, each the
median over the saves:

- ``standing_still``: what the run recorded as `checkpoint_s`;
- ``slower_steps``: by how much the ``--beside`` steps after a save took longer than the run's median step.

Both come from one run, so that a machine with other work to do slows all of its steps alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from orchestrate.train.metrics import StepRecord, read_records


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--saves", type=int, default=3)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--beside", type=int, default=5)
    parser.add_argument("overrides", nargs="*")
    told = parser.parse_intermixed_args(argv)
    figures = {}
    for way, asynchronous in (("asynchronous", "true"), ("waiting", "false")):
        steps = told.saves * told.every + told.beside + 1
        settings = [f"checkpoint.every={told.every}", f"checkpoint.asynchronous={asynchronous}"]
        records = train([*told.overrides, *settings], steps)
        figures[way] = shares(records, told.every, told.beside)
    print(json.dumps({"every": told.every, "saves": told.saves, **figures}))


def train(overrides: Sequence[str], steps: int) -> list[StepRecord]:
    """The records of every step of the quickstart with ``overrides``."""
    with tempfile.TemporaryDirectory() as folder:
        fixed = [f"run.dir={folder}/run", f"train.steps={steps}", "train.eval_every=0", "tracking=off"]
        command = [sys.executable, "-m", "orchestrate", "train", "experiment=quickstart", *fixed, *overrides]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return read_records(Path(folder, "run"))


def shares(records: Sequence[StepRecord], every: int, beside: int) -> dict[str, float]:
    """What one save took, as shares of the time of ``every`` steps."""
    by_step = {record.step: record for record in records}
    step_s = statistics.median(record.step_time_s for record in records)
    saves = [step for step in by_step if step % every == 0 and step + beside in by_step]
    stood = [by_step[step + 1].checkpoint_s or 0.0 for step in saves]
    slower = [sum(by_step[step + k].step_time_s - step_s for k in range(1, beside + 1)) for step in saves]
    return {
        "step_s": round(step_s, 4),
        "standing_still": round(statistics.median(stood) / (every * step_s), 5),
        "slower_steps": round(statistics.median(slower) / (every * step_s), 5),
    }


if __name__ == "__main__":
    main()
