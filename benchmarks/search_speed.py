"""How long the planner searches: the whole of `search`, placement included, on one core.

    python benchmarks/search_speed.py            # prints a table
    python benchmarks/search_speed.py --markdown # the table of docs/planner.md

Every choice is left open: tensor, pipeline and data parallel degrees, virtual stages, schedule,
micro-batch, ZeRO, recomputation and sequence parallelism. Each search runs in a process of its own that
may use one core, so that nothing is warm; the time is the processor's, which on an otherwise idle machine
is the time that passes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

CASES = {
    "175B on 512 GPUs": [
        "cluster=dgx_a100",
        "cluster.nodes=64",
        "model=gpt3_175b",
        "train.global_batch=1536",
    ],
    "405B on 16,384 GPUs": [
        "cluster=dgx_h100",
        "cluster.nodes=2048",
        "model=llama3_405b",
        "train.global_batch=2048",
    ],
    "405B on 131,072 GPUs": [
        "cluster=dgx_h100",
        "cluster.nodes=16384",
        "model=llama3_405b",
        "train.global_batch=16384",
    ],
}
WHOLE = ("slower", "slower, by a bound", "does not fit the memory", "too likely to run out of memory")
"""Reasons that turn down whole layouts; rules turn down partial ones."""


def measure(overrides: list[str]) -> dict[str, object]:
    """Search once in this process, on one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from orchestrate.cli.compose import Source, jobs
    from orchestrate.cli.job import build
    from orchestrate.plan.search.search import search

    config = build(Source(), jobs(Source(), overrides, multirun=False)[0])
    began = time.process_time()
    plan = search(config)
    seconds = time.process_time() - began
    counts = {rejection.reason: rejection.layouts for rejection in plan.rejected}
    layouts = 1 + sum(counts.get(reason, 0) for reason in WHOLE)
    return {
        "seconds": seconds,
        "layouts": layouts,
        "simulated": 1 + counts.get("slower", 0),
        "too large": counts.get("does not fit the memory", 0),
        "cut": counts.get("slower, by a bound", 0),
        "plan": str(plan.layout),
        "step": plan.time.step,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--markdown", action="store_true", help="print the table for docs/planner.md")
    parser.add_argument("--repeat", type=int, default=3, help="processes for each case; the fastest counts")
    parser.add_argument("--case", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case)))
        return
    rows = []
    for name, overrides in CASES.items():
        runs = []
        for _ in range(options.repeat):
            command = [sys.executable, __file__, "--case", *overrides]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
        best = min(runs, key=lambda run: run["seconds"])
        rows.append(
            (
                name,
                f"{best['seconds']:.2f} s",
                f"{best['layouts']:,}",
                f"{best['too large']:,}",
                f"{best['cut']:,}",
                f"{best['simulated']:,}",
                f"{best['plan']}, {best['step']:.3g} s",
            )
        )
    header = ("search", "time", "layouts", "too large", "slower by bound", "simulated", "plan")
    if options.markdown:
        for row in (header, tuple("---" for _ in header), *rows):
            print("| " + " | ".join(row) + " |")
        return
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))


if __name__ == "__main__":
    main()
