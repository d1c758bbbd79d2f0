"""Predicted and measured step time and memory of one small GPT in many layouts, on this machine.

    python benchmarks/plan_vs_measured.py --table docs/planner.md

Calibrates the machine with 4 and with 8 processes, trains every layout for a few steps, and compares; then
refits the profiles to a few of the runs and predicts the rest again. With root, the same over two emulated
nodes with a slow link between (`slurm/devcluster`). What was measured stays in the folder ``--work``: run
again, it goes on where it stopped, and only what is missing there is measured. Keep the machine quiet.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import nodes
from rich.console import Console

from launchers import local
from orchestrate.calibrate import record, samples
from orchestrate.calibrate.formulas import Formulas
from orchestrate.calibrate.learn import learn
from orchestrate.calibrate.profile import refit
from orchestrate.calibrate.runs import Run, estimate_memory, estimate_time, read_run
from orchestrate.cli.compose import Source
from orchestrate.cli.job import build
from orchestrate.commands import calibrate, run_folder
from orchestrate.commands.planning import make_plan
from orchestrate.config import ClusterConfig, Config
from orchestrate.data.prepare import prepare
from orchestrate.errors import ConfigError
from orchestrate.measurements.statistics import regret, spearman
from orchestrate.train.metrics import read_records

MIB = 2**20
MODEL = (
    "model=gpt_tiny",
    "model.layers=8",
    "model.hidden=192",
    "model.heads=8",
    "model.ffn_hidden=768",
    "model.vocab=4096",
    "train.global_batch=16",
    "precision=fp32",
    "tracking=off",
)
CALIBRATION_S = 0.05
QUIET = 0.5
"""Processes per core that other people may have running."""

# Ranks, then tp, pp, dp, micro-batch and what else differs; recomputation and ZeRO are off unless named.
SINGLE: tuple[tuple[str, ...], ...] = (
    ("4", "1,1,4", "1"),
    ("4", "1,1,4", "4", "zero.stage=1"),
    ("4", "2,1,2", "2"),
    ("4", "4,1,1", "4"),
    ("4", "1,4,1", "1"),
    ("4", "1,4,1", "4", "parallel.schedule=gpipe"),
    ("4", "2,2,1", "2"),
    ("4", "1,2,2", "2", "recompute=full"),
    ("8", "1,1,8", "2", "zero.stage=1"),
    ("8", "2,2,2", "1"),
    ("8", "2,2,2", "4", "zero.stage=1"),
    ("8", "4,2,1", "4", "parallel.sequence_parallel=true"),
    ("8", "1,4,2", "1"),
    ("8", "1,4,2", "2", "parallel.schedule=interleaved", "parallel.vpp=2"),
    ("8", "1,8,1", "1"),
    ("8", "8,1,1", "8"),
)
HANDFUL = {"4": (0, 3, 5), "8": (0, 3, 4)}
"""Of the layouts of so many ranks, those that the profiles are refitted to."""

TWO_NODES: tuple[tuple[str, ...], ...] = (
    ("4", "2,2,1", "2"),
    ("4", "2,1,2", "2"),
    ("4", "2,2,1", "2", "parallel.order=[pp,tp,cp,dp]"),
    ("4", "2,1,2", "2", "parallel.order=[dp,tp,cp,pp]"),
)
RATE = "100mbit"


@dataclass(frozen=True)
class Case:
    """One layout to train."""

    ranks: str
    tp: int
    pp: int
    dp: int
    micro_batch: int
    extra: tuple[str, ...]

    @classmethod
    def of(cls, row: Sequence[str]) -> Case:
        ranks, degrees, micro_batch, *extra = row
        tp, pp, dp = map(int, degrees.split(","))
        return cls(ranks, tp, pp, dp, int(micro_batch), tuple(extra))

    @property
    def label(self) -> str:
        parts = [f"tp{self.tp}", f"pp{self.pp}", f"dp{self.dp}", f"micro-batch {self.micro_batch}"]
        return " ".join([*parts, *(f"{e.split('.')[-1].replace('_', ' ')}" for e in self.extra)])

    @property
    def folder(self) -> str:
        words = [f"{self.ranks}-tp{self.tp}-pp{self.pp}-dp{self.dp}-mb{self.micro_batch}"]
        kept = "abcdefghijklmnopqrstuvwxyz0123456789"
        return "-".join([*words, *("".join(c for c in e if c in kept) for e in self.extra)])

    def overrides(self) -> list[str]:
        defaults = {
            "parallel.schedule": "1f1b",
            "parallel.sequence_parallel": "false",
            "zero.stage": "0",
            "recompute": "none",
        }
        named = dict(e.split("=", 1) for e in self.extra)
        degrees = {f"parallel.{axis}": getattr(self, axis) for axis in ("tp", "pp", "dp", "micro_batch")}
        return [f"{key}={value}" for key, value in {**defaults, **degrees, **named}.items()]


@dataclass(frozen=True)
class Place:
    """Where layouts run: a cluster of this machine's processes, and what starts them."""

    name: str
    cluster: tuple[str, ...]
    launch: Callable[..., int] = local.launch


