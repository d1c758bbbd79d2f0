"""``orchestrate verify``: the same few steps on one process and in the layout, compared number by number."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml
from rich.console import Console

from launchers import local
from orchestrate.commands.planning import make_plan
from orchestrate.config import Config, dump
from orchestrate.data.prepare import prepare
from orchestrate.plan import plan as plans
from orchestrate.plan.plan import Plan
from orchestrate.plan.shown.tables import render_plan
from orchestrate.train.compare import RECORD, Record, compare
from orchestrate.train.verify import reference_plan, tables, tolerance, verdict

WORKER = "orchestrate.train.record"


def run(config: Config, overrides: Sequence[str]) -> int:
    """Print how far the layout of ``config`` lies from one process.

    Returns:
        0 within tolerance, 1 beyond it or when a run failed, 128 plus the signal when interrupted.
    """
    console = Console()
    plan = make_plan(config)
    console.print(render_plan(plan))
    local.check(plan)
    prepare(config, console)
    optim = replace(config.optim, eps=max(config.optim.eps, config.verify.adam_eps))
    config = replace(config, optim=optim)
    folder = Path(tempfile.mkdtemp(prefix="orchestrate-verify-"))
    records: list[Record] = []
    for name, candidate in (("one process", reference_plan(plan)), ("the layout", plan)):
        with console.status(f"{name}: {config.verify.steps} steps on {candidate.dims.world} ranks"):
            status, record = _record(candidate, config, folder / name.replace(" ", "-"))
        if status:
            return status  # The folder stays: the message names a log in it.
        records.append(record)
    shutil.rmtree(folder)
    reference, measured = records
    report = compare(measured, reference, tolerance(config))
    console.print(tables(report))
    console.print(verdict(report), highlight=False, soft_wrap=True)
    return 0 if report.ok else 1


def _record(plan: Plan, config: Config, run_dir: Path) -> tuple[int, Record]:
    """Run ``plan`` in ``run_dir``; the launcher's exit status and what rank 0 recorded."""
    from safetensors.numpy import load_file

    run_dir.mkdir()
    (run_dir / "config.yaml").write_text(yaml.safe_dump(dump(config), sort_keys=False), encoding="utf-8")
    plans.save(plan, run_dir / "plan.yaml")
    status = local.launch(plan, config, run_dir, module=WORKER)
    return status, {} if status else load_file(run_dir / RECORD)
