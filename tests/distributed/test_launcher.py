"""The local launcher, with real processes: small ones without torch."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from launchers.failure import Failure
from launchers.local import launch
from orchestrate.config import (
    ClusterConfig,
    Config,
    DataConfig,
    DeviceConfig,
    DeviceKind,
    DType,
    LauncherConfig,
    LinkConfig,
    ModelConfig,
    Recompute,
    RecomputeConfig,
    Schedule,
    SourceConfig,
    ZeroBackend,
)
from orchestrate.errors import ConfigError
from orchestrate.plan.layout import ParallelDims, Placement
from orchestrate.plan.plan import Plan, StageLayers
from orchestrate.topology.cluster import build_cluster

ROOT = Path(__file__).resolve().parents[2]
WORKER = "tests.distributed.launcher_worker"
DEADLINE_S = 60.0

CLUSTER = ClusterConfig(
    name="pair",
    nodes=2,
    gpus_per_node=2,
    device=DeviceConfig(
        "cpu", DeviceKind.cpu, memory_gib=1, memory_bandwidth_gbps=1, peak_tflops={DType.fp32: 1}
    ),
    nvlink=LinkConfig(1, 1),
    network=LinkConfig(1, 1),
)
MODEL = ModelConfig(name="none", layers=1, hidden=8, heads=1, ffn_hidden=8, vocab=8, seq=8)
CONFIG = Config(
    cluster=CLUSTER,
    model=MODEL,
    data=DataConfig(SourceConfig("stdlib")),
    launcher=LauncherConfig(grace_s=0.3),
)


def make_plan(order: Sequence[int] = (0, 1, 2, 3)) -> Plan:
    """Four ranks; rank r sits on device number ``order[r]``."""
    cluster = build_cluster(CLUSTER)
    return Plan(
        cluster=cluster,
        model=MODEL,
        dims=ParallelDims(dp=4),
        placement=Placement(tuple(cluster.devices[i] for i in order)),
        stages=(StageLayers(0, 1),),
        schedule=Schedule.gpipe,
        micro_batch=1,
        global_batch=4,
        sequence_parallel=False,
        zero_stage=0,
        zero_engine=ZeroBackend.fsdp2,
        recompute=RecomputeConfig(Recompute.none),
    )


@pytest.fixture(autouse=True)
def _workers_find_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def pids(run_dir: Path) -> list[int]:
    return [pid for file in run_dir.glob("up-*.json") for pid in json.loads(file.read_text())["pids"]]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def run_to_failure(run_dir: Path, *arguments: str, plan: Plan | None = None) -> Failure:
    failures: list[Failure] = []
    status = launch(
        plan or make_plan(), CONFIG, run_dir, module=WORKER, arguments=arguments, on_failure=failures.append
    )
    assert status == 1
    assert not [pid for pid in pids(run_dir) if is_alive(pid)]
    (failure,) = failures
    return failure


def test_every_process_is_told_where_it_is(tmp_path: Path) -> None:
    assert launch(make_plan(), CONFIG, tmp_path, module=WORKER, arguments=["well"]) == 0
    seen = [json.loads((tmp_path / f"up-{k}.json").read_text())["environment"] for k in range(4)]
    told = [(e["RANK"], e["LOCAL_RANK"], e["ORCHESTRATE_HOST"], e["ORCHESTRATE_DEVICE"]) for e in seen]
    assert told == [
        ("0", "0", "node0", "0"),
        ("1", "1", "node0", "1"),
        ("2", "0", "node1", "0"),
        ("3", "1", "node1", "1"),
    ]
    assert {(e["WORLD_SIZE"], e["MASTER_ADDR"]) for e in seen} == {("4", "127.0.0.1")}
    assert len({e["MASTER_PORT"] for e in seen}) == 1
    assert all(int(e["OMP_NUM_THREADS"]) >= 1 for e in seen)


def test_placement_does_not_change_the_launch_order(tmp_path: Path) -> None:
    assert launch(make_plan((3, 1, 0, 2)), CONFIG, tmp_path, module=WORKER, arguments=["well"]) == 0
    last = json.loads((tmp_path / "up-3.json").read_text())["environment"]
    assert (last["ORCHESTRATE_HOST"], last["ORCHESTRATE_DEVICE"]) == ("node1", "1")


def test_threads_are_as_configured(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, launcher=LauncherConfig(threads=3))
    assert launch(make_plan(), config, tmp_path, module=WORKER, arguments=["well"]) == 0
    assert json.loads((tmp_path / "up-0.json").read_text())["environment"]["OMP_NUM_THREADS"] == "3"


def test_an_exception_takes_all_down_and_is_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert launch(make_plan(), CONFIG, tmp_path, module=WORKER, arguments=["raise", "2"]) == 1
    assert not [pid for pid in pids(tmp_path) if is_alive(pid)]
    shown = capfd.readouterr().err.splitlines()
    assert shown[0].startswith("rank 2 on node1 device 0 failed first: an exception; log: ")
    assert shown[-1] == "ArithmeticError: the culprit's own words"


def test_a_mistake_met_by_a_rank_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert launch(make_plan(), CONFIG, tmp_path, module=WORKER, arguments=["mistake", "1"]) == 2
    assert capfd.readouterr().err == "orchestrate: words.txt is empty\n"


def test_the_failing_rank_is_named_as_the_plan_names_it(tmp_path: Path) -> None:
    failure = run_to_failure(tmp_path, "raise", "2", plan=make_plan((3, 1, 0, 2)))
    assert failure.headline.startswith("rank 3 (process 2) on node1 device 0 failed first")


def test_an_exit_without_a_record_shows_the_log(tmp_path: Path) -> None:
    failure = run_to_failure(tmp_path, "exit", "1")
    assert "rank 1 on node0 device 1 failed first: exit status 7" in failure.headline
    assert failure.traceback == "last words in the log"


def test_where_somebody_else_listens_the_ranks_meet_elsewhere(tmp_path: Path) -> None:
    assert launch(make_plan(), CONFIG, tmp_path, module=WORKER, arguments=["taken", "0"]) == 0
    environments = [json.loads(file.read_text())["environment"] for file in tmp_path.glob("up-*.json")]
    assert len(environments) == 4
    assert {e["MASTER_PORT"] for e in environments}.isdisjoint({(tmp_path / "met").read_text()})


def test_only_this_runs_part_of_a_log_is_shown(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "rank-1.log").write_text("Traceback (most recent call last):\nof an earlier run\n")
    assert run_to_failure(tmp_path, "exit", "1").traceback == "last words in the log"


def test_a_killed_rank_is_named_with_its_signal(tmp_path: Path) -> None:
    failure = run_to_failure(tmp_path, "kill", "3")
    assert "rank 3 on node1 device 1 failed first: killed by SIGKILL" in failure.headline


def test_a_rank_that_lost_its_peer_is_not_blamed(tmp_path: Path) -> None:
    failure = run_to_failure(tmp_path, "lost-peer", "2")
    assert "rank 2 on node1 device 0 failed first: killed by SIGSEGV" in failure.headline


def test_records_of_an_earlier_run_are_not_blamed(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "failure-0.json").write_text(json.dumps({"time": 0.0, "traceback": "old"}))
    assert run_to_failure(tmp_path, "raise", "1").suspect.process == 1


def test_a_record_cut_short_does_not_hide_the_failure(tmp_path: Path) -> None:
    failures: list[Failure] = []

    def cut_short() -> None:
        for log in (tmp_path / "logs").glob("rank-2.log"):
            log.with_name("failure-2.json").write_text('{"time": 1')

    launch(
        make_plan(),
        CONFIG,
        tmp_path,
        module=WORKER,
        arguments=["exit", "2"],
        on_tick=cut_short,
        on_failure=failures.append,
    )
    assert failures[0].traceback == "last words in the log"


def test_ranks_that_ignore_sigterm_are_killed(tmp_path: Path) -> None:
    assert run_to_failure(tmp_path, "stubborn", "0").suspect.process == 0


def test_what_a_rank_started_dies_with_it(tmp_path: Path) -> None:
    run_to_failure(tmp_path, "parent", "0")
    assert len(pids(tmp_path)) == 8


def test_an_error_in_the_watcher_stops_the_processes(tmp_path: Path) -> None:
    def complain() -> None:
        if len(pids(tmp_path)) == 4:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        launch(make_plan(), CONFIG, tmp_path, module=WORKER, arguments=["wait"], on_tick=complain)
    assert not [pid for pid in pids(tmp_path) if is_alive(pid)]


def test_several_gpu_nodes_are_not_one_machine(tmp_path: Path) -> None:
    device = dataclasses.replace(CLUSTER.device, kind=DeviceKind.cuda)
    plan = make_plan()
    plan = dataclasses.replace(plan, cluster=dataclasses.replace(plan.cluster, device=device))
    with pytest.raises(ConfigError, match="2 nodes of GPUs"):
        launch(plan, CONFIG, tmp_path, module=WORKER, arguments=["well"])


def test_a_node_has_no_more_gpus_than_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = dataclasses.replace(
        CLUSTER, nodes=1, device=dataclasses.replace(CLUSTER.device, kind=DeviceKind.cuda)
    )
    cluster = build_cluster(cuda)
    plan = dataclasses.replace(
        make_plan(), cluster=cluster, dims=ParallelDims(dp=2), placement=Placement(cluster.devices)
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(ConfigError, match=r"2 GPUs per node .* shows 1: set cluster\.gpus_per_node=1"):
        launch(plan, CONFIG, tmp_path, module=WORKER, arguments=["well"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ConfigError, match="shows 0: choose a cluster of CPUs"):
        launch(plan, CONFIG, tmp_path, module=WORKER, arguments=["well"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert launch(plan, CONFIG, tmp_path, module=WORKER, arguments=["well"]) == 0


def start_launcher(run_dir: Path, behaviour: str) -> subprocess.Popen[bytes]:
    """A launcher in a process of its own, once all its ranks are up."""
    code = (
        "import sys; from pathlib import Path; from tests.distributed.test_launcher import *;"
        "sys.exit(launch(make_plan(), CONFIG, Path(sys.argv[1]), module=WORKER, arguments=sys.argv[2:]))"
    )
    launcher = subprocess.Popen([sys.executable, "-c", code, str(run_dir), behaviour, "-1"])
    wait_until(lambda: len(list(run_dir.glob("up-*.json"))) == 4)
    return launcher


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_stops_the_ranks(tmp_path: Path, number: signal.Signals, status: int) -> None:
    launcher = start_launcher(tmp_path, "parent")
    launcher.send_signal(number)
    assert launcher.wait(DEADLINE_S) == status
    assert len(pids(tmp_path)) == 8
    assert not [pid for pid in pids(tmp_path) if is_alive(pid)]


def test_a_launcher_that_is_killed_leaves_no_orphans(tmp_path: Path) -> None:
    launcher = start_launcher(tmp_path, "parent")
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.wait(DEADLINE_S)
    wait_until(lambda: not [pid for pid in pids(tmp_path) if is_alive(pid)])
