"""From sources to a cluster file that Hydra composes."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrate.cli import main
from orchestrate.cli.compose import Source
from orchestrate.cli.job import build
from orchestrate.errors import ConfigError
from orchestrate.resources import folder
from orchestrate.topology.cluster import build_cluster
from orchestrate.topology.discover.catalogue import DATASHEETS
from orchestrate.topology.discover.cpu import Processor
from orchestrate.topology.discover.draft import MISSING, Draft, render
from orchestrate.topology.discover.facts import Adapter, Gpu
from orchestrate.topology.discover.merge import merge, safe_name
from orchestrate.topology.discover.nccl_xml import parse_system
from orchestrate.topology.discover.nvidia_smi import parse_matrix
from orchestrate.topology.discover.reading import Reading
from orchestrate.topology.discover.slurm import Gres, parse_topology
from tests.unit.discover_cases import CAPTURES, adapter, capture


def reading(smi: str | None = None, name: str | None = None, **more: Any) -> Reading:
    """What a node gives whose matrix is the capture ``smi`` and whose GPUs are called ``name``."""
    matrix = parse_matrix(capture(smi), smi) if smi else None
    gpus = (Gpu(name, 79.65, 63.0),) * matrix.gpus if matrix and name else ()
    return Reading(matrix=matrix, gpus=gpus, **more)


def values(draft: Draft) -> dict[str, Any]:
    """The file's keys, with what is missing as ???."""
    loaded = yaml.safe_load(render(draft))
    assert isinstance(loaded, dict)
    return loaded


@pytest.mark.parametrize(
    ("smi", "name", "domain", "gbps"),
    [
        # 450, 300, 150 GB/s one way are the datasheets' figures for all links of a GPU.
        ("smi_hgx_h100.txt", "NVIDIA H100 80GB HBM3", 8, 18 * 25),
        ("smi_h100_4gpu.txt", "NVIDIA H100 80GB HBM3", 4, 3 * 6 * 25),
        # The least connected GPU of a quad has 4 of its 6 links inside it.
        ("smi_dgx1_v100.txt", "Tesla V100-SXM2-16GB", 4, 4 * 25),
        ("smi_l40s.txt", "NVIDIA L40S", 4, 63.0),
        ("smi_rtx4090.txt", "NVIDIA GeForce RTX 4090", 8, 63.0),
        ("smi_rtx3090_pairs.txt", "NVIDIA GeForce RTX 3090", 4, 63.0),
        ("smi_gb200.txt", "NVIDIA GB200", MISSING, 18 * 50),
    ],
)
def test_the_inside_of_a_node(smi: str, name: str, domain: object, gbps: float) -> None:
    draft = merge(reading(smi, name), "here")
    assert draft.at("nvlink_domain") == domain
    assert draft.at("nvlink.bandwidth_gbps") == gbps
    assert "nvlink.latency_us" in draft.missing()


def test_pairs_that_are_no_neighbours_are_told_how_to_become_so() -> None:
    text = render(merge(reading("smi_rtx3090_pairs.txt", "NVIDIA GeForce RTX 3090"), "here"))
    assert "0-2, 1-3" in text
    assert "CUDA_VISIBLE_DEVICES=0,2,1,3" in text


def test_bundles_of_unknown_gpus_are_not_counted_without_their_links() -> None:
    draft = merge(reading("smi_h100_4gpu.txt", "NVIDIA Unheard Of"), "here")
    assert draft.at("nvlink.bandwidth_gbps") == MISSING
    read = merge(reading("smi_h100_4gpu.txt", "NVIDIA Unheard Of", links=((26.5,) * 18,) * 4), "here")
    assert read.at("nvlink.bandwidth_gbps") == 18 * 26.5
    switched = merge(reading("smi_h100_4gpu.txt", "NVIDIA Unheard Of", links=((26.5,) * 6,) * 4), "here")
    assert switched.at("nvlink.bandwidth_gbps") == 6 * 26.5


def test_a_known_gpu_has_its_datasheet_and_the_memory_that_was_read() -> None:
    draft = merge(reading("smi_hgx_h100.txt", "NVIDIA H100 80GB HBM3"), "here")
    assert [entry.value for entry in draft.defaults] == ["device: h100_80gb"]
    assert "datasheet of NVIDIA H100 80GB HBM3" in render(draft)
    assert values(draft)["device"] == {"memory_gib": 79.65}


