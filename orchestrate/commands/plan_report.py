"""``plan.report=plan.html``: the plan as a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrate.config import Config
from orchestrate.errors import ConfigError
from orchestrate.plan.plan import Plan
from orchestrate.report import Option, Report, ScalingPoint, drawing, html


def write(
    plan: Plan, config: Config, why: Sequence[str], scaling: Sequence[ScalingPoint], file: Path
) -> None:
    """Write ``plan`` to ``file`` as a page: ``why`` are the sentences that explain it, ``scaling`` the best
    plans on other numbers of nodes.

    Raises:
        ConfigError: the file cannot be written.
    """
    others = (Option(str(other.layout), other.time) for other in plan.alternatives)
    report = Report(
        plan=plan,
        dtype=config.precision.dtype,
        tolerated_risk=config.plan.risk,
        tokens=config.plan.tokens,
        why=tuple(why),
        pipeline=drawing(plan, config.precision.dtype),
        options=(Option(str(plan.layout), plan.time), *others) if plan.time.terms else (),
        scaling=tuple(scaling),
    )
    try:
        file.write_text(html(report), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"plan.report={file}: {error.strerror}") from None
