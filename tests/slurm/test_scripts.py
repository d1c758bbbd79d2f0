"""The scripts on file, and what is written into them, as Slurm reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from launchers.slurm.script import Place, render
from orchestrate.cli.compose import Source
from orchestrate.cli.job import build
from orchestrate.commands.planning import make_plan
from orchestrate.config import LauncherConfig
from tests.golden.scripts import SCRIPTS, golden
from tests.slurm.devcluster import Cluster

FITTING = (
    "--nodes=2",
    "--ntasks-per-node=4",
    "--gpus-per-node=4",
    "--gres=none",
    "--cpus-per-task=1",
    "--mem=0",
    "--partition=main",
    "--constraint=",
    "--reservation=",
    "--exclude=",
)
"""What the cluster of the tests has, in place of what a large one has; all other options stay."""


@pytest.mark.parametrize("name", SCRIPTS)
def test_slurm_reads_every_script_on_file(cluster: Cluster, name: str) -> None:
    told = cluster.call("run", "sbatch", "--test-only", *FITTING, str(golden(name)))
    assert told.returncode == 0, told.stderr
    assert "to start at" in told.stderr


@pytest.mark.parametrize(
    "text", ["a b", "it's", 'say "hi"', "back\\slash \\\\ two", "a # b", "$HOME `id` $(id)", "ünï ☃"]
)
def test_any_text_of_an_option_reaches_slurm_as_it_is(cluster: Cluster, tmp_path: Path, text: str) -> None:
    plan = make_plan(build(Source(), ["experiment=quickstart"]))
    launcher = LauncherConfig(extra=(f"--comment={text}", "--hold"), exclusive=False)
    (tmp_path / "logs").mkdir()
    (script := tmp_path / "script").write_text(render(launcher, plan, Place(tmp_path, None, "run")))
    job = cluster.run("sbatch", "--parsable", str(script)).strip()
    shown = cluster.run("squeue", "--noheader", f"--jobs={job}", "--format=%k")
    cluster.run("scancel", job)
    assert shown.rstrip("\n") == text
