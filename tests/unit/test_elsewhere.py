"""torchrun's command and the manifests for Kubernetes, held against Kubernetes's own schemas."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from launchers import torchrun
from orchestrate.cli import main
from orchestrate.cli.compose import Source
from orchestrate.cli.job import build
from orchestrate.commands.planning import make_plan
from orchestrate.errors import ConfigError

SCHEMAS = "1.30"
QUICKSTART = ("submit", "experiment=quickstart", "launcher.dry_run=true")
KUBERNETES = (
    *QUICKSTART,
    "launcher=kubernetes",
    "launcher.container=registry/image:1",
    "launcher.kubernetes.claim=data",
    "run.dir=/shared/run 7",
)

Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Said:
    """Runs ``orchestrate`` in an empty folder; gives the exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        captured = capsys.readouterr()
        assert not list(tmp_path.iterdir())
        return status, captured.out, captured.err

    return run


def test_torchrun_is_started_alike_on_every_node(say: Said) -> None:
    status, line, _ = say(
        *QUICKSTART, "launcher=torchrun", "launcher.rendezvous=node7:29400", "run.dir=/shared/a b"
    )
    assert status == 0
    words = shlex.split(line)
    assert "PYTHONPATH=/shared/a b/code" in words
    assert words[words.index("torch.distributed.run") :] == [
        "torch.distributed.run",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=node7:29400",
        words[words.index("torch.distributed.run") + 3],
        "--nnodes=2",
        "--nproc-per-node=4",
        "--max-restarts=5",
        "-m",
        "orchestrate.train.elastic",
        "/shared/a b",
    ]


def test_one_node_needs_no_rendezvous_and_two_do(say: Said) -> None:
    status, line, _ = say(*QUICKSTART, "launcher=torchrun", "cluster.nodes=1", "parallel.dp=1")
    assert (status, "--standalone" in line) == (0, True)
    status, _, told = say(*QUICKSTART, "launcher=torchrun")
    assert (status, "2 nodes must know where to meet: set launcher.rendezvous=HOST:PORT" in told) == (2, True)


TOLD = {"TORCHELASTIC_RUN_ID": "run", "TORCHELASTIC_RESTART_COUNT": "1"}
NAMED = "cluster.hosts=[lion,tiger]"


@pytest.mark.parametrize(
    ("hosts", "hostname", "group", "host", "rank"),
    [
        ((), "pod-x", "1", "node1", "7"),
        ((NAMED,), "tiger.zoo.org", "0", "tiger", "7"),
        ((NAMED,), "lion", "1", "lion", "3"),
    ],
)
def test_a_process_finds_its_place(
    hosts: tuple[str, ...], hostname: str, group: str, host: str, rank: str
) -> None:
    plan = make_plan(build(Source(), ["experiment=quickstart", *hosts]))
    who = torchrun.who(plan, {**TOLD, "GROUP_RANK": group, "LOCAL_RANK": "3"}, hostname)
    assert who == {
        "RANK": rank,
        "ORCHESTRATE_HOST": host,
        "ORCHESTRATE_DEVICE": "3",
        "ORCHESTRATE_START": "run.1",
    }


def test_places_are_counted_as_processes_are_whatever_the_ranks_there() -> None:
    plan = make_plan(build(Source(), ["experiment=quickstart", NAMED]))
    turned = dataclasses.replace(plan.placement, devices=plan.placement.devices[::-1])
    plan = dataclasses.replace(plan, placement=turned)
    first = torchrun.who(plan, {**TOLD, "GROUP_RANK": "1", "LOCAL_RANK": "0"}, "lion")
    assert (first["RANK"], first["ORCHESTRATE_DEVICE"]) == ("0", "0")


@pytest.mark.parametrize(
    ("environment", "hostname", "told"),
    [
        ({}, "lion", "GROUP_RANK is not set: start orchestrate.train.elastic with torchrun"),
        (
            {**TOLD, "GROUP_RANK": "0", "LOCAL_RANK": "0"},
            "cat",
            "this is cat, and the plan's hosts are lion, tiger",
        ),
        (
            {**TOLD, "GROUP_RANK": "0", "LOCAL_RANK": "4"},
            "lion",
            "started 5 processes on lion, and the plan has 4",
        ),
    ],
)
def test_who_is_in_the_wrong_place_is_told(environment: dict[str, str], hostname: str, told: str) -> None:
    plan = make_plan(build(Source(), ["experiment=quickstart", NAMED]))
    with pytest.raises(ConfigError, match=told):
        torchrun.who(plan, environment, hostname)


