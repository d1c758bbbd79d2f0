"""How well the planner's fitted constants carry over to runs that they were not fitted to.

Every constant of the time model that comes from published training runs is forgotten, set to a value that
anybody would start from, and fitted again without one group of runs: a table, a cluster or a model. The
group is then predicted, beside what the constants give that all runs were fitted with.

    python benchmarks/hold_out.py 'tables/*.csv'
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from orchestrate.calibrate.fit import Parameter, fit
from orchestrate.measurements.layout import Setup
from orchestrate.measurements.predict import Predictor
from orchestrate.measurements.read import read_runs
from orchestrate.measurements.schema import Run
from orchestrate.measurements.score import table_of
from orchestrate.plan.time.step import CostModel
from orchestrate.plan.time.traits import TRAITS
from orchestrate.plan.toolkits import Toolkit

MOST = 40
"""Runs of one model in one table that a fit looks at, evenly picked: more would only weigh more."""
LONGEST = 2_000
"""Micro-batches times virtual stages of the longest pipeline that a fit looks at: simulating longer ones for
every step of every fit takes hours. All are predicted."""


@dataclass(frozen=True)
class Constant:
    """A fitted constant: what it belongs to, and where an uninformed fit starts."""

    owners: tuple[str, ...]
    """Toolkits by name, or the beginning of devices' names."""
    field: str
    start: float
    low: float
    high: float

    @property
    def name(self) -> str:
        return f"{self.owners[0]} {self.field}"


_MEGATRONS = ("megatron_lm", "megatron_deepspeed")
_CORES = ("megatron_core", "nemo", "megascale")
CONSTANTS = (
    *(Constant((gpu,), "matmul_efficiency", 0.7, 0.3, 0.9) for gpu in ("A100", "H100", "B200")),
    Constant(_MEGATRONS, "scores_row", 8_000.0, 500.0, 1e6),
    Constant(("megatron_deepspeed",), "launch_us", 10.0, 2.0, 80.0),
    Constant(("megatron_deepspeed",), "tp_launch_us", 5.0, 0.1, 100.0),
    Constant(_CORES, "elementwise", 1.0, 0.7, 3.0),
    Constant(_CORES, "flash_forward", 0.6, 0.2, 0.95),
    Constant(_CORES, "flash_backward", 0.6, 0.2, 0.95),
    Constant(("mpt_fsdp",), "elementwise", 1.0, 0.7, 5.0),
    Constant(("mpt_fsdp",), "flash_forward", 0.6, 0.2, 0.95),
    Constant(("mpt_fsdp",), "flash_backward", 0.6, 0.2, 0.95),
)


def seconds(given: Setup, values: Mapping[str, float]) -> float:
    """The predicted step of one run with the constants at ``values``."""
    toolkit, device = Toolkit(given.toolkit), given.cluster.device
    mine: dict[str, Any] = {}
    for constant in CONSTANTS:
        if constant.name not in values:
            continue
        if toolkit.name in constant.owners:
            mine[constant.field] = values[constant.name]
        if device.name.startswith(constant.owners):
            device = replace(device, **{constant.field: values[constant.name]})
    cost = CostModel(
        replace(given.cluster, device=device),
        given.model,
        given.dtype,
        given.layout,
        given.reach,
        given.toolkit,
        given.fp32_gradients,
        replace(TRAITS[toolkit], **mine),
    )
    return cost.estimate(given.stages).step


def refitted(runs: Sequence[tuple[Run, Setup]]) -> dict[str, float]:
    """The constants fitted to ``runs``."""
    parameters = [Parameter(c.name, c.start, c.low, c.high) for c in CONSTANTS]

    def predict(values: Mapping[str, float]) -> list[float]:
        return [seconds(given, values) for _, given in runs]

    return fit(predict, [run.iter_time_s or 0.0 for run, _ in runs], parameters).values


def thinned(runs: Sequence[tuple[Run, Setup]]) -> list[tuple[Run, Setup]]:
    """At most `MOST` runs of each model in each table, without the longest pipelines."""
    kinds: dict[tuple[str, str], list[tuple[Run, Setup]]] = {}
    for run, given in runs:
        if given.layout.micro_batches * len(given.stages) > LONGEST:
            continue
        kinds.setdefault((table_of(run), run.model), []).append((run, given))
    return [one for kind in kinds.values() for one in kind[:: -(-len(kind) // MOST)]]


def error(runs: Sequence[tuple[Run, Setup]], values: Mapping[str, float]) -> float:
    """Mean relative error without sign."""
    return fmean(abs(seconds(given, values) / (run.iter_time_s or 0.0) - 1) for run, given in runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tables", nargs="+", help="CSV files or patterns, as for orchestrate evaluate")
    parser.add_argument("--by", nargs="+", default=["table", "cluster", "model"], help="what is held out")
    parser.add_argument("--leave", default="ultrascale", help="a table whose times are too noisy to fit")
    options = parser.parse_args()
    predictor = Predictor()
    runs = [
        (run, predictor.setup(run))
        for run in read_runs(options.tables)
        if run.iter_time_s and table_of(run) != options.leave
    ]
    console = Console(width=80)
    table = Table("held out", "", "runs", "fitted, %", "held out, %", title="Mean error of the step's time")
    keys: dict[str, Callable[[Run], str]] = {by: partial(_value, by) for by in options.by}
    groups = [(by, value) for by, key in keys.items() for value in sorted({key(run) for run, _ in runs})]
    for by, value in track(groups, description="fitting", console=Console(stderr=True)):
        held = [(run, given) for run, given in runs if keys[by](run) == value]
        rest = [(run, given) for run, given in runs if keys[by](run) != value]
        blind = error(held, refitted(thinned(rest)))
        table.add_row(by, value, str(len(held)), f"{100 * error(held, {}):.1f}", f"{100 * blind:.1f}")
    console.print(table)


def _value(by: str, run: Run) -> str:
    return table_of(run) if by == "table" else str(getattr(run, by))


if __name__ == "__main__":
    sys.exit(main())
