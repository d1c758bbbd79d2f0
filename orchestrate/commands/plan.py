"""``orchestrate plan``: choose a layout and show it, or answer a question about layouts. No torch, and
nothing is started."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from orchestrate.checks import check
from orchestrate.commands import plan_report
from orchestrate.commands.search_progress import SearchProgress
from orchestrate.config import Ask, Config, PlanFormat
from orchestrate.errors import ConfigError
from orchestrate.plan import plan as plans
from orchestrate.plan.search.questions import answer, scaling
from orchestrate.plan.search.search import search
from orchestrate.plan.search.why import Verdict, why
from orchestrate.plan.shown.as_json import plan_json, why_json
from orchestrate.plan.shown.search_tables import answer_table
from orchestrate.plan.shown.tables import render_plan
from orchestrate.report import ScalingPoint


def run(config: Config, overrides: Sequence[str]) -> int:
    """Print the plan of ``config``; write it to ``plan.out`` and ``plan.report`` where given. With
    ``plan.ask`` or ``plan.why`` print the answer instead."""
    check(config, training=False)
    ask = config.plan.ask or (Ask.lost_nodes if config.plan.lost_nodes else None)
    if ask is not None:
        _ask(config, ask)
        return 0
    for key, file in (("out", config.plan.out), ("report", config.plan.report)):
        if file is not None and not (folder := Path(file).parent).is_dir():
            raise ConfigError(f"plan.{key}={file}: there is no folder {folder}")
    with SearchProgress() as progress:
        plan = search(config, progress.report)
        asked = config.plan.why
        told = None if asked is None else why(config, plan.cluster, plan, asked, progress.report)
    _show(config, plan, told)
    if config.plan.out is not None:
        _write(plan, Path(config.plan.out))
    if config.plan.report is not None:
        plan_report.write(plan, config, plan.explanation, _curve(config), Path(config.plan.report))
    if config.plan.format is PlanFormat.table:
        _say_what_is_kept(config, told)
    return 0


def _say_what_is_kept(config: Config, told: Verdict | None) -> None:
    if config.plan.out is not None:
        print(f"plan written: {config.plan.out}")
    elif config.plan.file is None and told is None:
        print("to keep it: plan.out=plan.yaml; then: orchestrate train plan=plan.yaml")
    if config.plan.report is not None:
        print(f"report written: {config.plan.report}")


def _show(config: Config, plan: plans.Plan, told: Verdict | None) -> None:
    dtype, tokens = config.precision.dtype, config.plan.tokens
    if config.plan.format is PlanFormat.json:
        values = plan_json(plan, dtype, tokens)
        print(json.dumps(values if told is None else values | {"why": why_json(told)}, indent=2))
    elif told is None:
        Console().print(render_plan(plan, dtype, tokens))
    else:
        Console().print(f"The plan: {plan.layout}, {plan.time.step:.3g} s a step.", highlight=False)
        Console().print("\n".join(map(escape, told.sentences)), highlight=False)


def _ask(config: Config, ask: Ask) -> None:
    with SearchProgress() as progress:
        told = answer(config, ask, progress.report)
    if config.plan.format is PlanFormat.json:
        rows = [asdict(row) for row in told.rows]
        print(json.dumps({"ask": ask.value, "sentences": list(told.sentences), "rows": rows}, indent=2))
        return
    console = Console()
    console.print("\n".join(map(escape, told.sentences)), highlight=False)
    console.print()
    console.print(answer_table(told))


def _curve(config: Config) -> list[ScalingPoint]:
    """The best plans on fewer nodes, the given number last; none where nodes are of several kinds."""
    if config.cluster.groups:
        return []
    with SearchProgress() as progress:
        rows = scaling(config, progress.report).rows
    return [
        ScalingPoint(row.nodes, row.devices, row.tokens_per_s, row.efficiency, row.layout)
        for row in rows
        if row.tokens_per_s is not None and row.efficiency is not None and row.layout is not None
    ]


def _write(plan: plans.Plan, file: Path) -> None:
    try:
        plans.save(plan, file)
    except OSError as error:
        raise ConfigError(f"plan.out={file}: {error.strerror}") from None
