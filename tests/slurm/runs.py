"""Runs as users of a cluster have them: submitted on the login node, looked at through their folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launchers.slurm.jobs import jobs_of
from orchestrate.plan import plan as plans
from orchestrate.train.metrics import read_records
from tests.slurm.devcluster import DEADLINE_S, ROOT, Cluster, until

ORCHESTRATE = (sys.executable, "-m", "orchestrate")
TINY = (
    "cluster=two_node_cpu",
    "model=gpt_tiny",
    "data=text",
    "data.source.tokenizer=bytes",
    "precision=fp32",
    "tracking=off",
    "train.eval_batches=1",
    "launcher.threads=1",
    "launcher.preflight_bandwidth=0",
)
"""A model of which a step takes no time; what it trains on is named by `words`. No link has to be fast: the
machine may be busy, and some tests slow links on purpose."""
OVER = frozenset(("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"))


def words(folder: Path) -> tuple[str, ...]:
    """Overrides that train on a small text in ``folder``."""
    text = folder / "words.txt"
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 400)
    return (f"data.source.paths=[{text}]", f"data.cache={folder / 'cache'}")


def train_here(folder: Path, overrides: Sequence[str]) -> dict[int, float]:
    """Train on this machine without Slurm; loss by step."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [*ORCHESTRATE, "train", *overrides, "launcher=local", f"run.dir={folder}"]
    ended = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=DEADLINE_S)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return {record.step: record.loss for record in read_records(folder)}


@dataclass(frozen=True)
class Run:
    """A run that was submitted."""

    cluster: Cluster
    folder: Path

    @property
    def job(self) -> str:
        return jobs_of(self.folder)[-1]

    @property
    def losses(self) -> dict[int, float]:
        """By step; of a step that was made again, the last."""
        return {record.step: record.loss for record in read_records(self.folder)}

    @property
    def step(self) -> int:
        """The last one that is on record."""
        return max(self.losses, default=0)

    @property
    def log(self) -> str:
        """What the job has said."""
        return (self.folder / "logs" / f"slurm-{self.job}.log").read_text(encoding="utf-8")

    @property
    def nodes(self) -> tuple[str, ...]:
        """Those that the plan uses as it is now, in the order of its ranks."""
        devices = plans.load(self.folder / "plan.yaml").placement.devices
        return tuple(dict.fromkeys(device.host for device in devices))

    @property
    def minutes(self) -> int:
        """For how long the job has run, less than a minute left out."""
        hours, minutes, _ = self.fields()["RunTime"].split(":")
        return 60 * int(hours) + int(minutes)

    def fields(self) -> Mapping[str, str]:
        """What Slurm knows about the job."""
        shown = self.cluster.run("scontrol", "--oneliner", "show", "job", self.job)
        return dict(re.findall(r"(\w+)=(\S*)", shown))

    def until(self, done: Callable[[], object], deadline_s: float = DEADLINE_S) -> None:
        """Return once ``done`` says so; fail, with what the job said, when it ends before or is late."""

        def look() -> bool:
            if done():
                return True
            assert self.fields()["JobState"] not in OVER, self.said()
            return False

        try:
            until(look, deadline_s)
        except AssertionError:
            raise AssertionError(self.said()) from None

    def finish(self, deadline_s: float = DEADLINE_S) -> None:
        """Wait until the job has ended well."""
        until(lambda: self.fields()["JobState"] in OVER, deadline_s)
        assert self.fields()["JobState"] == "COMPLETED", self.said()

    def said(self) -> str:
        """The end of every log of the run, for the reader of a failed test."""
        parts = [f"job {self.job}: {self.fields().get('JobState')}"]
        for log in sorted(self.folder.rglob("logs/*.log")):
            parts.append(f"--- {log.name}\n{log.read_text(errors='replace')[-2000:]}")
        return "\n".join(parts)


def orchestrate(cluster: Cluster, *words: str) -> subprocess.CompletedProcess[str]:
    """``orchestrate`` on the login node, however it ends."""
    return cluster.call("run", *ORCHESTRATE, *words, environment={"PYTHONPATH": str(ROOT), "COLUMNS": "200"})


def submit(cluster: Cluster, folder: Path, overrides: Sequence[str]) -> Run:
    """Submit a run into ``folder``."""
    argv = ["submit", *overrides, "launcher=slurm", f"run.dir={folder}"]
    ended = orchestrate(cluster, *argv)
    assert ended.returncode == 0, ended.stderr
    return Run(cluster, folder)
