"""``orchestrate verify`` as people type it: its tables, and its exit code when something is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SMALL = (
    "cluster=two_node_cpu",
    "cluster.nodes=1",
    "cluster.gpus_per_node=4",
    "model=gpt_tiny",
    "model.layers=2",
    "model.hidden=32",
    "model.heads=2",
    "model.ffn_hidden=64",
    "model.seq=32",
    "precision=fp32",
    "parallel.tp=2",
    "parallel.pp=2",
    "parallel.dp=1",
    "parallel.micro_batch=1",
    "train.global_batch=4",
    "verify.steps=2",
)


@pytest.fixture
def tokens(tmp_path: Path) -> tuple[str, ...]:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{number} squared is {number * number}.\n" for number in range(2000)))
    return (
        "data=text",
        f"data.source.paths=[{text}]",
        "data.source.tokenizer=bytes",
        f"data.cache={tmp_path / 'cache'}",
    )


def verify(*overrides: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "120", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "orchestrate", "verify", *overrides]
    root = Path(__file__).parents[2]
    return subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment, timeout=300)


def test_verify_prints_every_parameter_and_passes(tokens: tuple[str, ...]) -> None:
    done = verify(*SMALL, *tokens)
    assert done.returncode == 0, done.stdout + done.stderr
    for expected in ("initial weights", "gradient norm", "same bits", "layers.1.attention.key_value.bias"):
        assert expected in done.stdout
    assert "equal to one process: loss within" in done.stdout


def test_verify_fails_beyond_tolerance(tokens: tuple[str, ...]) -> None:
    two_ranks = ("cluster.gpus_per_node=2", "parallel.pp=1")
    done = verify(*SMALL, *tokens, *two_ranks, "verify.tolerance=1e-12")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "NOT equal to one process" in done.stdout
    assert "beyond" in done.stdout
