"""Scores of predictions, over any set of runs."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean

from orchestrate.measurements.predict import Prediction
from orchestrate.measurements.schema import Run, Status
from orchestrate.measurements.statistics import Confusion, Errors, regret, spearman


def table_of(run: Run) -> str:
    """The table that ``run`` comes from: its id without the number, or else its file."""
    numbered = re.fullmatch(r"(.+)-\d+", run.run_id)
    return numbered[1] if numbered else Path(run.file).stem


def comparable(run: Run) -> Hashable:
    """Runs for which this is equal differ in layout, not in task: one may ask which is faster."""
    return table_of(run), run.cluster, run.model, run.gpus, run.seq


@dataclass(frozen=True)
class Comparison:
    """One group of comparable runs. What is compared is the time per sequence, since some tables change
    the global batch with the layout; where it is constant, that orders runs as their step times do."""

    predictions: tuple[Prediction, ...]

    @cached_property
    def measured(self) -> list[float]:
        return [(p.run.iter_time_s or 0.0) / p.run.global_batch for p in self.predictions]

    @cached_property
    def predicted(self) -> list[float]:
        return [p.iter_time_s / p.run.global_batch for p in self.predictions]

    @property
    def rank(self) -> float | None:
        """Spearman's rho; None where either side has no order."""
        return spearman(self.measured, self.predicted)

    @property
    def regret(self) -> float:
        """As `statistics.regret`."""
        return regret(self.measured, self.predicted)


@dataclass(frozen=True)
class Score:
    """How good ``predictions`` are. Runs that failed count for the confusion alone."""

    predictions: tuple[Prediction, ...]

    @cached_property
    def timed(self) -> tuple[Prediction, ...]:
        """Of the runs whose step was timed."""
        return tuple(p for p in self.predictions if p.run.timed)

    @cached_property
    def sized(self) -> tuple[Prediction, ...]:
        """Of the runs whose memory was measured."""
        return tuple(p for p in self.predictions if p.run.ran and p.run.memory_gib is not None)

    @cached_property
    def time(self) -> Errors:
        return Errors(tuple(p.iter_time_s / (p.run.iter_time_s or 1.0) - 1 for p in self.timed))

    @cached_property
    def memory(self) -> Errors:
        return Errors(tuple(p.memory_gib / (p.run.memory_gib or 1.0) - 1 for p in self.sized))

    @property
    def worst(self) -> Prediction:
        """The one furthest from the measured time."""
        return self.timed[self.time.worst]

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """Groups of comparable runs that leave a choice: at least two layouts with different predictions
        (one layout measured with several releases of a toolkit is predicted once)."""
        groups = split(self.timed, lambda p: comparable(p.run))
        found = map(Comparison, groups.values())
        return [comparison for comparison in found if len(set(comparison.predicted)) > 1]

    @cached_property
    def rank(self) -> float | None:
        """Mean over groups of three runs or more: of two, the order is right or wrong by chance."""
        found = [c.rank for c in self.comparisons if len(c.predictions) > 2]
        known = [rho for rho in found if rho is not None]
        return mean(known) if known else None

    @cached_property
    def regrets(self) -> list[float]:
        """By group of comparable runs."""
        return [comparison.regret for comparison in self.comparisons]

    @cached_property
    def confusion(self) -> Confusion:
        return sum(map(_outcome, self.predictions), Confusion())


def split(
    predictions: Iterable[Prediction], key: Callable[[Prediction], Hashable]
) -> dict[Hashable, tuple[Prediction, ...]]:
    """``predictions`` by ``key``, in order of appearance."""
    groups: dict[Hashable, list[Prediction]] = defaultdict(list)
    for prediction in predictions:
        groups[key(prediction)].append(prediction)
    return {name: tuple(group) for name, group in groups.items()}


def scores(predictions: Sequence[Prediction], key: Callable[[Run], str]) -> dict[str, Score]:
    """A score for each value of ``key``, in order of appearance."""
    return {str(name): Score(group) for name, group in split(predictions, lambda p: key(p.run)).items()}


def _outcome(prediction: Prediction) -> Confusion:
    run, fits = prediction.run, prediction.fits
    if run.ran:
        return Confusion(fit=1) if fits else Confusion(false_alarm=1)
    if run.status is Status.oom:
        return Confusion(miss=1) if fits else Confusion(hit=1)
    if run.status is Status.crash_or_oom:
        return Confusion(failed_fit=1) if fits else Confusion(failed_full=1)
    return Confusion()
