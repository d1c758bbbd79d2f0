"""A profile refitted to measurements that were made up from a known one comes out as that one."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from orchestrate.calibrate import cases, record, samples
from orchestrate.calibrate.findings import Change
from orchestrate.calibrate.formulas import Formulas
from orchestrate.calibrate.profile import refit
from orchestrate.calibrate.samples import Exchange, Samples
from orchestrate.cli.compose import Source
from orchestrate.cli.job import build
from orchestrate.commands.calibrate import check, measuring_plan
from orchestrate.config import ClusterConfig, Config, NodeGroupConfig
from orchestrate.errors import ConfigError
from orchestrate.plan.search.search import search
from tests.unit.plan_cases import make_config

CPU = make_config("two_node_cpu", "gpt_tiny", **{"precision.dtype": "fp32"})
GPU = make_config("dgx_h100", "llama3_8b", **{"cluster.nodes": 4})


def truth_of(config: Config) -> ClusterConfig:
    """Another profile for the same machines than the one in ``config``."""
    cluster = config.cluster
    return replace(
        cluster,
        device=replace(cluster.device, matmul_efficiency=0.55, memory_efficiency=0.6, launch_us=40.0),
        nvlink=replace(cluster.nvlink, efficiency=0.5, latency_us=3 * cluster.nvlink.latency_us),
        network=replace(cluster.network, efficiency=0.4, latency_us=2 * cluster.network.latency_us),
    )


def formulas_of(config: Config) -> Formulas:
    plan = measuring_plan(config)
    return Formulas(plan.cluster, plan.placement, config.model, config.precision.dtype)


def make_up(config: Config, truth: ClusterConfig, noise: float = 0.0) -> Samples:
    """What measuring a cluster of profile ``truth`` would give, ``noise`` off."""
    formulas, generator = formulas_of(config), random.Random(7)
    model, device, dtype = config.model, truth.device, config.precision.dtype
    plan = measuring_plan(config)

    def timed(of: Sequence[Any], seconds: Any) -> tuple[Any, ...]:
        return tuple(
            replace(case, seconds=seconds(case) * math.exp(generator.gauss(0, noise))) for case in of
        )

    def exchange(case: Exchange) -> float:
        return formulas.exchange(truth.nvlink, truth.network, case, formulas.span(case))

    return Samples(
        products=timed(cases.products(model, device, dtype), lambda c: formulas.product(device, c)),
        operators=timed(cases.operators(device), lambda c: formulas.operator(device, c)),
        passes=timed(
            cases.passes(model, device, dtype, plan.cluster.nvlink_domain),
            lambda c: formulas.whole_pass(device, truth.nvlink, c),
        ),
        exchanges=timed(cases.exchanges(plan.cluster, plan.placement), exchange),
        reserved_bytes=2**30 // 2,
        multiprocessors=device.multiprocessors,
        device="made up",
    )


@pytest.mark.parametrize(("config", "noise"), [(CPU, 0.0), (CPU, 0.03), (GPU, 0.0), (GPU, 0.03)])
def test_a_known_profile_is_found(config: Config, noise: float) -> None:
    truth = truth_of(config)
    found = refit(formulas_of(config), make_up(config, truth, noise))
    near = 0.02 + 6 * noise
    dtype = config.precision.dtype
    for ours, theirs in (
        (
            found.device.peak_tflops[dtype] * found.device.matmul_efficiency,
            truth.device.peak_tflops[dtype] * truth.device.matmul_efficiency,
        ),
        (
            found.device.memory_bandwidth_gbps * found.device.memory_efficiency,
            truth.device.memory_bandwidth_gbps * truth.device.memory_efficiency,
        ),
        (found.device.launch_us, truth.device.launch_us),
        (found.nvlink.latency_us, truth.nvlink.latency_us),
        (found.network.latency_us, truth.network.latency_us),
        (
            found.network.bandwidth_gbps * found.network.efficiency,
            truth.network.bandwidth_gbps * truth.network.efficiency,
        ),
        (
            found.nvlink.bandwidth_gbps * found.nvlink.efficiency,
            truth.nvlink.bandwidth_gbps * truth.nvlink.efficiency,
        ),
    ):
        assert ours == pytest.approx(theirs, rel=near)
    assert found.device.reserved_gib == 0.5
    assert all(quality.median < 0.02 + 2 * noise for quality in found.qualities)


def test_a_gpus_data_sheet_stays_unless_it_was_exceeded() -> None:
    truth = truth_of(GPU)
    found = refit(formulas_of(GPU), make_up(GPU, truth))
    assert found.device.peak_tflops == GPU.cluster.device.peak_tflops
    assert found.nvlink.bandwidth_gbps == GPU.cluster.nvlink.bandwidth_gbps
    faster = replace(truth, network=replace(truth.network, bandwidth_gbps=500, efficiency=1.0))
    found = refit(formulas_of(GPU), make_up(GPU, faster))
    assert found.network.bandwidth_gbps > GPU.cluster.network.bandwidth_gbps
    assert found.network.efficiency == 1.0


def test_what_one_domain_cannot_tell_stays() -> None:
    config = make_config("local_cpu", "gpt_tiny", **{"precision.dtype": "fp32"})
    found = refit(formulas_of(config), make_up(config, truth_of(config)))
    assert found.network == config.cluster.network
    assert any("network was not measured" in note for note in found.notes)


def test_the_file_is_a_preset_that_composes_to_the_refitted_profile(tmp_path: Path) -> None:
    truth = truth_of(CPU)
    found = refit(formulas_of(CPU), make_up(CPU, truth, 0.03))
    cluster = record.refitted(CPU.cluster, found, "here_calibrated")
    path = record.write(cluster, found, CPU.precision.dtype, tmp_path, ["2026-11-21, orchestrate calibrate"])
    text = path.read_text()
    assert path == tmp_path / "cluster" / "here_calibrated.yaml"
    assert text.startswith("# 2026-11-21, orchestrate calibrate\n")
    assert "device.launch_us: 60 -> " in text
    assert list(path.parent.iterdir()) == [path]
    composed = build(Source((tmp_path,)), ["cluster=here_calibrated"])
    assert composed.cluster == cluster
    assert composed.precision.dtype is CPU.precision.dtype


def test_a_folder_that_cannot_be_written_is_a_mistake(tmp_path: Path) -> None:
    found = refit(formulas_of(CPU), make_up(CPU, truth_of(CPU)))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"calibrate\.out="):
        record.write(CPU.cluster, found, CPU.precision.dtype, tmp_path / "file", [])


def test_samples_survive_their_file(tmp_path: Path) -> None:
    made = make_up(CPU, truth_of(CPU))
    samples.save(made, tmp_path / "samples.json")
    assert samples.load(tmp_path / "samples.json") == made


def test_groups_cover_devices_once_and_cross_what_they_should() -> None:
    for config in (CPU, GPU, make_config("dgx_h100", "llama3_8b", **{"cluster.nvlink_domain": 4})):
        plan = measuring_plan(config)
        found = cases.exchanges(plan.cluster, plan.placement)
        assert {case.link for case in found} == {"nvlink", "network"}
        for case in found:
            ranks = [rank for group in case.groups for rank in group]
            assert len(ranks) == len(set(ranks)) == plan.dims.world
            for group in case.groups:
                domains = {plan.cluster.domain_of(plan.placement.devices[rank]) for rank in group}
                assert len(domains) == (1 if case.link == "nvlink" else len(group))


def test_passes_of_the_models_own_width_are_deep_and_cut_where_its_heads_allow() -> None:
    def found(domain: int, **changes: int) -> set[tuple[int, int]]:
        model = replace(CPU.model, layers=12, **changes)
        listed = cases.passes(model, CPU.cluster.device, CPU.precision.dtype, domain)
        return {(case.tp, case.layers) for case in listed if case.hidden == model.hidden}

    assert found(4) == {(1, 2), (1, 8), (2, 8), (4, 8)}
    assert found(1) == {(1, 2), (1, 8)}
    assert found(3) == {(1, 2), (1, 8)}  # pairs would leave their domain, and three do not divide four heads
    # As deep as there is time for.
    assert found(4, seq=4096) == {(1, 2), (2, 4), (4, 2), (4, 8)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.heads": 5}, "model.heads=5"),
        ({"calibrate.seconds": 0}, "calibrate.seconds=0: must be above 0"),
        (
            {"cluster.device.peak_tflops": {"bf16": 989}, "precision.dtype": "fp32"},
            "precision.dtype=fp32",
        ),
    ],
)
def test_what_cannot_be_calibrated_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(make_config("dgx_h100", "llama3_8b", **changes))


def test_nodes_of_several_kinds_are_calibrated_apart() -> None:
    mixed = replace(GPU, cluster=replace(GPU.cluster, groups=(NodeGroupConfig(nodes=1),)))
    with pytest.raises(ConfigError, match=r"cluster\.groups=\[\]"):
        check(mixed)


def test_yaml_has_every_key_of_the_cluster(tmp_path: Path) -> None:
    found = refit(formulas_of(GPU), make_up(GPU, truth_of(GPU)))
    path = record.write(GPU.cluster, found, GPU.precision.dtype, tmp_path, [])
    values = yaml.safe_load(path.read_text())
    assert "defaults" not in values  # on GPUs the precision stays a choice
    assert values["gpus_per_node"] == 8


def test_stages_that_wait_leave_their_cores_to_the_others() -> None:
    pinned = {
        "parallel.tp": 1,
        "parallel.pp": 8,
        "parallel.micro_batch": 8,
        "parallel.schedule": "gpipe",
        "parallel.vpp": 1,
        "model.layers": 8,
        "train.global_batch": 16,
        "precision.dtype": "fp32",
    }
    bubbles = [
        search(
            make_config("two_node_cpu", "gpt_tiny", **pinned, **{"cluster.device.crowding": crowding})
        ).time.terms.get("bubble", 0.0)
        for crowding in (1.0, 1.5, 4.0)
    ]
    assert bubbles[0] > bubbles[1] > bubbles[2]
    with pytest.raises(ConfigError, match=r"crowding=0\.5: must be at least 1"):
        check(make_config("two_node_cpu", "gpt_tiny", **{"cluster.device.crowding": 0.5}))


def test_the_table_of_changes_names_every_key_whole_in_eighty_columns() -> None:
    changes = [
        Change("device.memory_bandwidth_gbps", 11.0, 84.0, "the fastest operator"),
        Change("device.reserved_gib", 0.36, 0.32, "a process with all that training loads", 0.1),
    ]
    console = Console(file=io.StringIO(), width=80)
    console.print(record.change_table(changes))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "device.memory_bandwidth_gbps" in text
    assert max(map(len, text.splitlines())) <= 80
