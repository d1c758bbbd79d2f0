"""What checkpoints cost a run: the share of its time that training stands still, and of the whole run.

    python benchmarks/checkpoint_cost.py --rounds 3 parallel.tp=1 parallel.pp=1 parallel.dp=2

Trains the quickstart (with the overrides given) in turn without checkpoints, with one per ``--every``
steps written while training goes on, and with the same ones waited for, ``--rounds`` times each. Prints
one JSON line: seconds per step from record to record (evaluation off, the first ``--skip`` steps left
out), median over the rounds; beside it the share of them that training stood still. The former holds
what the writing thread takes from the ranks' cores, and the noise of the machine.
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

from orchestrate.train.metrics import read_records

WAYS = {
    "none": ["checkpoint.every=null"],
    "asynchronous": ["checkpoint.every={every}"],
    "waiting": ["checkpoint.every={every}", "checkpoint.asynchronous=false"],
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=110)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--skip", type=int, default=5)
    parser.add_argument("overrides", nargs="*")
    told = parser.parse_intermixed_args(argv)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    still: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(told.rounds):
        for way, settings in WAYS.items():
            chosen = [setting.format(every=told.every) for setting in settings]
            pace, share = measure([*told.overrides, *chosen], told.steps, told.skip)
            seconds[way].append(pace)
            still[way].append(share)
    paces = {way: statistics.median(values) for way, values in seconds.items()}
    print(
        json.dumps(
            {
                "every": told.every,
                "seconds_per_step": {way: round(pace, 5) for way, pace in paces.items()},
                "standing_still": {way: round(statistics.median(v), 5) for way, v in still.items()},
                "slower_than_none": {way: round(pace / paces["none"] - 1, 4) for way, pace in paces.items()},
                "rounds": {way: [round(v, 5) for v in values] for way, values in seconds.items()},
            }
        )
    )


def measure(overrides: Sequence[str], steps: int, skip: int) -> tuple[float, float]:
    """Seconds per step of one run, and the share of them that checkpoints took from training."""
    with tempfile.TemporaryDirectory() as folder:
        fixed = [f"run.dir={folder}/run", f"train.steps={steps}", "train.eval_every=0", "tracking=off"]
        command = [sys.executable, "-m", "orchestrate", "train", "experiment=quickstart", *fixed, *overrides]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        # The last record waits for the evaluation at the end.
        records = [r for r in read_records(Path(folder, "run")) if skip <= r.step < steps]
    spent = records[-1].time - records[0].time
    stood = sum(r.checkpoint_s or 0.0 for r in records[1:])
    return spent / (records[-1].step - records[0].step), stood / spent


if __name__ == "__main__":
    main()
