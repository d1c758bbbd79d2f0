"""The page: one file with its style, its script and its drawings, that loads nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

import orchestrate
from orchestrate.plan.units import count
from orchestrate.report import colours, headline
from orchestrate.report.bars import memory_chart, time_chart
from orchestrate.report.cluster_map import cluster_map
from orchestrate.report.curve import curves
from orchestrate.report.inputs import Report
from orchestrate.report.pipeline import KINDS, picture
from orchestrate.report.text import percent, plural

if TYPE_CHECKING:
    from jinja2 import Environment


def html(report: Report) -> str:
    """``report`` as a page for a browser; the same report gives the same text."""
    plan = report.plan
    script = _file("page.js")
    return (
        _environment()
        .get_template("page.html")
        .render(
            version=orchestrate.__version__,
            title=headline.title(plan),
            layout=headline.layout(plan),
            tiles=headline.tiles(plan, report.dtype, report.tolerated_risk),
            facts=headline.facts(plan),
            shares=headline.shares(plan, report.dtype, report.tokens),
            why=report.why,
            dims=plan.dims,
            first="stage" if plan.dims.pp > 1 else "replica" if plan.dims.dp > 1 else "tp",
            map=cluster_map(plan),
            pipeline=picture(plan, report.pipeline) if report.pipeline else None,
            kinds=KINDS,
            memory=memory_chart(plan, report.tolerated_risk) if plan.memory else None,
            times=time_chart(report.options) if report.options else None,
            scaling=curves(report.scaling, len(plan.cluster.nodes)) if len(report.scaling) > 1 else (),
            points=report.scaling,
            turned_down=headline.turned_down(plan),
            style=_file("style.css"),
            groups=[colours.of_group(index) for index in range(len(colours.GROUPS))],
            steps=[colours.of_step(index, plan.dims.pp) for index in range(plan.dims.pp)],
            terms=colours.TERMS,
            script=script,
            # Of the scripts on the page the browser runs this one alone, whatever names may hold.
            digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


def _file(name: str) -> str:
    return (resources.files(__package__) / "templates" / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(_file),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": count, "percent": percent, "plural": plural}
    return environment
