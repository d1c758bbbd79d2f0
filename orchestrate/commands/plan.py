"""``orchestrate plan``: choose a layout and show it. No torch, and nothing is started."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from orchestrate.commands import plan_report
from orchestrate.commands.planning import make_plan
from orchestrate.config import Config, PlanFormat
from orchestrate.errors import ConfigError
from orchestrate.plan import plan as plans
from orchestrate.plan.render import plan_json, render_plan


def run(config: Config, overrides: Sequence[str]) -> int:
    """Print the plan of ``config``; write it to ``plan.out`` and ``plan.report`` where given."""
    plan = make_plan(config)
    if config.plan.format is PlanFormat.json:
        print(json.dumps(plan_json(plan), indent=2))
    else:
        from rich.console import Console

        Console().print(render_plan(plan))
    if config.plan.out is not None:
        _write(plan, Path(config.plan.out))
    if config.plan.report is not None:
        plan_report.write(plan, config, (), (), Path(config.plan.report))
    if config.plan.format is PlanFormat.table and not config.plan.out and config.plan.file is None:
        print("to keep it: plan.out=plan.yaml; then: orchestrate train plan=plan.yaml")
    return 0


def _write(plan: plans.Plan, file: Path) -> None:
    try:
        plans.save(plan, file)
    except OSError as error:
        raise ConfigError(f"plan.out={file}: {error.strerror}") from None
