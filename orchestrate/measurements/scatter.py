"""Predicted over measured step times, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrate.errors import DataError
from orchestrate.measurements.predict import Prediction
from orchestrate.measurements.score import Score, scores

BAND = 0.1
"""Relative error up to which a prediction lies in the shaded band."""


def draw(file: Path, predictions: Sequence[Prediction]) -> None:
    """Write to ``file`` an SVG with a point for each timed run, both axes logarithmic, coloured by cluster.

    Raises:
        DataError: the file cannot be written.
    """
    # Takes most of a second to import, and only here; the object interface needs no display.
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    timed = [prediction for prediction in predictions if prediction.run.timed]
    assert timed, "there is something to draw"
    seconds = [value for p in timed for value in (p.run.iter_time_s or 0.0, p.iter_time_s)]
    low, high = min(seconds) / 1.3, max(seconds) * 1.3
    # Text stays text, and the same points give the same file.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "orchestrate", "font.size": 10}):
        figure = Figure(figsize=(7, 6.4), layout="constrained")
        axes = figure.add_subplot()
        axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
        line = [low, high]
        axes.fill_between(
            line,
            [x * (1 - BAND) for x in line],
            [x * (1 + BAND) for x in line],
            color="0.85",
            linewidth=0,
            label=f"±{BAND:.0%}",
        )
        axes.plot(line, line, color="0.4", linewidth=0.8)
        palette = matplotlib.colormaps["tab20" if len(_clusters(timed)) > 10 else "tab10"]
        for index, (cluster, score) in enumerate(_clusters(timed).items()):
            axes.plot(
                [p.run.iter_time_s or 0.0 for p in score.timed],
                [p.iter_time_s for p in score.timed],
                linestyle="none",
                marker="o",
                markersize=4,
                markeredgewidth=0,
                alpha=0.6,
                zorder=4 - len(score.timed) / len(timed),  # few points on top of many
                color=palette(index % palette.N),
                label=f"{cluster} ({len(score.timed)})",
            )
        shown = FuncFormatter(lambda value, _position: f"{value:g}")
        axes.xaxis.set_major_formatter(shown)
        axes.yaxis.set_major_formatter(shown)
        axes.set_xlabel("measured seconds per step")
        axes.set_ylabel("predicted seconds per step")
        whole = Score(tuple(timed))
        within = sum(abs(error) <= BAND for error in whole.time.values) / len(timed)
        axes.set_title(
            f"{len(timed)} runs: MAPE {whole.time.mean:.1%}, {within:.0%} within ±{BAND:.0%}", fontsize=11
        )
        axes.legend(loc="upper left", frameon=False, fontsize=9)
        try:
            figure.savefig(
                file, format="svg", metadata={"Date": None, "Title": "Predicted and measured step time"}
            )
        except OSError as error:
            raise DataError(f"evaluate.plot={file}: {error.strerror}") from None


def _clusters(timed: Sequence[Prediction]) -> dict[str, Score]:
    return scores(timed, lambda run: run.cluster)
