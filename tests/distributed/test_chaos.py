"""A short version of `benchmarks.chaos`: a few faults, and nothing is lost."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.disturb.faults import inflict
from benchmarks.disturb.session import Session
from benchmarks.disturb.verdict import judge

STEPS, BATCH, GAP = 64, 8, 12
OVERRIDES = (
    "experiment=quickstart",
    "cluster=local_cpu",
    "parallel.tp=1",
    "parallel.pp=1",
    "parallel.dp=2",
    "parallel.sequence_parallel=false",
    "zero.stage=0",
    "model.layers=2",
    "data=text",
    "data.source.tokenizer=bytes",
    f"train.steps={STEPS}",
    f"train.global_batch={BATCH}",
    "train.eval_every=0",
    "train.eval_batches=1",
    "checkpoint.every=4",
    "optim.eps=1e-3",
    "tracking=off",
)


@pytest.fixture
def overrides(tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "words.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 4000)
    return (*OVERRIDES, f"data.source.paths=[{tmp_path / 'words.txt'}]", f"data.cache={tmp_path / 'cache'}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path | None]:
    """A small file system for the disturbed run, where this machine lets us mount one."""
    folder = tmp_path / "disturbed" / "run"
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, check=False).returncode == 0
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def test_nothing_is_lost(overrides: tuple[str, ...], disk: Path | None, tmp_path: Path) -> None:
    undisturbed, disturbed = (Session(tmp_path / name, overrides) for name in ("undisturbed", "disturbed"))
    with undisturbed:
        undisturbed.start()
        assert undisturbed.wait_to_end() == 0, undisturbed.last_words()
    kinds = ["flip", *(["disk"] if disk is not None else []), "supervisor", "half"]
    with disturbed:
        disturbed.start()
        for number, kind in enumerate(kinds, 1):
            disturbed.wait_for_step(number * GAP)
            inflict(kind, disturbed, random.Random(number))
        assert disturbed.wait_to_end() == 0, disturbed.last_words()
        disturbed.wait_for_quiet()
    verdict = judge(disturbed.folder, undisturbed.folder, STEPS, BATCH, tolerance=1e-5)
    assert verdict.changed is not None
    assert verdict.equal >= verdict.changed - 1 > GAP
