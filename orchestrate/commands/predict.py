"""``orchestrate predict``: what each run of a table should take. No torch, and nothing is started."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from orchestrate.commands.predictions import predict_all, runs_of
from orchestrate.config import Config
from orchestrate.errors import ConfigError
from orchestrate.measurements.write import write_predictions


def run(config: Config, overrides: Sequence[str]) -> int:
    """Write a prediction for every row of ``runs`` to ``out``."""
    runs = runs_of(config, "predict")
    if config.out is None:
        raise ConfigError("say where to write the predictions: orchestrate predict runs=… out=FILE.csv")
    out = Path(config.out).expanduser()
    if any(out.resolve() == Path(row.file).resolve() for row in runs):
        raise ConfigError(f"out={out}: is one of the tables to predict, and would be overwritten")
    if not out.parent.is_dir():
        raise ConfigError(f"out={out}: there is no folder {out.parent}")
    predictions = predict_all(config, runs)
    write_predictions(out, predictions)
    full = sum(not prediction.fits for prediction in predictions)
    print(f"{len(predictions)} runs predicted, {full} of them not to fit: {out}", file=sys.stderr)
    return 0
