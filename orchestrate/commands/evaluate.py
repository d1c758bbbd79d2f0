"""``orchestrate evaluate``: predictions against what was measured. No torch, and nothing is started."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from orchestrate.commands.predictions import predict_all, runs_of
from orchestrate.config import Config, PlanFormat
from orchestrate.errors import DataError
from orchestrate.measurements.render import render_scores, score_json
from orchestrate.measurements.scatter import draw


def run(config: Config, overrides: Sequence[str]) -> int:
    """Print the scores of every row of ``runs`` that was measured, and draw the scatter plot."""
    runs = [row for row in runs_of(config, "evaluate") if row.measured]
    if not runs:
        raise DataError("runs: no row has a measurement (status, iter_time_s or memory_gib) to compare with")
    predictions = predict_all(config, runs)
    plot = None
    if config.evaluate.plot is not None and any(row.timed for row in runs):
        plot = Path(config.evaluate.plot).expanduser()
        draw(plot, predictions)
    if config.plan.format is PlanFormat.json:
        print(json.dumps({**score_json(predictions), "plot": None if plot is None else str(plot)}, indent=2))
        return 0
    from rich.console import Console

    console = Console()
    console.print(render_scores(predictions), highlight=False)
    if plot is not None:
        console.print(f"\nscatter plot: {plot}", highlight=False, soft_wrap=True)
    return 0
