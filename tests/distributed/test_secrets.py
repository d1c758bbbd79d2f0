"""What must stay with the person who started a run: the key of wandb."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrate.cli import main

ROOT = Path(__file__).resolve().parents[2]
KEY = "5ec2e7" * 6 + "feed"
SETTINGS = (
    "experiment=quickstart",
    "cluster=local_cpu",
    "cluster.gpus_per_node=1",
    "parallel.tp=1",
    "parallel.pp=1",
    "parallel.dp=1",
    "parallel.sequence_parallel=false",
    "zero.stage=0",
    "model.layers=1",
    "data=text",
    "data.source.tokenizer=bytes",
    "train.steps=2",
    "optim.warmup_steps=0",
    "train.eval_batches=1",
    "tracking=wandb",
)


def test_the_key_of_wandb_is_in_no_file_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 200)
    corpus, cache, run = (tmp_path / name for name in ("words.txt", "cache", "run"))
    places = [f"data.source.paths=[{corpus}]", f"data.cache={cache}", f"run.dir={run}"]
    command = [sys.executable, "-m", "orchestrate", "train", *SETTINGS, *places]
    ended = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT), "WANDB_API_KEY": KEY},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert KEY not in ended.stdout + ended.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"config.yaml", "plan.yaml", "run.yaml", "metrics.jsonl", "rank-0.log", "state.json"} <= names
    assert any(path.suffix == ".wandb" for path in files)
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def test_nor_in_a_batch_script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    settings = ["experiment=quickstart", "tracking=wandb", "launcher=slurm", "launcher.dry_run=true"]
    assert main(["submit", *settings]) == 0
    shown = capsys.readouterr()
    assert "#SBATCH" in shown.out
    assert KEY not in shown.out + shown.err