def check_pod(template: dict[str, Any]) -> None:
    """Hold a pod's template against the schema, as a PodTemplate of Kubernetes's."""
    wrapped = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": template}
    kubernetes_validate.validate(wrapped, SCHEMAS, strict=True)


def test_an_indexed_job_is_what_kubernetes_takes(say: Said) -> None:
    status, manifest, told = say(
        *KUBERNETES,
        "launcher.kubernetes.namespace=training",
        "launcher.kubernetes.node_selector.gpu=h100",
        "launcher.kubernetes.secret=wandb",
        "launcher.env.SAID=it's $(HOME): - {yes}",
    )
    assert status == 0, told
    service, job = yaml.safe_load_all(manifest)
    for one in (service, job):
        kubernetes_validate.validate(one, SCHEMAS, strict=True)
        assert one["metadata"]["namespace"] == "training"
    spec = job["spec"]
    assert (spec["completions"], spec["parallelism"], spec["completionMode"]) == (2, 2, "Indexed")
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert f"--master-addr={job['metadata']['name']}-0.{service['metadata']['name']}" in container["command"]
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"].items() <= spec["template"]["metadata"]["labels"].items()
    assert container["command"][-1] == "/shared/run 7"
    # Kubernetes turns $$( back into $(.
    assert {"name": "SAID", "value": "it's $$(HOME): - {yes}"} in container["env"]
    assert "resources" not in container


def test_a_pytorch_job_has_one_master_and_the_rest_workers(say: Said) -> None:
    status, manifest, told = say(
        *KUBERNETES,
        "launcher.kubernetes.resource=pytorchjob",
        "cluster=dgx_h100",
        "cluster.nodes=4",
        "parallel.tp=2",
        "parallel.pp=2",
        "parallel.dp=8",
    )
    assert status == 0, told
    (job,) = yaml.safe_load_all(manifest)
    assert (job["apiVersion"], job["kind"], job["spec"]["nprocPerNode"]) == (
        "kubeflow.org/v1",
        "PyTorchJob",
        "8",
    )
    replicas = job["spec"]["pytorchReplicaSpecs"]
    assert {role: spec["replicas"] for role, spec in replicas.items()} == {"Master": 1, "Worker": 3}
    for spec in replicas.values():
        check_pod(spec["template"])
        (container,) = spec["template"]["spec"]["containers"]
        assert container["name"] == "pytorch"  # the operator looks for it
        assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (("launcher.container=null",), "launcher=kubernetes needs an image: set launcher.container"),
        (("launcher.kubernetes.claim=null",), "set launcher.kubernetes.claim"),
        (
            ("launcher.kubernetes.claim=My_Data",),
            "launcher.kubernetes.claim=My_Data: a name takes lower-case",
        ),
        (("run.dir=/scratch/run",), "run.dir=/scratch/run is not below launcher.kubernetes.mount=/shared"),
        (("launcher.kubernetes.port=0",), "launcher.kubernetes.port=0: must be 1 to 65535"),
    ],
)
def test_what_kubernetes_would_refuse_is_one_line(typed: tuple[str, ...], told: str, say: Said) -> None:
    status, _, error = say(*KUBERNETES, *typed)
    assert (status, told in error) == (2, True), error


def test_an_interpreter_that_is_not_there_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = tmp_path / "words.txt"
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 400)
    data = ("data=text", "data.source.tokenizer=bytes", f"data.source.paths=[{text}]")
    missing = ("launcher=torchrun", "launcher.python=/nowhere/python")
    small = ("cluster=local_cpu", "model=gpt_tiny", "train.global_batch=4")
    status = main(["submit", *small, *data, *missing, f"data.cache={tmp_path / 'cache'}"])
    assert status == 2
    assert "/nowhere/python: No such file or directory" in capsys.readouterr().err
