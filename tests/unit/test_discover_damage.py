"""Whatever a file holds, a parser reads it or says in one line what is wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrate.errors import ConfigError
from orchestrate.topology.discover import nccl_xml, nvidia_smi, slurm
from tests.unit.discover_cases import capture

GPUS = "name, memory.total [MiB], pcie.link.gen.max, pcie.link.width.max\nNVIDIA L40S, 46068 MiB, 4, 16\n"
LINKS = "GPU 0: NVIDIA X (UUID: GPU-1)\n\t Link 0: 25 GB/s\n\t Link 1: <inactive>\n"

CASES: list[tuple[str, Callable[[str, str], object], str]] = [
    ("matrix", nvidia_smi.parse_matrix, capture("smi_l40s.txt")),
    ("gpus", nvidia_smi.parse_gpus, GPUS),
    ("links", nvidia_smi.parse_links, LINKS),
    ("nccl", nccl_xml.parse_system, capture("nccl_azure_ndv4.xml")),
    (
        "dump",
        nccl_xml.parse_system,
        "\n".join(capture("nccl_h100_vm.xml").splitlines()[:16]) + "</cpu></system>",
    ),
    ("tree", slurm.parse_topology, capture("slurm_two_levels.txt")),
    ("nodes", slurm.parse_nodes, capture("slurm_nodes.txt")),
]


@pytest.mark.parametrize(("parse", "text"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
@given(data=st.data())
def test_damage_is_survived(parse: Callable[[str, str], object], text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 60)))
    put = data.draw(
        st.one_of(
            st.text(max_size=8), st.sampled_from(["-1", "x", "\n", '"', "[", "GPU9", "<", ",", "=", " "])
        )
    )
    said = "file"
    try:
        parse(text[:start] + put + text[end:], "file")
    except ConfigError as error:
        said = str(error)
    assert said.startswith(("file", "host list"))
    assert "\n" not in said
