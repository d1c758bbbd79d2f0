"""Predictions as a CSV file, one row per run."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from orchestrate.errors import DataError
from orchestrate.measurements.predict import Prediction
from orchestrate.plan.units import GIB

FIRST = ("run_id", "iter_time_s", "memory_gib", "fits", "p_out_of_memory", "device_gib")
LAST = "why_not"
TIME_TERMS = (
    "compute",
    "recompute",
    "bubble",
    "tp communication",
    "pp communication",
    "dp communication",
    "cp communication",
    "optimizer",
    "fixed",
)
"""In the order of their columns, which every file has; terms of other names come after them."""


def write_predictions(file: Path, predictions: Sequence[Prediction]) -> None:
    """Write ``predictions`` to ``file``, which appears, or replaces an older one, only when it is whole.

    Raises:
        DataError: the file cannot be written.
    """
    try:
        if file.exists() and not file.is_file():  # a pipe, or /dev/stdout
            with file.open("w", encoding="utf-8", newline="") as stream:
                _write(stream, predictions)
            return
        final = file.resolve()
        beside = final.with_name(f".{final.name}.{os.getpid()}")
        try:
            with beside.open("w", encoding="utf-8", newline="") as stream:
                _write(stream, predictions)
            beside.replace(final)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"out={file}: {error.strerror}") from None


def _write(stream: TextIO, predictions: Sequence[Prediction]) -> None:
    seconds = _in_order(TIME_TERMS, (p.time.terms for p in predictions))
    gibibytes = _in_order((), (p.fullest.terms for p in predictions))
    writer = csv.writer(stream, lineterminator="\n")
    terms = [_column(term, "s") for term in seconds] + [_column(term, "gib") for term in gibibytes]
    writer.writerow([*FIRST, *terms, LAST])
    for prediction in predictions:
        writer.writerow(_row(prediction, seconds, gibibytes))


def _row(prediction: Prediction, seconds: Sequence[str], gibibytes: Sequence[str]) -> Iterator[str]:
    yield prediction.run.run_id
    yield _number(prediction.iter_time_s)
    yield _number(prediction.memory_gib)
    yield str(int(prediction.fits))
    yield f"{prediction.fullest.probability_of_running_out:.3g}"
    yield _number(prediction.fullest.total / GIB)
    yield from (_number(prediction.time.terms.get(term, 0.0)) for term in seconds)
    yield from (_number(prediction.fullest.terms.get(term, 0.0) / GIB) for term in gibibytes)
    yield prediction.why_not or ""


def _in_order(first: Iterable[str], terms: Iterable[dict[str, float]]) -> list[str]:
    found = dict.fromkeys(first)
    for names in terms:
        found.update(dict.fromkeys(names))
    return list(found)


def _column(term: str, unit: str) -> str:
    return f"{term.removesuffix(' communication').replace(' ', '_').replace('-', '_')}_{unit}"


def _number(value: float) -> str:
    return f"{value:.6g}"
