"""How predictions are scored: statistics by hand, scores of small sets of runs, tables and the plot."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from orchestrate.cli import main
from orchestrate.errors import DataError
from orchestrate.measurements.predict import Prediction, Predictor
from orchestrate.measurements.read import read_table
from orchestrate.measurements.render import render_scores, score_json
from orchestrate.measurements.scatter import draw
from orchestrate.measurements.schema import Run
from orchestrate.measurements.score import Score, scores, table_of
from orchestrate.measurements.statistics import Confusion, Errors, ranks, regret, spearman
from orchestrate.measurements.write import FIRST, write_predictions
from orchestrate.plan.plan import MemoryEstimate, TimeEstimate
from orchestrate.plan.units import GIB
from tests.unit.measurement_cases import make_run, write_table

Said = tuple[int, str, str]
finite = st.floats(-1e6, 1e6, allow_subnormal=False)


def test_equal_values_share_the_mean_of_their_ranks() -> None:
    assert ranks([10, 30, 20]) == [1, 3, 2]
    assert ranks([5, 1, 5, 5, 9]) == [3, 1, 3, 3, 5]
    assert ranks([]) == []


def test_spearman_by_hand() -> None:
    assert spearman([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    # 1 - 6 * (1 + 1 + 1 + 1) / (4 * 15), the formula for ranks without ties.
    assert spearman([1, 2, 3, 4], [2, 1, 4, 3]) == pytest.approx(0.6)
    # With ties it is Pearson's r of (1, 2.5, 2.5, 4) and (1, 2, 3, 4): 4.5 / sqrt(4.5 * 5).
    assert spearman([1, 7, 7, 9], [1, 2, 3, 4]) == pytest.approx(4.5 / math.sqrt(22.5))


@given(st.lists(st.tuples(finite, finite), min_size=2, max_size=20))
def test_spearman_is_pearsons_correlation_of_the_ranks(pairs: list[tuple[float, float]]) -> None:
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    found = spearman(a, b)
    if len(set(a)) < 2 or len(set(b)) < 2:
        assert found is None
        return
    assert found == pytest.approx(_pearson(ranks(a), ranks(b)))
    assert found == pytest.approx(spearman(b, a))
    assert spearman([-x for x in a], b) == pytest.approx(-found)
    assert spearman([math.atan(x / 1e6) * 3 + 1 for x in map(round, a)], b) == pytest.approx(
        spearman(list(map(round, a)), b)
    )


def _pearson(x: Sequence[float], y: Sequence[float]) -> float:
    mx, my = mean(x), mean(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / math.sqrt(
        sum((a - mx) ** 2 for a in x) * sum((b - my) ** 2 for b in y)
    )


def test_regret_is_what_the_predicted_best_loses() -> None:
    assert regret([3.0, 2.0, 2.5], [9.0, 8.0, 7.0]) == pytest.approx(0.25)
    assert regret([3.0, 2.0, 2.5], [9.0, 6.0, 7.0]) == 0
    # Two are predicted to be the best: either may be picked.
    assert regret([3.0, 2.0, 2.5], [7.0, 7.0, 8.0]) == pytest.approx(0.25)


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=10))
def test_a_right_order_has_no_regret(measured: list[float]) -> None:
    assert regret(measured, [2 * value for value in measured]) == pytest.approx(0)
    assert regret(measured, [1.0] * len(measured)) >= 0


def test_errors() -> None:
    errors = Errors((0.1, -0.3, 0.05))
    assert (errors.mean, errors.median, errors.worst) == (pytest.approx(0.15), 0.1, 1)
    assert errors.bias == pytest.approx(-0.05)
    assert not Errors(())


def predicted(run: Run, seconds: float = 1.0, gib: float = 10.0, **changes: Any) -> Prediction:
    """A made-up prediction for ``run`` with ``changes``; the device has 80 GiB."""
    memory = MemoryEstimate({"weights": gib * GIB}, 80 * GIB)
    return Prediction(replace(run, **changes), TimeEstimate({"compute": seconds}), (memory,))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path, status="ok", iter_time_s=1.0)


def test_comparable_runs_share_all_but_the_layout(run: Run) -> None:
    score = Score(
        (
            predicted(run, 2.0, iter_time_s=1.0),
            predicted(run, 3.0, iter_time_s=2.0),
            predicted(run, 4.0, iter_time_s=3.0),
            # Twice the batch: per sequence the fastest of all, and predicted to be the slowest.
            predicted(run, 10.0, iter_time_s=1.6, global_batch=1024),
            # Other tasks, each alone.
            predicted(run, 1.0, gpus=64),
            predicted(run, 1.0, model="other"),
            predicted(run, 1.0, seq=4096),
            predicted(run, 1.0, run_id="other-0001"),
        )
    )
    assert len(score.comparisons) == 1
    assert score.rank == pytest.approx(spearman([1.0, 2.0, 3.0, 0.8], [2.0, 3.0, 4.0, 5.0]))
    assert score.regrets == [pytest.approx(1 / 0.8 - 1)]


def test_a_layout_measured_twice_is_no_choice(run: Run) -> None:
    twice = Score((predicted(run, 2.0, iter_time_s=1.0), predicted(run, 2.0, iter_time_s=1.1)))
    assert twice.comparisons == []
    assert twice.rank is None


def test_two_runs_are_a_choice_but_no_ranking(run: Run) -> None:
    pair = Score((predicted(run, 2.0, iter_time_s=1.0), predicted(run, 1.0, iter_time_s=1.1)))
    assert pair.rank is None
    assert pair.regrets == [pytest.approx(0.1)]


def test_failed_runs_count_for_the_confusion_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path, status="ok", iter_time_s=1.0, memory_gib=20)
    failed = replace(run, iter_time_s=None, memory_gib=None)
    oom = make_run(tmp_path, status="oom")
    unknown = make_run(tmp_path, status="crash_or_oom")
    score = Score(
        (
            predicted(run, 1.1, 22),
            predicted(run, 0.8, 90),
            predicted(oom, gib=90),
            predicted(oom, gib=70),
            predicted(unknown, gib=90),
            predicted(unknown, gib=70),
            predicted(failed, gib=10, status=None),
        )
    )
    assert score.confusion == Confusion(fit=1, false_alarm=1, hit=1, miss=1, failed_full=1, failed_fit=1)
    assert score.confusion.right == 0.5
    assert score.time.values == (pytest.approx(0.1), pytest.approx(-0.2))
    assert score.memory.values == (pytest.approx(0.1), pytest.approx(3.5))


def test_tables_are_told_apart_by_the_runs_names(tmp_path: Path) -> None:
    assert table_of(make_run(tmp_path, run_id="sc21-0007")) == "sc21"
    assert table_of(make_run(tmp_path, run_id="two-words-12")) == "two-words"
    assert table_of(make_run(tmp_path, run_id="nightly")) == "one"


def test_scores_in_plain_values(run: Run) -> None:
    values = score_json([predicted(run, 1.2), predicted(run, 0.9, run_id="mine-0002", cluster="dgx-h100")])
    json.dumps(values, allow_nan=False)
    assert values["all"]["time"]["mape"] == pytest.approx(0.15)
    assert values["all"]["time"]["worst_run"] == "mine-0001"
    assert values["all"]["memory"] is None
    assert set(values["by_cluster"]) == {"selene-a100", "dgx-h100"}
    assert values["by_table"]["mine"]["runs"] == 2


def printed(predictions: list[Prediction], width: int = 80) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(render_scores(predictions), highlight=False)
    return capture.get().splitlines()


def test_tables_suit_eighty_columns(tmp_path: Path) -> None:
    run = make_run(tmp_path, status="ok", iter_time_s=1.0, memory_gib=20)
    oom = make_run(tmp_path, status="crash_or_oom")
    many = [predicted(run, 1 + i / 200, 10 + i / 20, run_id=f"vtrain_single-{i:04}") for i in range(1200)]
    many += [predicted(oom, gib=90, cluster="mosaic-a100-40gb", model="gpt-L40-h6144")] * 1000
    lines = printed(many)
    assert max(map(len, lines)) <= 80
    assert any(line.split()[:2] == ["vtrain_single", "1200"] for line in lines)
    assert any(line.startswith("vtrain_single-1199") and "+599.5" in line for line in lines)
    assert any("1000/1000" in line for line in lines)
    assert any(line.split()[0] == "mosaic-a100-40gb" for line in lines if line.strip())


def test_nothing_timed_leaves_the_memory(tmp_path: Path) -> None:
    lines = printed([predicted(make_run(tmp_path, status="oom"), gib=90)])
    assert lines[0].startswith("Memory")
    assert any("1/1" in line for line in lines)


def test_the_plot_has_a_point_for_each_timed_run(run: Run, tmp_path: Path) -> None:
    some = [predicted(run, 0.5 + i, cluster=f"cluster-{i % 3}", iter_time_s=1.0 + i) for i in range(9)]
    some.append(predicted(replace(run, status=None, iter_time_s=None)))
    draw(tmp_path / "plot.svg", some)
    text = (tmp_path / "plot.svg").read_text()
    ElementTree.fromstring(text)
    for name in ("cluster-0 (3)", "cluster-2 (3)", "±10%", "measured seconds per step", "9 runs: MAPE"):
        assert name in text
    draw(tmp_path / "again.svg", some)
    assert (tmp_path / "again.svg").read_text() == text
    with pytest.raises(DataError, match=r"evaluate.plot=.*: No such file or directory"):
        draw(tmp_path / "no" / "plot.svg", some)


def test_predictions_are_written_term_by_term(run: Run, tmp_path: Path) -> None:
    odd = Prediction(
        replace(run, run_id="odd"),
        TimeEstimate({"compute": 2.0, "tp communication": 0.5, "new kind": 0.25}),
        (
            MemoryEstimate({"weights": 10 * GIB}, 80 * GIB),
            MemoryEstimate({"weights": 90 * GIB, "gathered layers": GIB}, 80 * GIB),
        ),
    )
    write_predictions(tmp_path / "out.csv", [predicted(run, 1.5, 10), odd])
    with (tmp_path / "out.csv").open() as stream:
        first, second = csv.DictReader(stream)
    assert list(first)[: len(FIRST)] == list(FIRST)
    assert (first["run_id"], first["iter_time_s"], first["memory_gib"], first["fits"]) == (
        "mine-0001",
        "1.5",
        "10",
        "1",
    )
    assert (first["compute_s"], first["tp_s"], first["weights_gib"]) == ("1.5", "0", "10")
    assert (second["tp_s"], second["new_kind_s"], second["fits"], second["p_out_of_memory"]) == (
        "0.5",
        "0.25",
        "0",
        "1",
    )
    assert (second["gathered_layers_gib"], second["device_gib"]) == ("1", "91")


def test_a_prediction_that_cannot_be_written_leaves_what_was_there(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    out.write_text("old")
    broken = Prediction(run, TimeEstimate({"compute": "no number"}), predicted(run).memory)  # type: ignore[dict-item]
    with pytest.raises(TypeError):
        write_predictions(out, [broken])
    assert out.read_text() == "old"
    assert set(os.listdir(tmp_path)) == {"one.csv", "out.csv"}
    with pytest.raises(DataError, match=r"out=.*: No such file or directory"):
        write_predictions(tmp_path / "no" / "out.csv", [predicted(run)])


def test_terms_of_real_predictions_add_up(tmp_path: Path) -> None:
    file = write_table(
        tmp_path / "a.csv", {}, {"pp": 4, "dp": 8}, {"tp": 1, "dp": 128, "zero": 3, "micro_batch": 4}
    )
    predictor = Predictor()
    write_predictions(tmp_path / "out.csv", [predictor.predict(run) for run in read_table(file)])
    with (tmp_path / "out.csv").open() as stream:
        for row in csv.DictReader(stream):
            seconds = sum(
                float(value) for key, value in row.items() if key.endswith("_s") and key != "iter_time_s"
            )
            gib = sum(float(v) for key, v in row.items() if key.endswith("_gib") and key not in FIRST)
            assert seconds == pytest.approx(float(row["iter_time_s"]), rel=1e-4)
            assert gib == pytest.approx(float(row["device_gib"]), rel=1e-4)
            assert float(row["memory_gib"]) < gib
            assert 0 <= float(row["p_out_of_memory"]) <= 1


@pytest.fixture
def say(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Said]:
    """Runs ``orchestrate`` in an empty folder; gives the exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Said:
        status = main(arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_predict(say: Callable[..., Said], tmp_path: Path) -> None:
    write_table(tmp_path / "runs.csv", {}, {"run_id": "big-1", "layers": 400})
    assert say("predict", "runs=runs.csv", "out=out.csv") == (
        0,
        "",
        "2 runs predicted, 1 of them not to fit: out.csv\n",
    )
    with (tmp_path / "out.csv").open() as stream:
        assert [(row["run_id"], row["fits"]) for row in csv.DictReader(stream)] == [
            ("mine-0001", "1"),
            ("big-1", "0"),
        ]


def test_evaluate(say: Callable[..., Said], tmp_path: Path) -> None:
    measured = {"status": "ok", "iter_time_s": 3.696}
    write_table(tmp_path / "a.csv", measured, {"run_id": "mine-0002", "status": "", "iter_time_s": ""})
    write_table(tmp_path / "b.csv", {**measured, "run_id": "other-1"})
    status, out, _ = say("evaluate", "runs=[a.csv,b.csv]")
    assert status == 0
    assert out.startswith("Step time")
    assert out.endswith("scatter plot: evaluate.svg\n")
    assert (tmp_path / "evaluate.svg").is_file()
    status, out, err = say("evaluate", "runs=*.csv", "format=json", "plot=null")
    values = json.loads(out)
    assert (status, err, values["plot"], values["all"]["runs"]) == (0, "", None, 2)
    assert set(values["by_table"]) == {"mine", "other"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["predict"], "say what to predict: orchestrate predict runs=FILE.csv"),
        (["predict", "runs=runs.csv"], "say where to write the predictions: orchestrate predict runs=… out="),
        (["predict", "runs=runs.csv", "out=./runs.csv"], "out=runs.csv: is one of the tables to predict"),
        (
            ["predict", "runs=wrong.csv", "out=o.csv"],
            "wrong.csv row 1 (mine-0001): cluster=selene: unknown, did",
        ),
        (["predict", "runs=none.csv", "out=o.csv"], "runs=none.csv: no such file"),
        (["predict", "runs=runs.csv", "out=no/o.csv"], "out=no/o.csv: there is no folder no"),
        (["evaluate"], "say what to evaluate: orchestrate evaluate runs=FILE.csv"),
        (["evaluate", "runs=runs.csv"], "runs: no row has a measurement"),
        (["evaluate", "runz=runs.csv"], "unknown key runz: did you mean runs?"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], told: str, say: Callable[..., Said], tmp_path: Path
) -> None:
    write_table(tmp_path / "runs.csv", {})
    write_table(tmp_path / "wrong.csv", {"cluster": "selene"})
    status, out, err = say(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("orchestrate: ")
    assert told in err
    assert err.count("\n") == 1
    assert not (tmp_path / "o.csv").exists()


def test_scores_come_in_order_of_appearance(run: Run) -> None:
    some = [predicted(run, cluster=name) for name in ("b", "a", "b")]
    assert list(scores(some, lambda r: r.cluster)) == ["b", "a"]
