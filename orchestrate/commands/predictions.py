"""What predicting and evaluating share: the rows of the tables, and a prediction for each."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from orchestrate.config import Config
from orchestrate.errors import ConfigError
from orchestrate.measurements.clusters import Clusters
from orchestrate.measurements.predict import Prediction, Predictor
from orchestrate.measurements.read import read_runs
from orchestrate.measurements.schema import Run


def runs_of(config: Config, verb: str) -> list[Run]:
    """Every row of the tables that ``config.runs`` names.

    Raises:
        ConfigError: it names none.
        DataError: a table is missing or wrong.
    """
    patterns = (config.runs,) if isinstance(config.runs, str) else config.runs
    if not patterns:
        raise ConfigError(f"say what to {verb}: orchestrate {verb} runs=FILE.csv")
    return read_runs(patterns)


def predict_all(config: Config, runs: Sequence[Run]) -> list[Prediction]:
    """A prediction for each of ``runs``; a bar on the terminal says how far it is.

    Raises:
        DataError: a row names an unknown cluster, or one that cannot be built.
    """
    from rich.console import Console
    from rich.progress import track

    predictor = Predictor(Clusters(config.cluster))
    console = Console(file=sys.stderr)
    bar = track(runs, "predicting", console=console, transient=True, disable=not console.is_terminal)
    return [predictor.predict(run) for run in bar]
