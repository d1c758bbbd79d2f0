"""`orchestrate plan` as people type it: questions, prices of other layouts, programs that read it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrate.cli import main

TINY = ["cluster=two_node_cpu", "model=gpt_tiny", "train.global_batch=16"]


def plan(*arguments: str) -> int:
    return main(["plan", *TINY, *arguments])


def test_the_best_layouts_and_the_reasons_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan("plan.top=3") == 0
    text = capsys.readouterr().out
    assert "Why this one" in text
    assert "The runner-up" in " ".join(text.split())
    ranks = text.split("Loses most to")[1].split("Why this one")[0]
    assert [line.split()[0] for line in ranks.splitlines() if line[3:4].isdigit()] == ["1", "2", "3"]


def test_programs_get_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan("format=json", "top=4", "why=tp=4", "tokens=1e9") == 0
    values = json.loads(capsys.readouterr().out)
    assert len(values["alternatives"]) == 3
    assert {"mfu", "hfu", "risk", "training", "rejections", "shard_efficiency"} <= set(values["derived"])
    assert values["explanation"]
    assert values["why"]["asked"] == "tp=4"
    assert values["why"]["step_time_s"] >= values["derived"]["step_time_s"]
    assert values["why"]["layout"].startswith("tp4")


def test_why_is_typed_as_it_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    # The shell takes the quotes of plan.why="tp=1,pp=4" away.
    assert plan("plan.why=tp=1,pp=4") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "best layout with tp=1,pp=4" in told or "is what the plan does" in told
    assert plan("plan.why='tp=3'") == 0
    assert "tp=3 is ruled out: parallel.tp=3 does not divide" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("ask", ["scaling", "fewest_gpus", "lost_nodes"])
def test_questions_are_answered_in_a_table_and_for_programs(
    ask: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(f"plan.ask={ask}") == 0
    text = capsys.readouterr().out
    assert "tokens/s" in text
    assert max(map(len, text.splitlines())) <= 80
    assert plan(f"plan.ask={ask}", "plan.format=json") == 0
    values = json.loads(capsys.readouterr().out)
    assert values["ask"] == ask
    assert values["rows"]
    assert values["sentences"]


def test_lost_nodes_ask_by_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan("plan.lost_nodes=1") == 0
    assert capsys.readouterr().out.startswith("Without one node, ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plan.ask=scalin"], "did you mean scaling?"),
        (["plan.top=0"], "plan.top=0: must be at least 1"),
        (["plan.why=pt=2"], "did you mean tp?"),
        (["plan.why=schedule=1f2b"], "did you mean 1f1b?"),
        (["plan.lost_nodes=2"], "plan.lost_nodes=2: the cluster has 2, so at most 1"),
        (["plan.lost_nodes=0"], "plan.lost_nodes=0: must be at least 1"),
        (["plan.lost_nodes=1", "plan.ask=scaling"], "goes with plan.ask=lost_nodes"),
        (["plan.risk=2"], "plan.risk=2: must be at least 0"),
        (["plan.tokens=0"], "plan.tokens=0: must be above 0"),
        (["parallel.tp=8", "model.heads=8"], "parallel.tp=8 is larger than the NVLink domain of 4"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("orchestrate: ")
    assert len(error.strip().splitlines()) == 1
    assert said in error


def test_context_parallelism_is_planned_and_not_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plan.yaml"
    assert plan("parallel.cp=2", f"plan.out={file}", "plan.format=json") == 0
    assert json.loads(capsys.readouterr().out)["dims"]["cp"] == 2
    assert plan("parallel.cp=auto") == 0
    capsys.readouterr()
    for arguments in (["parallel.cp=2"], [f"plan={file}"]):
        assert main(["train", *TINY, *arguments]) == 2
        assert "context parallelism is not trained yet" in capsys.readouterr().err


def test_a_saved_plan_is_small_and_comes_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "plan.yaml"
    assert plan(f"plan.out={file}") == 0
    text = file.read_text()
    assert "alternatives" not in text
    assert "explanation" not in text
    assert "rejected" not in text
    capsys.readouterr()
    assert plan(f"plan={file}") == 0
    assert "turned down" not in capsys.readouterr().out


def test_what_was_written_is_said_where_people_read_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, report = tmp_path / "plan.yaml", tmp_path / "plan.html"
    assert plan(f"plan.out={out}", f"plan.report={report}") == 0
    assert capsys.readouterr().out.endswith(f"plan written: {out}\nreport written: {report}\n")
    assert plan(f"plan.out={out}", "plan.format=json") == 0
    json.loads(capsys.readouterr().out)


def test_a_dry_run_of_training_starts_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "experiment=quickstart", "launcher.dry_run=true"]) == 0
    assert capsys.readouterr().out.endswith("would start 8 processes on this machine\n")
    assert not list(tmp_path.iterdir())
