"""The ranks' step: its command line, what srun says of it, and who a task is."""

from __future__ import annotations

import dataclasses
import signal
import sys
from pathlib import Path

import pytest

from launchers.gpus import processors_near
from launchers.slurm import srun
from launchers.slurm.ports import port_of
from launchers.slurm.reports import Aborted, NodeLost, Tail, TaskEnded, parse
from launchers.slurm.task import identity
from launchers.snapshot import source_tree
from orchestrate.config import ClusterConfig, Config, ContainerRuntime, DeviceKind, LauncherConfig
from tests.equivalence.layouts import Layout, config_of

RUN = Path("/shared/runs/7")
CONFIG = config_of(Layout(dp=2))
ALWAYS = [
    "--overlap",
    "--no-kill",
    "--kill-on-bad-exit=0",
    "--wait=0",
    "--input=none",
    "--mpi=none",
    "--export=ALL",
]


def config(kind: DeviceKind = DeviceKind.cpu, **launcher: object) -> Config:
    cluster: ClusterConfig = dataclasses.replace(
        CONFIG.cluster, device=dataclasses.replace(CONFIG.cluster.device, kind=kind)
    )
    data = dataclasses.replace(CONFIG.data, cache="/shared/cache")
    return dataclasses.replace(
        CONFIG,
        cluster=cluster,
        data=data,
        launcher=LauncherConfig(**launcher),  # type: ignore[arg-type]
    )


def test_one_task_per_device_in_the_order_of_the_processes() -> None:
    hosts = ["b", "b", "b", "a", "a"]
    argv = srun.ranks_step(config(), {"a": 64, "b": 64}, hosts, "ranks-2", RUN, ["python", "x"])
    assert argv == [
        "srun",
        "--job-name=ranks-2",
        "--nodes=2",
        "--ntasks=5",
        "--distribution=arbitrary",
        "--cpus-per-task=21",
        "--cpu-bind=none",
        *ALWAYS,
        "--output=/shared/runs/7/logs/rank-%t.log",
        "--open-mode=append",
        "python",
        "x",
    ]


def test_a_pyxis_container_is_sruns_to_make() -> None:
    given = config(
        DeviceKind.cuda,
        container="nvcr.io#nvidia/pytorch:25.01-py3",
        container_mounts=("/data", "/scratch:/tmp"),
        cpu_bind="cores",
        srun=("--exact",),
    )
    argv = srun.ranks_step(given, {"a": 8}, ["a"] * 4, "ranks-1", RUN, ["python3", "x"])
    assert argv[5:8] == ["--cpus-per-task=2", "--cpu-bind=cores", "--gpu-bind=none"]
    code = source_tree()
    assert argv[-5:] == [
        "--container-image=nvcr.io#nvidia/pytorch:25.01-py3",
        f"--container-mounts=/shared/runs/7:/shared/runs/7,{code}:{code},/shared/cache:/shared/cache,/data:/data,"
        "/scratch:/tmp",
        "--exact",
        "python3",
        "x",
    ]
    assert srun.python(given.launcher) == "python3"
    assert srun.python(LauncherConfig()) == sys.executable


def test_an_apptainer_container_is_around_the_command() -> None:
    given = config(DeviceKind.cuda, container="image.sif", container_runtime=ContainerRuntime.apptainer)
    argv = srun.node_step(given, ["a", "b"], "preflight", RUN, ["python3", "x"], "preflight-%N.log")
    assert "--nodelist=a,b" in argv
    inside = argv[argv.index("apptainer") :]
    assert inside[:3] == ["apptainer", "exec", "--nv"]
    assert inside[-3:] == ["image.sif", "python3", "x"]
    assert inside[3:5] == ["--bind", "/shared/runs/7:/shared/runs/7"]


def test_what_the_job_was_asked_for_is_not_asked_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "4")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    found = srun.environment(config(interface="ib0"), MASTER_PORT="1")
    assert "SLURM_NTASKS_PER_NODE" not in found
    assert (found["SLURM_JOB_ID"], found["MASTER_PORT"]) == ("12", "1")
    assert found["GLOO_SOCKET_IFNAME"] == found["NCCL_SOCKET_IFNAME"] == "ib0"
    assert "GLOO_SOCKET_IFNAME" not in srun.environment(config())


