"""A GPT on two Slurm nodes with a slow link between: the planner's layout against two bad ones.

    python benchmarks/slow_link.py --table docs/slurm.md

Brings up a development cluster (`slurm/devcluster`; needs root), calibrates it in a job, plans with what came
out, and submits the same training three times: as planned, with tensor parallelism across the link, and with
the ranks dealt to the devices in random order. Prints the step times, measured and predicted, and the bytes
that crossed the link. Takes some minutes. Keep the machine quiet.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from plan_vs_measured import MODEL, insert, percent

from orchestrate.calibrate.runs import estimate_time, read_run
from orchestrate.cli.compose import Source
from orchestrate.cli.job import build
from orchestrate.commands.planning import make_plan
from orchestrate.plan import plan as plans
from orchestrate.plan.layout import Placement
from orchestrate.plan.plan import Plan
from orchestrate.resources import folder

NAME = "slowlink"
PROFILE = "two_slow_nodes"
DEVICES = 4
"""Of a node."""
CLUSTER = ("cluster=two_node_cpu", "cluster.nodes=2", f"cluster.gpus_per_node={DEVICES}", "launcher=slurm")
TRAINING = (
    *MODEL,
    f"cluster={PROFILE}",
    "zero.stage=0",
    "recompute=none",
    "train.eval_batches=1",
    "launcher=slurm",
    "launcher.preflight=false",
    "launcher.threads=1",
)
ORCHESTRATE = (sys.executable, "-m", "orchestrate")


@dataclass(frozen=True)
class Row:
    """One layout: seconds of a step, and bytes that both nodes sent over the link for each."""

    label: str
    layout: str
    measured: float
    predicted: float
    sent: float


def main() -> None:
    """Measure, print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rate", default="200mbit", help="of each node's link (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="of each run (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=Path("runs/slow_link"), help="made anew")
    parser.add_argument("--table", type=Path, help="write the table here, between its marks")
    args = parser.parse_args()
    shutil.rmtree(args.work, ignore_errors=True)
    work = args.work.absolute()
    work.mkdir(parents=True)
    with cluster(args.rate):
        calibrate(work)
        planned = plan(work, args.steps)
        rows = [
            train(label, found, work, args.steps)
            for label, found in (
                ("as planned", planned),
                ("tensor parallelism across the link", tp_across(planned, work, args.steps)),
                ("ranks in random order", shuffled(planned)),
            )
        ]
    table = render(rows, args.rate)
    print(table)
    if args.table is not None:
        insert(args.table, "slow link", table, __file__)


@contextmanager
def cluster(rate: str) -> Iterator[None]:
    """Two Slurm nodes joined at ``rate`` for as long as the context lasts."""
    devcluster("up", "--nodes=2", f"--gpus={DEVICES}", f"--cpus={DEVICES}", f"--rate={rate}")
    try:
        yield
    finally:
        devcluster("down")


def devcluster(verb: str, *words: str) -> str:
    argv = [sys.executable, str(folder("slurm") / "devcluster"), verb, "--name", NAME, *words]
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout


def calibrate(work: Path) -> None:
    """Measure the cluster in a job of both nodes, and write its profile."""
    where = (f"calibrate.out={work / 'clusters'}", f"calibrate.name={PROFILE}", "calibrate.seconds=0.05")
    script = work / "calibrate.sbatch"
    words = " ".join([*ORCHESTRATE, "calibrate", *MODEL, *CLUSTER, *where, "parallel.tp=1"])
    script.write_text(f"#!/bin/bash\nexec {words}\n")
    log = work / "calibrate.log"
    wanted = ("--nodes=2", f"--ntasks-per-node={DEVICES}", "--exclusive", f"--output={log}")
    try:
        devcluster("run", "sbatch", "--wait", *wanted, str(script))
    except subprocess.CalledProcessError:
        sys.exit(log.read_text())
    print(log.read_text())


def plan(work: Path, steps: int, *more: str) -> Plan:
    """The best layout, or the best of those that ``more`` leaves."""
    overrides = [*TRAINING, f"train.steps={steps}", "parallel.allow_tp_across_nodes=true", *more]
    return make_plan(build(Source((work / "clusters",)), overrides))


def tp_across(planned: Plan, work: Path, steps: int) -> Plan:
    """The degrees of ``planned``, at least two for tensor parallelism, with its groups over both nodes."""
    dims = planned.dims
    degrees = {"tp": dims.tp, "pp": dims.pp, "dp": dims.dp} if dims.tp > 1 else {"tp": 2}
    pinned = [f"parallel.{axis}={degree}" for axis, degree in degrees.items()]
    return plan(work, steps, *pinned, "parallel.order=[pp,dp,cp,tp]")


def shuffled(planned: Plan) -> Plan:
    """``planned`` with its ranks dealt to the devices at random."""
    devices = list(planned.placement.devices)
    random.Random(0).shuffle(devices)
    return replace(planned, placement=Placement(tuple(devices)), tp_across_domains=True)


def train(label: str, found: Plan, work: Path, steps: int) -> Row:
    """Submit the training of ``found``, and wait for it."""
    run_dir = work / label.replace(" ", "_")
    plans.save(found, file := work / f"{run_dir.name}.yaml")
    before = sent()
    words = [*TRAINING, f"train.steps={steps}", "parallel.allow_tp_across_nodes=true", f"plan={file}"]
    submit = [
        "submit",
        "--config-dir",
        str(work / "clusters"),
        *words,
        f"run.dir={run_dir}",
        "launcher.wait=true",
    ]
    devcluster("run", *ORCHESTRATE, *submit)
    run = read_run(run_dir)
    profile = build(Source((work / "clusters",)), TRAINING).cluster
    dims = found.dims
    layout = f"tp{dims.tp} pp{dims.pp} dp{dims.dp}, micro-batch {found.micro_batch}, {found.schedule.value}"
    predicted = estimate_time(run, profile).step
    row = Row(label, layout, run.step_s, predicted, (sent() - before) / steps)
    print(row, flush=True)
    return row


def sent() -> int:
    """Bytes that the nodes have sent to each other, and to the controller, since they are up."""
    return sum(node["link"]["sent"] for node in json.loads(devcluster("status", "--json"))["nodes"])


def render(rows: Sequence[Row], rate: str) -> str:
    """The table, as Markdown."""
    lines = [
        f"Links of {rate.replace('mbit', ' Mbit/s')}:",
        "",
        "| ranks | layout | step | predicted | on the link, a step |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row.label, row.layout, f"{row.measured:.2f} s ({row.measured / rows[0].measured:.1f} ×)"]
        cells += [
            f"{row.predicted:.2f} s ({percent(row.predicted, row.measured)})",
            f"{row.sent / 1e6:.1f} MB",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
