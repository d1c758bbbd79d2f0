"""``orchestrate checkpoint show``, ``verify`` and ``diff``, on what runs have saved."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from orchestrate.cli import main
from tests.distributed.checkpoint_cases import train
from tests.distributed.pool import Pool
from tests.equivalence.layouts import Layout


@pytest.fixture(scope="module")
def runs(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, in one process and in two."""
    folder = tmp_path_factory.mktemp("runs")
    pool.run(1, train, Layout(), str(folder / "alone"), 2, 1)
    pool.run(2, train, Layout(tp=2), str(folder / "it's cut"), 2, 1)
    return folder


def test_show(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "show", str(runs / "it's cut")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(runs / "it's cut")
    rows = [line.split() for line in lines if line.strip()[:1].isdigit()]
    assert [(row[0], row[1]) for row in rows] == [("2", "16"), ("1", "8")]
    assert all("tp2" in row and "fp32" in row for row in rows)


def test_show_as_json(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "show", str(runs / "alone"), "format=json"]) == 0
    newest, _ = json.loads(capsys.readouterr().out)
    assert (newest["step"], newest["samples"], newest["layout"]) == (2, 16, "one process")


def test_verify(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = shutil.copytree(runs / "alone", tmp_path / "run")
    assert main(["checkpoint", "verify", str(run)]) == 0
    assert capsys.readouterr().out.count("whole, 3 files") == 2
    os.truncate(run / "checkpoints" / "step-00000002" / "__0_0.distcp", 99)
    assert main(["checkpoint", "verify", str(run)]) == 1
    said = capsys.readouterr().out
    assert "step-00000002: __0_0.distcp has 99 bytes instead of" in said
    assert said.count("whole") == 1


def test_diff(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = str(runs / "alone")
    assert main(["checkpoint", "diff", one, one]) == 0
    assert "0 of" in capsys.readouterr().out
    assert main(["checkpoint", "diff", one, str(runs / "it's cut")]) == 1
    said = capsys.readouterr().out
    assert "plan.dims.tp" in said
    assert main(["checkpoint", "diff", one, f"other={one}/checkpoints/step-00000001"]) == 1
    assert "model.head.norm.weight" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show"], "path is missing"),
        (["verify", "/nowhere"], "no checkpoint there"),
        (["diff", "{runs}/alone"], "other is missing"),
        (["diff", "a", "b", "c"], "takes path and other, not 3"),
    ],
)
def test_mistakes(runs: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", *(text.format(runs=runs) for text in arguments)]) == 2
    assert message in capsys.readouterr().err
