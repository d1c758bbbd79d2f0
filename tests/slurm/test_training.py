"""Training as jobs of a real Slurm, held against the same training without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from launchers.ranks import launch_order
from orchestrate.plan import plan as plans
from orchestrate.train.checkpoint import found
from orchestrate.train.checkpoint.difference import differences
from orchestrate.train.metrics import read_records
from tests.slurm.devcluster import Cluster
from tests.slurm.runs import TINY, Run, orchestrate, submit, train_here, words
from tests.unit.wandb_files import history, log_files, start_of

STEPS = 40
BATCH, SEQ, HIDDEN, LAYERS, BYTES = 8, 64, 64, 4, 4
"""Of the training below: sequences, tokens, features, layers, and bytes of a number."""
EIGHT_RANKS = (
    *TINY,
    "cluster.gpus_per_node=4",
    f"model.layers={LAYERS}",
    f"model.hidden={HIDDEN}",
    f"model.seq={SEQ}",
    "model.ffn_hidden=128",
    "parallel.tp=2",
    "parallel.pp=2",
    "parallel.dp=2",
    "parallel.micro_batch=2",
    "parallel.sequence_parallel=false",
    "zero.stage=0",
    f"train.steps={STEPS}",
    f"train.global_batch={BATCH}",
)


TWO_RANKS = (
    *TINY,
    "cluster.nodes=1",
    "cluster.gpus_per_node=2",
    "model.layers=2",
    "parallel.tp=1",
    "parallel.pp=1",
    "zero.stage=0",
    "optim.warmup_steps=0",
    "train.steps=3",
    "train.global_batch=2",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    return words(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def expected(data: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the same run by processes of this machine that nothing interrupts."""
    folder = tmp_path_factory.mktemp("here") / "run"
    train_here(folder, (*EIGHT_RANKS, *data))
    return folder


def test_a_run_cut_by_its_time_limit_goes_on_bit_by_bit_with_its_ranks_where_they_were_planned(
    mended: Cluster, data: tuple[str, ...], expected: Path, tmp_path: Path
) -> None:
    cluster = mended
    hosts = [cluster.host(4), cluster.host(2)]
    cluster.do("shape", "2mbit")  # so that a step takes a while on any machine
    before = traffic(cluster, hosts)
    placed = (f"cluster.hosts=[{','.join(hosts)}]", f"launcher.nodelist='{','.join(hosts)}'")
    limits = ("launcher.time='0:10:00'", "launcher.signal_s=110")
    run = submit(cluster, tmp_path / "run", (*EIGHT_RANKS, *data, *placed, *limits, "tracking.mode=offline"))
    run.until(lambda: run.step >= 3)
    assert run.fields()["NodeList"] == f"{cluster.name}-[2,4]"  # Slurm has an order of its own
    assert ranks_by_node(cluster, run) == planned_ranks(run)
    assert run.nodes == tuple(hosts)

    cluster.run("scontrol", "update", f"JobId={run.job}", f"TimeLimit={run.minutes + 2}")
    run.until(lambda: run.fields()["Restarts"] == "1")
    interrupted = run.step
    cluster.do("shape", "off")
    cluster.run("scontrol", "update", f"JobId={run.job}", "TimeLimit=60")
    run.finish()
    assert 3 <= interrupted < STEPS
    assert run.losses == {record.step: record.loss for record in read_records(expected)}
    ours, theirs = (found(folder)[0] for folder in (run.folder, expected))
    assert ours.step == theirs.step == STEPS
    assert max(tensor.largest for tensor in differences(ours.path, theirs.path)) == 0

    first, second = log_files(run.folder)  # which wandb sync makes one run of
    assert start_of(first).run_id == start_of(second).run_id
    assert [*history(first), *history(second)] == list(range(1, STEPS + 1))
    assert len(history(first)) == interrupted

    link, within = (after - start for after, start in zip(traffic(cluster, hosts), before, strict=True))
    activations = BATCH * SEQ * HIDDEN * BYTES
    pipeline = STEPS * 2 * 2 * activations  # forward and backward, on both tensor-parallel ranks
    tensor = STEPS * LAYERS * 4 * 2 * activations  # an all-reduce of two moves twice what it sums
    assert pipeline < link < 1.5 * pipeline + 4e6 < tensor < within


def traffic(cluster: Cluster, hosts: list[str]) -> tuple[int, int]:
    """Bytes that ``hosts`` have sent to others, and that processes of each sent to one another."""
    links = [cluster.node(int(host.split("-")[1]))["link"] for host in hosts]
    return sum(link["sent"] for link in links), sum(link["local"] for link in links)


LOOK = """
import pathlib, platform
for process in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        words = (process / "cmdline").read_text().split("\\0")
        environment = (process / "environ").read_text().split("\\0")
    except OSError:
        continue
    if words[1:3] == ["-m", "orchestrate.train.worker"]:
        told = dict(word.split("=", 1) for word in environment if "=" in word)
        print(told["RANK"], platform.node(), told["ORCHESTRATE_HOST"], told["ORCHESTRATE_DEVICE"])
"""
"""Run on a node: the ranks there, by their process, the node's own name, and what each was told it has."""


def ranks_by_node(cluster: Cluster, run: Run) -> dict[int, tuple[str, str, int]]:
    """Of every process of the run: the node it is on, and the device it was told it has."""
    found = {}
    for host in run.nodes:
        for line in cluster.run("--node", host, "python3", "-c", LOOK).splitlines():
            process, node, told, device = line.split()
            found[int(process)] = (node, told, int(device))
    return found


def planned_ranks(run: Run) -> dict[int, tuple[str, str, int]]:
    """The same as the plan has it."""
    devices = launch_order(plans.load(run.folder / "plan.yaml"))
    return {process: (device.host, device.host, device.index) for process, device in enumerate(devices)}


def test_a_sweep_is_a_job_array_and_every_task_a_run_of_its_own(
    cluster: Cluster, data: tuple[str, ...], tmp_path: Path
) -> None:
    rates = ("1e-2", "1e-3")
    sweep = ("-m", *TWO_RANKS, *data, f"optim.lr={','.join(rates)}", f"run.dir={tmp_path / 'sweep'}")
    submitted = orchestrate(cluster, "submit", "launcher=slurm", *sweep)
    assert submitted.returncode == 0, submitted.stderr
    runs = [Run(cluster, tmp_path / "sweep" / str(task)) for task in (1, 2)]
    assert [run.job.split("_")[1] for run in runs] == ["1", "2"]
    for run in runs:
        run.finish()
    faster, slower = (read_records(run.folder) for run in runs)
    assert [record.step for record in faster] == [record.step for record in slower] == [1, 2, 3]
    assert [record.lr for record in faster] == pytest.approx([10 * record.lr for record in slower])