def main() -> int:
    """Measure what is missing, print the tables, and write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--work", type=Path, default=Path("runs/plan_vs_measured"), help="keeps what was measured"
    )
    parser.add_argument("--steps", type=int, default=6, help="optimizer steps of each run")
    parser.add_argument("--only", choices=["machine", "nodes"], help="one of the two comparisons")
    parser.add_argument("--table", type=Path, help="write the tables here, between their marks")
    args = parser.parse_args()
    console = Console()
    args.work.mkdir(parents=True, exist_ok=True)
    if (load := os.getloadavg()[0]) > QUIET * (os.cpu_count() or 1):
        console.print(f"this machine is busy (load {load:.1f}): what is measured now will be slow and uneven")
    tables = {}
    try:
        if args.only != "nodes":
            tables["machine"] = machine(args.work, args.steps, console)
        if args.only != "machine":
            tables["nodes"] = two_nodes(args.work, args.steps, console)
    except nodes.Missing as missing:
        console.print(f"two emulated nodes: left out: {missing}")
    except Failed as failure:
        return failure.status
    except KeyboardInterrupt:
        return 130
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    for name, table in tables.items():
        print(f"\n{table}")
        if args.table is not None:
            insert(args.table, name, table)
    return 0


class Failed(Exception):
    """Processes failed or were interrupted; the launcher has said so."""

    def __init__(self, status: int) -> None:
        super().__init__(f"exit status {status}")
        self.status = status


def machine(work: Path, steps: int, console: Console) -> str:
    """All layouts on this machine as one node."""
    cases = [Case.of(row) for row in SINGLE]
    rows = []
    for ranks in dict.fromkeys(case.ranks for case in cases):
        place = Place(
            f"machine_{ranks}", ("cluster=two_node_cpu", "cluster.nodes=1", f"cluster.gpus_per_node={ranks}")
        )
        mine = [case for case in cases if case.ranks == ranks]
        profile = calibrated(place, work, console)
        runs = [trained(case, place, work, steps, console) for case in mine]
        handful = HANDFUL[ranks]
        with console.status(f"refitting to {len(handful)} runs"):
            learnt = learn(profile, [runs[index] for index in handful])
        again = record.refitted(profile, learnt.refit, profile.name)
        for index, (case, run) in enumerate(zip(mine, runs, strict=True)):
            rows.append(Row.of(case, run, profile, again, index in handful))
    return "\n".join([*render(rows), "", *verdicts(rows)])


def two_nodes(work: Path, steps: int, console: Console) -> str:
    """Some layouts on two emulated nodes: tensor parallelism inside them and across the slow link."""
    cluster = ("cluster=two_node_cpu", "cluster.nodes=2", "cluster.gpus_per_node=2")
    with nodes.up(2, RATE):
        place = Place("two_slow_nodes", (*cluster, "parallel.allow_tp_across_nodes=true"), nodes.launch)
        profile = calibrated(place, work, console)
        rows = []
        for case in map(Case.of, TWO_NODES):
            run = trained(case, place, work, steps, console)
            rows.append(Row.of(case, run, profile, profile, False))
    inside, across = ([row for row in rows if ("order" in row.label) is crosses] for crosses in (False, True))
    apart = all(
        min(getattr(row, column) for row in across) > max(getattr(row, column) for row in inside)
        for column in ("measured", "predicted")
    )
    words = (
        "slower than every layout with it inside, in both columns" if apart else "NOT slower in both columns"
    )
    return "\n".join(
        [*render(rows, refitted=False), "", f"Tensor parallelism across the slow link is {words}."]
    )


def calibrated(place: Place, work: Path, console: Console) -> ClusterConfig:
    """The profile of ``place``, refitted to what was measured there, once."""
    overrides = [*MODEL, *place.cluster, f"calibrate.seconds={CALIBRATION_S}", "parallel.tp=1"]
    config = build(Source(), overrides)
    plan = calibrate.measuring_plan(config)
    kept = work / f"{place.name}.json"
    if not kept.exists():
        console.print(f"calibrating {place.name}")
        status, found = calibrate.measure(plan, config, console, place.launch)
        if found is None:
            raise Failed(status)
        samples.save(found, kept)
    formulas = Formulas(plan.cluster, plan.placement, config.model, config.precision.dtype)
    fitted = refit(formulas, samples.load(kept))
    console.print(record.change_table(fitted.changes), record.quality_table(fitted.qualities))
    profile = record.refitted(config.cluster, fitted, place.name)
    record.write(profile, fitted, config.precision.dtype, work / "clusters", [f"calibrated for {__file__}"])
    return profile


def trained(case: Case, place: Place, work: Path, steps: int, console: Console) -> Run:
    """The run of ``case``, trained unless it was before."""
    folder = work / place.name / case.folder
    if len(read_records(folder)) < steps:
        overrides = [
            *MODEL,
            f"cluster={place.name}",
            *(o for o in place.cluster if not o.startswith("cluster")),
            *case.overrides(),
            f"train.steps={steps}",
            "train.eval_batches=1",
        ]
        config = build(Source((work / "clusters",)), overrides, str(folder))
        train(config, overrides, place, folder, console)
    return read_run(folder)


def train(config: Config, overrides: Sequence[str], place: Place, folder: Path, console: Console) -> None:
    for stale in ("metrics.jsonl", "plan.yaml"):
        (folder / stale).unlink(missing_ok=True)
    plan = make_plan(config)
    prepare(config, console)
    run_folder.create(config, plan, overrides)
    with console.status(f"training {folder.name}: {config.train.steps} steps"):
        status = place.launch(plan, config, folder)
    if status:
        raise Failed(status)
    console.print(f"trained {folder.name}: {read_run(folder).step_s:.3f} s a step", highlight=False)


@dataclass(frozen=True)
class Row:
    """One layout's figures: seconds of a step, MiB of the largest rank."""

    ranks: str
    label: str
    measured: float
    predicted: float
    refitted: float
    in_handful: bool
    memory: float
    predicted_memory: float
    refitted_memory: float

    @classmethod
    def of(cls, case: Case, run: Run, profile: ClusterConfig, again: ClusterConfig, in_handful: bool) -> Row:
        def most(of: ClusterConfig) -> float:
            return max(stage.total for stage in estimate_memory(run, of)) / MIB

        return cls(
            ranks=case.ranks,
            label=case.label,
            measured=run.step_s,
            predicted=estimate_time(run, profile).step,
            refitted=estimate_time(run, again).step,
            in_handful=in_handful,
            memory=max(run.memory) / MIB,
            predicted_memory=most(profile),
            refitted_memory=most(again),
        )


