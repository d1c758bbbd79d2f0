"""launcher=torchrun: the command becomes torchrun, and its processes find their places and train."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from orchestrate.plan import plan as plans
from orchestrate.train.metrics import read_records

ROOT = Path(__file__).resolve().parents[2]
RUN = (
    "cluster=local_cpu",
    "model=gpt_tiny",
    "model.layers=2",
    "parallel.tp=2",
    "parallel.dp=1",
    "data=text",
    "data.source.tokenizer=bytes",
    "tracking=off",
    "train.steps=2",
    "train.global_batch=4",
    "train.eval_batches=1",
    "optim.warmup_steps=0",
    "checkpoint.every=null",
)


def orchestrate(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    text = folder / "words.txt"
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 400)
    where = (f"data.source.paths=[{text}]", f"data.cache={folder / 'cache'}")
    return subprocess.run(
        [sys.executable, "-m", "orchestrate", *words, *RUN, *where],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_it_trains_as_the_local_launcher_does(tmp_path: Path) -> None:
    losses, logs = {}, {}
    for launcher, verb in (("local", "train"), ("torchrun", "submit")):
        folder = tmp_path / launcher
        ended = orchestrate(tmp_path, verb, f"launcher={launcher}", f"run.dir={folder}")
        assert ended.returncode == 0, ended.stdout + ended.stderr
        losses[launcher] = [record.loss for record in read_records(folder)]
        logs[launcher] = {log.name for log in (folder / "logs").glob("rank-*.log")}
        assert plans.load(folder / "plan.yaml").dims.tp == 2
    assert len(losses["local"]) == 2
    assert losses["torchrun"] == losses["local"]
    assert logs["torchrun"] == logs["local"] == {"rank-0.log", "rank-1.log"}
    assert (tmp_path / "torchrun" / "code" / "orchestrate").is_dir()


CRASHES = """
import os, sys
from pathlib import Path
from orchestrate.train.elastic import write_also_to
write_also_to(Path(sys.argv[1]))
print("from Python", flush=True)
os.write(2, b"from below\\n")
os.abort()
"""


def test_last_words_of_a_rank_that_crashes_are_in_its_log_and_on_the_terminal(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "rank-0.log"
    for start in (1, 2):  # torchrun starts it again
        # All is read when the last that holds stderr has ended.
        ended = subprocess.run(
            [sys.executable, "-c", CRASHES, log],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ended.returncode == -signal.SIGABRT
        assert ended.stderr == "from Python\nfrom below\n"
        assert log.read_text() == ended.stderr * start