def test_an_unknown_gpu_is_marked() -> None:
    draft = merge(reading("smi_rtx4090.txt", "NVIDIA GeForce RTX 4090"), "here")
    assert values(draft)["device"] == {
        "name": "NVIDIA GeForce RTX 4090",
        "kind": "cuda",
        "memory_gib": 79.65,
        "memory_bandwidth_gbps": MISSING,
        "peak_tflops": MISSING,
    }


def test_every_datasheet_is_there() -> None:
    for name, sheet in DATASHEETS.items():
        file = folder("conf") / "cluster/device" / f"{sheet.device}.yaml"
        assert yaml.safe_load(file.read_text(encoding="utf-8"))["kind"] == "cuda", name


def hca(*names: str, gbits: float | None = 200, up: bool = True) -> tuple[Adapter, ...]:
    return tuple(Adapter(name, gbits, up) for name in names)


def test_adapters_nearest_to_a_gpu_are_counted() -> None:
    draft = merge(
        reading("smi_dgx1_v100.txt", adapters=hca("mlx5_0", "mlx5_1", "mlx5_2", "mlx5_3", gbits=100)), "here"
    )
    assert draft.at("network.bandwidth_gbps") == 4 * 100 / 8 / 8


def test_adapters_that_are_down_or_serve_no_gpu_are_not() -> None:
    names = [f"NIC{n}" for n in range(9)]
    adapters = hca(*names[:8]) + hca("NIC8", up=False)
    draft = merge(reading("smi_hgx_h100.txt", adapters=adapters), "here")
    # GPU 0 then takes what is next: the three others of its socket, which are counted already.
    assert draft.at("network.bandwidth_gbps") == 7 * 200 / 8 / 8
    assert "they are down: NIC0, NIC8" in " ".join(render(draft).replace("#", "").split())


def test_adapters_of_unknown_rate_or_place_are_marked() -> None:
    unrated = merge(reading("smi_dgx1_v100.txt"), "here")
    assert unrated.at("network.bandwidth_gbps") == MISSING
    unplaced = merge(reading("smi_gb200.txt", adapters=hca("mlx5_0", "mlx5_1")), "here")
    assert unplaced.at("network.bandwidth_gbps") == MISSING
    assert "mlx5_1 200 Gb/s" in render(unplaced)
    only = merge(reading("smi_gb200.txt", adapters=hca("mlx5_0")), "here")
    assert only.at("network.bandwidth_gbps") == 200 / 8 / 4


def test_nccls_file_alone() -> None:
    draft = merge(Reading(system=parse_system(capture("nccl_h100_vm.xml"), "nccl")), "here")
    assert values(draft)["gpus_per_node"] == 8
    assert draft.at("nvlink.bandwidth_gbps") == 450
    assert draft.at("network.bandwidth_gbps") == 25
    bare = merge(Reading(system=parse_system(capture("nccl_azure_ndv4.xml"), "nccl")), "here")
    assert bare.at("nvlink_domain") == MISSING


def test_sources_of_different_nodes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"has 4 GPUs.*has 8 GPUs"):
        merge(
            reading("smi_l40s.txt", system=parse_system(capture("nccl_h100_vm.xml"), "nccl")),
            "here",
        )
    with pytest.raises(ConfigError, match="A and B"):
        merge(Reading(gpus=(Gpu("A"), Gpu("B"))), "here")


def test_nothing_that_has_devices() -> None:
    with pytest.raises(ConfigError, match="nothing that was read says what GPUs"):
        merge(Reading(adapters=hca("mlx5_0")), "here")


NODES = {f"n{n}": Gres(8, "h100") for n in range(4)}
TREE = "SwitchName=top Switches=l[0-1]\nSwitchName=l0 Nodes=n0,n2,x\nSwitchName=l1 Nodes=n1,n3\n"


def test_slurms_nodes_and_tree() -> None:
    whole = reading(
        "smi_hgx_h100.txt",
        "NVIDIA H100 80GB HBM3",
        nodes={**NODES, "x": Gres(0, None)},
        switches=parse_topology(TREE, "tree"),
    )
    found = values(merge(whole, "here"))
    assert found["nodes"] == 4
    assert found["hosts"] == ["n0", "n2", "n1", "n3"]
    assert found["switches"] == [{"nodes": 2, "oversubscription": MISSING}]
    assert "positions" not in found