@pytest.mark.parametrize(
    ("line", "reports"),
    [
        ("srun: error: dev-1: task 3: Exited with exit code 7", [TaskEnded(3, 7)]),
        ("srun: error: dev-1: tasks 0-1,4: Killed", [TaskEnded(n, -9) for n in (0, 1, 4)]),
        ("srun: error: dev-3: task 5: Segmentation fault (core dumped)", [TaskEnded(5, -11)]),
        ("srun: error: dev-3: task 5: Out Of Memory", [TaskEnded(5, -9)]),
        ("srun: error: Node failure on dev-[2-3]", [NodeLost("dev-2"), NodeLost("dev-3")]),
        ("srun: error: Cannot communicate with node 1.  Aborting job.", [Aborted()]),
        ("srun: error: Aborting, io error and missing step on node 1", [Aborted()]),
        ("srun: error: Timed out waiting for job step to complete", [Aborted()]),
        ("srun: Job step aborted: Waiting up to 7 seconds for job step to finish.", []),
        ("srun: cluster configuration lacks support for cpu binding", []),
        ("srun: error: dev-1: tasks ]-1[: Killed", []),
        ("dev-1: task 3: Exited with exit code 7", []),
    ],
)
def test_srun_says_how_tasks_ended(line: str, reports: list[object]) -> None:
    assert list(parse(line)) == reports


def test_lines_are_read_once_they_are_whole(tmp_path: Path) -> None:
    file = tmp_path / "srun.log"
    tail = Tail(file)
    assert tail.lines() == []
    file.write_text("one\ntw")
    assert tail.lines() == ["one"]
    assert tail.lines() == []
    file.write_text("one\ntwo\nthree\n")
    assert tail.lines() == ["two", "three"]


def test_a_task_says_what_slurm_gave_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    given = {
        "SLURMD_NODENAME": "dev-2",
        "SLURM_LOCALID": "1",
        "SLURM_PROCID": "5",
        "SLURM_NTASKS": "8",
        "ORCHESTRATE_SHOWN": '{"dev-2": [0, 2, 3]}',
    }
    told = identity(given)
    assert (told["RANK"], told["WORLD_SIZE"], told["LOCAL_RANK"]) == ("5", "8", "1")
    assert (told["ORCHESTRATE_HOST"], told["ORCHESTRATE_DEVICE"]) == ("dev-2", "1")
    assert told["CUDA_VISIBLE_DEVICES"] == "0,2,3"
    assert "CUDA_VISIBLE_DEVICES" not in identity({**given, "SLURMD_NODENAME": "dev-1"})


def test_ports_of_two_jobs_and_two_starts_differ() -> None:
    ports = {port_of(job, start) for job in range(1000, 1100) for start in range(10)}
    assert len(ports) == 1000
    assert all(1024 < port < 32768 for port in ports)


def test_processors_next_to_a_gpu_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for bus, cpus in (("0000:1b:00.0", "0-1"), ("0000:4c:00.0", "1-3,9")):
        (tmp_path / "proc/driver/nvidia/gpus" / bus).mkdir(parents=True)
        (tmp_path / "sys/bus/pci/devices" / bus).mkdir(parents=True)
        (tmp_path / "sys/bus/pci/devices" / bus / "local_cpulist").write_text(cpus + "\n")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert processors_near(1, tmp_path) == {1, 2, 3}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert processors_near(1, tmp_path) == {0, 1}
    assert processors_near(5, tmp_path) == set()
    assert processors_near(0, tmp_path / "nothing") == set()


def test_strange_words_are_a_failure_too() -> None:
    (report,) = parse("srun: error: dev-1: task 3: Something new")
    assert isinstance(report, TaskEnded)
    assert report.code != 0
    assert -report.code != signal.SIGKILL
