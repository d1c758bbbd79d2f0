"""Scores for people (tables) and for programs (plain values)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from orchestrate.measurements.predict import Prediction
from orchestrate.measurements.schema import Run
from orchestrate.measurements.score import Score, scores, table_of
from orchestrate.measurements.statistics import Confusion, Errors

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

GROUPINGS: tuple[tuple[str, Callable[[Run], str]], ...] = (
    ("table", table_of),
    ("cluster", lambda run: run.cluster),
    ("model", lambda run: run.model),
)
NONE = "–"


def score_json(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Scores in plain values that JSON can write: of all ``predictions``, and by `GROUPINGS`. Errors,
    regrets and shares are fractions; null where there was nothing to score."""
    values: dict[str, Any] = {"all": _plain(Score(tuple(predictions)))}
    for name, key in GROUPINGS:
        values[f"by_{name}"] = {group: _plain(s) for group, s in scores(predictions, key).items()}
    return values


def _plain(score: Score) -> dict[str, Any]:
    time: dict[str, Any] | None = None
    if score.time:
        worst = score.worst.run
        time = {
            "runs": len(score.timed),
            "mape": score.time.mean,
            "median": score.time.median,
            "bias": score.time.bias,
            "worst": score.time.values[score.time.worst],
            "worst_run": worst.run_id,
            "groups": len(score.comparisons),
            "rank": score.rank,
            "regret": _mean(score.regrets),
            "worst_regret": max(score.regrets, default=None),
        }
    memory: dict[str, Any] | None = None
    if score.memory:
        memory = {
            "runs": len(score.sized),
            "median": score.memory.median,
            "mean": score.memory.mean,
            "bias": score.memory.bias,
            "worst": score.memory.values[score.memory.worst],
            "worst_run": score.sized[score.memory.worst].run.run_id,
        }
    fits = {**vars(score.confusion), "right": score.confusion.right}
    return {"runs": len(score.predictions), "time": time, "memory": memory, "fits": fits}


def render_scores(predictions: Sequence[Prediction]) -> RenderableType:
    """Scores as tables that suit 80 columns and read as well in a file."""
    from rich.console import Group

    whole = Score(tuple(predictions))
    parts: list[RenderableType] = []
    if whole.time:
        parts += [_scored("Step time", _TIME, predictions, lambda s: bool(s.time))]
        parts += [_note(_TIME_NOTE), "", _furthest(predictions), ""]
    parts += [_scored("Memory", _MEMORY, predictions, _says_of_memory), _note(_MEMORY_NOTE)]
    return Group(*parts)


_TIME_NOTE = (
    "Errors and regret in %. MAPE: mean error without sign. Bias: with sign. rho: Spearman's, of the time"
    " per sequence, mean over groups of three runs or more of one table, cluster, model, GPU count and"
    " sequence length. Regret: how much slower the layout predicted to be fastest is than the fastest one;"
    " mean and worst group."
)
_MEMORY_NOTE = (
    "Errors in %. OOM: runs that ran out of memory and were predicted to, of all that did. Alarms: runs that"
    " fitted but were predicted not to. Failed: runs that failed for memory or for another reason, and how"
    " many of them were predicted not to fit. Right: share of the runs known to fit or not."
)

_Column = tuple[str, Callable[[Score], str]]
_TIME: tuple[_Column, ...] = (
    ("runs", lambda s: str(len(s.timed))),
    ("MAPE", lambda s: _percent(s.time.mean)),
    ("median", lambda s: _percent(s.time.median)),
    ("bias", lambda s: _signed(s.time.bias)),
    ("worst", lambda s: _signed(s.time.values[s.time.worst])),
    ("rho", lambda s: NONE if s.rank is None else f"{s.rank:.3f}"),
    ("regret", lambda s: _percent(_mean(s.regrets))),
    ("worst", lambda s: _percent(max(s.regrets, default=None))),
)
_MEMORY: tuple[_Column, ...] = (
    ("runs", lambda s: str(len(s.sized)) if s.sized else NONE),
    ("median", lambda s: _error(s.memory, lambda e: _percent(e.median))),
    ("mean", lambda s: _error(s.memory, lambda e: _percent(e.mean))),
    ("bias", lambda s: _error(s.memory, lambda e: _signed(e.bias))),
    ("OOM", lambda s: _of(s.confusion.hit, s.confusion.hit + s.confusion.miss)),
    ("alarms", lambda s: _of(s.confusion.false_alarm, s.confusion.false_alarm + s.confusion.fit)),
    ("failed", lambda s: _of(s.confusion.failed_full, s.confusion.failed_full + s.confusion.failed_fit)),
    ("right", lambda s: _percent(s.confusion.right)),
)


def _scored(
    title: str, columns: Sequence[_Column], predictions: Sequence[Prediction], shown: Callable[[Score], bool]
) -> Table:
    table = _table(title, *(name for name, _ in columns))
    for name, key in GROUPINGS:
        found = {group: score for group, score in scores(predictions, key).items() if shown(score)}
        if not found or (len(found) < 2 and name != "table"):
            continue  # it would say again what the rows above say
        table.add_row(f"by {name}", style="bold")
        for group, score in found.items():
            table.add_row(f" {group}", *(value(score) for _, value in columns))
        table.add_section()
    table.add_row("all", *(value(Score(tuple(predictions))) for _, value in columns))
    return table


def _furthest(predictions: Sequence[Prediction]) -> Table:
    """The worst run of each table."""
    table = _table("Furthest off", "model", "GPUs", "measured", "predicted", "off, %")
    for score in scores(predictions, table_of).values():
        if not score.time:
            continue
        worst = score.worst
        run, seconds = worst.run, worst.run.iter_time_s or 0.0
        off = _signed(worst.iter_time_s / seconds - 1)
        shown = f"{seconds:.4g} s", f"{worst.iter_time_s:.4g} s"
        table.add_row(run.run_id, run.model, str(run.gpus), *shown, off)
    return table


def _says_of_memory(score: Score) -> bool:
    """Whether there is more to say than that runs which fitted were predicted to."""
    return bool(score.memory) or score.confusion != Confusion(fit=score.confusion.fit)


def _table(title: str, *columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1), show_edge=False)
    table.add_column(title, overflow="fold")
    for column in columns:
        text = column == "model"
        table.add_column(column, justify="left" if text else "right", no_wrap=not text, overflow="fold")
    return table


def _note(text: str) -> RenderableType:
    from rich.text import Text

    return Text(text, style="dim")


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _error(errors: Errors, show: Callable[[Errors], str]) -> str:
    return show(errors) if errors else NONE


def _of(count: int, total: int) -> str:
    return f"{count}/{total}" if total else NONE


def _percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.1f}"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}"