def test_a_host_that_the_tree_lacks() -> None:
    lacking = reading(
        "smi_hgx_h100.txt", nodes={**NODES, "n9": Gres(8, "h100")}, switches=parse_topology(TREE, "")
    )
    with pytest.raises(ConfigError, match="no switch above n9"):
        merge(lacking, "here")


def test_nodes_of_other_kinds_are_left_out_and_told() -> None:
    nodes = {**NODES, "a": Gres(8, "a100"), "small": Gres(4, "h100")}
    draft = merge(reading("smi_hgx_h100.txt", "NVIDIA H100 80GB HBM3", nodes=nodes), "here")
    assert values(draft)["hosts"] == list(NODES)
    assert "1 with gpu:a100:8, 1 with gpu:h100:4" in " ".join(render(draft).replace("#", "").split())


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ({"a": Gres(4, "h100")}, "shows 8 GPUs, but Slurm has 1 with gpu:h100:4"),
        ({"a": Gres(8, "b"), "c": Gres(8, "d")}, "name the nodes to describe"),
        ({"a": Gres(0, None)}, "none of Slurm's nodes has a GPU"),
    ],
)
def test_nodes_that_cannot_be_matched(nodes: dict[str, Gres], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        merge(reading("smi_hgx_h100.txt", "NVIDIA H100 80GB HBM3", nodes=nodes), "here")


def test_hosts_may_be_chosen() -> None:
    draft = merge(reading("smi_hgx_h100.txt", nodes=NODES, wanted=("n1", "n2")), "here")
    assert values(draft)["hosts"] == ["n1", "n2"]
    with pytest.raises(ConfigError, match="Slurm has no node n7"):
        merge(reading("smi_hgx_h100.txt", nodes=NODES, wanted=("n7",)), "here")


def test_slurm_alone_leaves_the_inside_open() -> None:
    draft = merge(Reading(nodes=NODES), "here")
    assert values(draft)["gpus_per_node"] == 8
    assert {"device.name", "nvlink_domain", "network.bandwidth_gbps"} <= set(draft.missing())


def test_adapters_of_a_login_node_are_not_the_nodes() -> None:
    login = merge(Reading(nodes=NODES, adapters=hca("mlx5_0"), host="login"), "here")
    assert login.at("network.bandwidth_gbps") == MISSING
    saved = merge(Reading(nodes=NODES, adapters=hca("mlx5_0")), "here")
    assert saved.at("network.bandwidth_gbps") == 200 / 8 / 8


def test_a_machine_without_gpus() -> None:
    machine = Processor("Some CPU", cores=4, memory_gib=16.0, bf16=False)
    draft = merge(Reading(processor=machine, host="box", nodes={"box": Gres(0, None)}), "here")
    found = values(draft)
    assert (found["gpus_per_node"], found["device"]["memory_gib"], found["hosts"]) == (4, 4.0, ["box"])
    assert draft.missing() == [
        "device.memory_bandwidth_gbps",
        "device.peak_tflops",
        "nvlink.bandwidth_gbps",
        "nvlink.latency_us",
    ]


@pytest.mark.parametrize(
    ("text", "name"), [("node-01.site", "node_01_site"), ("Here", "here"), ("..", "discovered")]
)
def test_names_of_files(text: str, name: str) -> None:
    assert safe_name(text) == name


FILLED = {
    "name": "X",
    "memory_gib": "80",
    "memory_bandwidth_gbps": "2000",
    "peak_tflops": "{bf16: 300}",
    "nvlink_domain": "4",
    "bandwidth_gbps": "100",
    "latency_us": "3",
    "oversubscription": "2",
}
"""What somebody might fill in, by the last part of the key."""


def filled(text: str) -> str:
    lines = []
    for line in text.splitlines():
        key = line.strip().removeprefix("- ").partition(":")[0]
        lines.append(line.replace(MISSING, FILLED[key], 1) if f": {MISSING}" in line else line)
    return "\n".join(lines)


EVERY = sorted(file.name for file in CAPTURES.glob("smi_*.txt"))


@pytest.mark.parametrize("name", [None, "NVIDIA H100 80GB HBM3", "NVIDIA Unheard Of", "NVIDIA GB200"])
@pytest.mark.parametrize("smi", EVERY)
def test_a_file_that_was_filled_in_is_a_cluster(smi: str, name: str | None, tmp_path: Path) -> None:
    matrix = parse_matrix(capture(smi), smi)
    tree = parse_topology(capture("slurm_two_levels.txt"), "tree")
    hosts = [host for switch in tree.values() for host in switch.hosts]
    nodes = {host: Gres(0 if host.startswith("cpu") else matrix.gpus, "h100") for host in hosts}
    draft = merge(reading(smi, name, nodes=nodes, switches=tree, adapters=hca(*matrix.adapters)), "here")
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster/here.yaml").write_text(filled(render(draft)), encoding="utf-8")
    config = build(Source((tmp_path,)), ["cluster=here"])
    cluster = build_cluster(config.cluster)
    assert cluster.world == 87 * matrix.gpus
    assert [node.position for node in cluster.nodes][13:15] == [13, 39]
    assert cluster.switches[0].oversubscription == 2


def test_the_command_from_saved_outputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "clusters/cluster/here.yaml"
    gpus = tmp_path / "gpus.csv"
    gpus.write_text("name, memory.total [MiB]\n" + "Tesla V100-SXM2-32GB, 32510 MiB\n" * 8, encoding="utf-8")
    for name in ("mlx5_0", "mlx5_1", "mlx5_2", "mlx5_3"):
        adapter(tmp_path, name, ("4: ACTIVE", "100 Gb/sec (4X EDR)", "InfiniBand"))
    arguments = [
        f"topology.smi={CAPTURES}/smi_dgx1_v100.txt",
        f"topology.gpus={gpus}",
        f"topology.sysfs={tmp_path}",
        f"out={out}",
    ]
    assert main(["topology", *arguments]) == 0
    shown = capsys.readouterr()
    assert "here: 1 node of 8 x Tesla V100-SXM2-32GB" in shown.out
    assert f"orchestrate plan --config-dir {tmp_path}/clusters cluster=here" in shown.out
    assert shown.err == ""

    plan = [
        "plan",
        "--config-dir",
        str(tmp_path / "clusters"),
        "cluster=here",
        "model=gpt_tiny",
        "precision=fp16",
    ]
    assert main(plan) == 2
    assert "cluster.nvlink.latency_us is missing" in capsys.readouterr().err
    given = ["cluster.nvlink.latency_us=3", "cluster.network.latency_us=5"]
    assert main([*plan, *given]) == 0
    assert "here" in capsys.readouterr().out


def test_the_command_prints_the_file_without_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topology", f"topology.nccl={CAPTURES}/nccl_h100_vm.xml"]) == 0
    shown = capsys.readouterr()
    assert yaml.safe_load(shown.out)["gpus_per_node"] == 8
    assert shown.err == ""


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("topology.smi=nowhere.txt", "topology.smi=nowhere.txt: No such file or directory"),
        ("topology.sysfs=nowhere", "topology.sysfs=nowhere: no folder class/"),
        ("topology.hosts='node[1-'", "bracket"),
        ("topology.smy=x", "did you mean topology.smi"),
    ],
)
def test_mistakes_end_in_one_line(override: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topology", override]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert len([line for line in err.splitlines() if line.startswith("orchestrate:")]) == 1


def program(folder: Path, name: str, script: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


def test_the_live_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Programs of the machine are run, and what they print is read, or what they complain of reported."""
    program(
        tmp_path,
        "nvidia-smi",
        f'case "$*" in "topo -m") cat {CAPTURES}/smi_l40s.txt;; *query*) printf "name\\n";'
        ' for i in 1 2 3 4; do echo NVIDIA L40S; done;; *) echo "no NVLink" >&2; exit 9;; esac',
    )
    program(tmp_path, "scontrol", 'echo "No topology information available"')
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("NCCL_TOPO_FILE", str(tmp_path / "none.xml"))
    assert main(["topology"]) == 0
    shown = capsys.readouterr()
    found = yaml.safe_load(shown.out)
    assert (found["gpus_per_node"], found["nvlink_domain"]) == (4, 4)
    assert "not found: `nvidia-smi nvlink --status`: no NVLink" in shown.err
    assert "not found: `scontrol show topology`: No topology information available" in shown.err


def test_a_machine_with_neither_gpus_nor_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("NCCL_TOPO_FILE", str(tmp_path / "none.xml"))
    assert main(["topology"]) == 0
    shown = capsys.readouterr()
    assert yaml.safe_load(shown.out)["device"]["kind"] == "cpu"
    assert shown.err.count("nvidia-smi: not on this machine") == 1
    assert shown.err.count("scontrol: not on this machine") == 1