def render(rows: Sequence[Row], *, refitted: bool = True) -> Iterator[str]:
    """The table, as Markdown."""
    columns = ["predicted", "refitted"] if refitted else ["predicted"]
    titles = ["ranks", "layout", "step", *columns, "memory", *columns]
    yield f"| {' | '.join(titles)} |"
    yield f"|{'---|' * len(titles)}"
    for row in rows:
        cells = [row.ranks, row.label + (" *" if row.in_handful else ""), f"{row.measured:.3f} s"]
        cells += [f"{getattr(row, c):.3f} s ({percent(getattr(row, c), row.measured)})" for c in columns]
        cells.append(f"{row.memory:.0f} MiB")
        memory = [getattr(row, f"{column}_memory") for column in columns]
        cells += [f"{mib:.0f} MiB ({percent(mib, row.memory)})" for mib in memory]
        yield f"| {' | '.join(cells)} |"


def percent(predicted: float, measured: float) -> str:
    return f"{predicted / measured - 1:+.0%}"


def verdicts(rows: Sequence[Row]) -> Iterator[str]:
    """What the table says, in one line per question."""
    held_out = [row for row in rows if not row.in_handful]
    yield "| | rows | time MAPE | rank ρ | regret | memory MAPE |"
    yield "|---|---|---|---|---|---|"
    for title, of, column in (
        ("calibrated", rows, "predicted"),
        ("calibrated, the held-out rows", held_out, "predicted"),
        ("refitted to the rows marked *, the held-out rows", held_out, "refitted"),
    ):
        errors = [abs(getattr(row, column) / row.measured - 1) for row in of]
        memory = [abs(getattr(row, f"{column}_memory") / row.memory - 1) for row in of]
        by_ranks = [[row for row in of if row.ranks == ranks] for ranks in dict.fromkeys(r.ranks for r in of)]
        orders = [spearman([getattr(r, column) for r in g], [r.measured for r in g]) for g in by_ranks]
        lost = [regret([r.measured for r in g], [getattr(r, column) for r in g]) for g in by_ranks]
        rho = " and ".join("–" if order is None else f"{order:.2f}" for order in orders)
        cost = " and ".join(f"{share:.1%}" for share in lost)
        yield f"| {title} | {len(of)} | {mean(errors):.1%} | {rho} | {cost} | {mean(memory):.1%} |"


def insert(path: Path, name: str, table: str, script: str = __file__) -> None:
    """Put ``table`` between the marks ``name`` in ``path``, under the date and the command, of ``script``."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, rest = path.read_text(encoding="utf-8").split(start)
    after = rest.split(end)[1]
    command = f"python benchmarks/{Path(script).name} --table {path}"
    when = f"{datetime.date.today().isoformat()}, {os.cpu_count()} cores, `{command}`:"
    path.write_text(f"{before}{start}\n{when}\n\n{table}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
