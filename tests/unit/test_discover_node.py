"""One node's sources: nvidia-smi, NCCL's topology, sysfs."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrate.errors import ConfigError
from orchestrate.topology.discover.cpu import read_processor
from orchestrate.topology.discover.facts import Distance, pcie_gbps
from orchestrate.topology.discover.infiniband import read_adapters
from orchestrate.topology.discover.nccl_xml import parse_system
from orchestrate.topology.discover.nvidia_smi import parse_gpus, parse_links, parse_matrix
from tests.unit.discover_cases import adapter, capture


def test_hybrid_cube_mesh() -> None:
    node = parse_matrix(capture("smi_dgx1_v100.txt"), "smi")
    assert node.gpus == 8
    assert node.nvlinks is not None
    assert node.nvlinks[0] == (0, 1, 1, 2, 2, 0, 0, 0)
    assert node.nvlinks[7] == (0, 0, 0, 1, 2, 1, 2, 0)
    assert node.adapters == ("mlx5_0", "mlx5_2", "mlx5_1", "mlx5_3")
    assert node.nearest() == (("mlx5_0",),) * 2 + (("mlx5_1",),) * 2 + (("mlx5_2",),) * 2 + (("mlx5_3",),) * 2


def test_switched_node_with_tabs() -> None:
    node = parse_matrix(capture("smi_hgx_h100.txt"), "smi")
    assert node.nvlinks is not None
    assert {links for row in node.nvlinks for links in row} == {0, 18}
    assert [near for (near,) in node.nearest()] == [f"NIC{n}" for n in (8, 7, 6, 5, 4, 3, 2, 1)]
    assert node.numa == ("0",) * 4 + ("1",) * 4


@pytest.mark.parametrize(
    ("name", "gpus", "linked", "adapters"),
    [
        ("smi_h100_4gpu.txt", 4, 6, 4),
        ("smi_gb200.txt", 4, 18, 0),
        ("smi_l40s.txt", 4, 0, 2),
        ("smi_rtx4090.txt", 8, 0, 2),
        ("smi_rtx3090_pairs.txt", 4, 4, 0),
    ],
)
def test_other_nodes(name: str, gpus: int, linked: int, adapters: int) -> None:
    node = parse_matrix(capture(name), name)
    assert node.gpus == gpus
    assert node.nvlinks is not None
    assert max(links for row in node.nvlinks for links in row) == linked
    assert len(node.adapters) == adapters


def test_the_legend_names_the_adapters_and_distances_are_ranked() -> None:
    node = parse_matrix(capture("smi_l40s.txt"), "smi")
    assert node.adapters == ("mlx5_0", "mlx5_1")
    assert node.distances[0] == (Distance.sys, Distance.sys)
    assert node.distances[2] == (Distance.node, Distance.node)


def test_a_header_that_is_underlined_and_a_prompt_before_it() -> None:
    header, *rows = capture("smi_gb200.txt").splitlines()
    text = "\n".join(["$ nvidia-smi topo -m", f"\x1b[4m{header}\x1b[0m", *rows])
    assert parse_matrix(text, "smi") == parse_matrix(capture("smi_gb200.txt"), "smi")


def test_a_node_of_one_gpu() -> None:
    node = parse_matrix("\tGPU0\tCPU Affinity\tNUMA Affinity\nGPU0\t X \t0-31\tN/A\n", "smi")
    assert (node.gpus, node.nvlinks, node.numa) == (1, ((0,),), (None,))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: "", "no matrix"),
        (lambda text: "\n".join(text.splitlines()[:3]), "the row of GPU2 is missing"),
        (
            lambda text: text.replace("NODE    SYS     SYS     SYS     SYS     0", "NODENODE SYS SYS SYS 0"),
            "NODENODE",
        ),
        (
            lambda text: text.replace("GPU1    NODE     X ", "GPU1    NV4      X "),
            "above and below the diagonal",
        ),
        (lambda text: text.replace("GPU0     X  ", "GPU0    SYS "), "'SYS' between GPU0 and GPU0"),
        (lambda text: text.split("GPU3    SYS")[0] + "GPU3    SYS     SYS", "2 of 6 columns"),
    ],
)
def test_a_damaged_matrix_is_told_in_one_line(change: object, says: str) -> None:
    assert callable(change)
    with pytest.raises(ConfigError, match=says) as caught:
        parse_matrix(change(capture("smi_l40s.txt")), "topology.smi=x")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("topology.smi=x: ")


def test_gpus_of_the_query() -> None:
    text = (
        "name, memory.total [MiB], pcie.link.gen.max, pcie.link.width.max\n"
        "NVIDIA A100-SXM4-80GB, 81920 MiB, 4, 16\nNVIDIA A100-SXM4-80GB, [N/A], [N/A], 16\n"
    )
    first, second = parse_gpus(text, "gpus")
    assert (first.name, first.memory_gib) == ("NVIDIA A100-SXM4-80GB", 80)
    assert first.pcie_gbps == pytest.approx(31.5, rel=0.01)
    assert (second.memory_gib, second.pcie_gbps) == (None, None)


def test_gpus_without_units() -> None:
    (gpu,) = parse_gpus("index, name, memory.total [MiB]\n0, NVIDIA L40S, 46068\n", "gpus")
    assert gpu.memory_gib == pytest.approx(44.99, abs=0.01)


@pytest.mark.parametrize("text", ["", "NVIDIA L40S, 46068 MiB\n"])
def test_gpus_need_the_line_of_names(text: str) -> None:
    with pytest.raises(ConfigError, match="no line of column names"):
        parse_gpus(text, "gpus")


def test_memory_in_another_unit_is_not_guessed() -> None:
    with pytest.raises(ConfigError, match="expected MiB"):
        parse_gpus("name, memory.total\nX, 46 GB\n", "gpus")


def test_active_links() -> None:
    text = "GPU 0: NVIDIA X (UUID: GPU-1)\n\t Link 0: 26.562 GB/s\n\t Link 1: <inactive>\nGPU 1: NVIDIA X\n"
    assert parse_links(text, "nvlinks") == ((26.562,), ())
    with pytest.raises(ConfigError, match="no GPU"):
        parse_links("Link 0: 25 GB/s", "nvlinks")


def test_pcie() -> None:
    # PCI Express Base Specification: x16 of generations 1 to 5.
    rates = [pcie_gbps(transfers, 16) for transfers in (2.5, 5, 8, 16, 32)]
    assert rates == pytest.approx([4.0, 8.0, 15.754, 31.508, 63.015], rel=1e-3)


def test_nccl_dump_of_a_switched_node() -> None:
    system = parse_system(capture("nccl_h100_vm.xml"), "nccl")
    assert [gpu.name for gpu in system.gpus] == ["NVIDIA H100 80GB HBM3"] * 8
    assert {gpu.pcie_gbps for gpu in system.gpus} == {None}  # the virtual slots say width 0
    assert system.wiring.switched
    assert system.wiring.nvlinks is not None
    assert system.wiring.nvlinks[3] == (18, 18, 18, 0, 18, 18, 18, 18)
    assert [near for (near,) in system.wiring.nearest()] == [f"mlx5_{n}" for n in range(7, -1, -1)]
    assert {adapter.gbits for adapter in system.adapters} == {200}
    assert system.wiring.numa == ("0",) * 4 + ("1",) * 4


def test_nccl_file_without_links_says_nothing_of_them() -> None:
    system = parse_system(capture("nccl_azure_ndv4.xml"), "nccl")
    assert len(system.gpus) == 8
    assert system.wiring.nvlinks is None
    assert system.gpus[0].pcie_gbps == pytest.approx(31.5, rel=0.01)
    assert all(len(near) == 2 for near in system.wiring.nearest())
    assert {adapter.gbits for adapter in system.adapters} == {None}


def test_nccl_dump_of_links_without_a_switch() -> None:
    """The first quad of a DGX-1V, as NCCL writes it; links also lead to GPUs that the dump leaves out."""
    links = parse_matrix(capture("smi_dgx1_v100.txt"), "smi").nvlinks
    assert links is not None
    gpus = "".join(
        f'<pci busid="0000:0{a}:00.0" class="0x030200" device="0x1db5" link_speed="8 GT/s" link_width="16">'
        f'<gpu dev="{a}" sm="70" rank="{a}" gdr="1">'
        + "".join(
            f'<nvlink target="0000:0{b}:00.0" count="{links[a][b]}" tclass="0x030200"/>'
            for b in range(8)
            if links[a][b]
        )
        + "</gpu></pci>"
        for a in range(4)
    )
    system = parse_system(f'<system version="1"><cpu numaid="0">{gpus}</cpu></system>', "nccl")
    assert system.wiring.nvlinks == tuple(row[:4] for row in links[:4])
    assert system.wiring.switched is False


def test_nccl_distances() -> None:
    def function(bus: int, inside: str) -> str:
        return f'<pci busid="0000:{bus:02x}:00.0">{inside}</pci>'

    def net(name: str) -> str:
        return f'<nic><net name="{name}" speed="100000"/></nic>'

    gpu = '<gpu dev="0" sm="80"/>'
    socket = net("eth0")
    text = (
        '<system version="1"><cpu numaid="0">'
        + function(1, function(2, function(3, gpu) + function(4, net("pix"))) + function(5, net("pxb")))
        + function(6, net("phb"))
        + socket
        + '</cpu><cpu numaid="1">'
        + function(7, net("sys"))
        + socket
        + "</cpu></system>"
    )
    wiring = parse_system(text, "nccl").wiring
    assert dict(zip(wiring.adapters, wiring.distances[0], strict=True)) == {
        "pix": Distance.pix,
        "pxb": Distance.pxb,
        "phb": Distance.phb,
        "eth0": Distance.phb,
        "sys": Distance.sys,
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not XML"),
        ("<system><cpu></system>", "not XML"),
        ("<graph/>", "<graph>"),
        ('<system version="1"/>', "no GPU"),
        ('<!DOCTYPE system [<!ENTITY a "aaaa">]><system>&a;</system>', "document type"),
        ('<!doctype system SYSTEM "file:///etc/passwd"><system/>', "document type"),
    ],
)
def test_what_is_not_nccls(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        parse_system(text, "topology.nccl=x")
    assert "\n" not in str(caught.value)


def test_adapters_of_sysfs(tmp_path: Path) -> None:
    adapter(tmp_path, "mlx5_10", ("4: ACTIVE", "400 Gb/sec (4X NDR)", "InfiniBand"))
    adapter(tmp_path, "mlx5_2", ("4: ACTIVE", "25 Gb/sec (1X EDR)", "Ethernet"))
    adapter(tmp_path, "mlx5_3", ("1: DOWN", "10 Gb/sec (4X)", "InfiniBand"))
    adapter(
        tmp_path,
        "mlx5_4",
        ("4: ACTIVE", "200 Gb/sec (4X HDR)", "InfiniBand"),
        ("1: DOWN", "2.5 Gb/sec (1X SDR)", "InfiniBand"),
    )
    found = read_adapters(tmp_path)
    assert [a.name for a in found] == ["mlx5_2", "mlx5_3", "mlx5_4", "mlx5_10"]
    assert [a.gbits for a in found] == [25, 0, 200, 400]
    assert [a.up for a in found] == [True, False, True, True]
    assert found[0].layer == "Ethernet"


def test_sysfs_without_adapters_or_with_a_silent_port(tmp_path: Path) -> None:
    assert read_adapters(tmp_path) == ()
    adapter(tmp_path, "mlx5_0", ("4: ACTIVE", "", "InfiniBand"))
    rate = tmp_path / "class/infiniband/mlx5_0/ports/1/rate"
    with pytest.raises(ConfigError, match="no rate such as"):
        read_adapters(tmp_path)
    rate.unlink()
    assert read_adapters(tmp_path)[0].gbits is None


def test_a_processor(tmp_path: Path) -> None:
    for file, text in {
        "proc/cpuinfo": "model name\t: Some  CPU @ 2 GHz\nflags\t\t: sse avx512_bf16\n",
        "proc/meminfo": "MemTotal:       16777216 kB\n",
        "sys/fs/cgroup/memory.max": "8589934592\n",
    }.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text, encoding="utf-8")
    found = read_processor(tmp_path)
    assert (found.name, found.memory_gib, found.bf16) == ("Some CPU @ 2 GHz", 8, True)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("max\n", encoding="utf-8")
    assert read_processor(tmp_path).memory_gib == 16


def test_a_machine_without_proc_is_not_guessed_at(tmp_path: Path) -> None:
    found = read_processor(tmp_path)
    assert (found.name, found.memory_gib, found.bf16) == (None, None, None)
    assert found.cores >= 1
