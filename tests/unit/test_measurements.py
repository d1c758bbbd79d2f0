"""Reading tables of measured runs, and what a row means to the planner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrate.config import Activation, DType, Norm, Position, Recompute, Schedule, ZeroBackend
from orchestrate.errors import ConfigError, DataError
from orchestrate.measurements.clusters import Clusters, known_clusters, read_cluster
from orchestrate.measurements.layout import dtype_of, layout_of, model_of, stages_of, why_not
from orchestrate.measurements.predict import Predictor, predict_time
from orchestrate.measurements.read import read_runs, read_table
from orchestrate.measurements.schema import PipelineSchedule, Precision, Status
from orchestrate.plan.toolkits import Toolkit
from orchestrate.plan.units import GIB
from tests.unit.measurement_cases import ROW, make_run, write_table
from tests.unit.plan_cases import CLUSTERS, make_config


def sizes(run: Any) -> list[int]:
    return [len(stage) for stage in stages_of(run)]


def test_a_row_is_read_as_it_stands(tmp_path: Path) -> None:
    run = make_run(tmp_path, source="a paper", status="ok", iter_time_s="3.7", memory_gib="", notes="extra")
    assert (run.layers, run.gpus, run.tp, run.dp, run.global_batch) == (36, 128, 4, 32, 512)
    assert (run.gated_mlp, run.tied_embeddings, run.recompute) == (False, True, Recompute.full)
    assert (run.precision, run.schedule, run.status) == (Precision.fp16, PipelineSchedule.none, Status.ok)
    assert (run.iter_time_s, run.memory_gib, run.source) == (3.7, None, "a paper")
    assert (run.row, run.file, run.timed, run.micro_batches) == (1, str(tmp_path / "one.csv"), True, 1)


def test_what_was_not_measured_may_be_missing_altogether(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert (run.status, run.iter_time_s, run.memory_gib) == (None, None, None)
    assert not run.measured
    assert not run.timed


def test_empty_values_that_have_a_default(tmp_path: Path) -> None:
    empty = {"vpp": "", "cp": "", "kv_heads": "", "zero": "", "schedule": "", "recompute": "", "software": ""}
    run = make_run(tmp_path, **empty)
    assert (run.vpp, run.cp, run.kv_heads, run.zero) == (1, 1, 32, 0)
    assert (run.schedule, run.recompute) == (PipelineSchedule.none, Recompute.none)


def test_spreadsheets_add_a_mark_and_decimals(tmp_path: Path) -> None:
    file = write_table(tmp_path / "a.csv", {"layers": "36.0", "gated_mlp": "TRUE"})
    file.write_text("\ufeff" + file.read_text())
    run = read_table(file)[0]
    assert (run.layers, run.gated_mlp) == (36, True)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"tp": 8}, "tp 8 x cp 1 x pp 1 x dp 32 = 256, but gpus=128: nearest is dp=16"),
        ({"dp": 5}, "tp 4 x cp 1 x pp 1 x dp 5 = 20, but gpus=128: nearest is dp=32"),
        (
            {"global_batch": 600},
            "global_batch=600 is not divisible by dp 32 x micro_batch 16 = 512: nearest is 512 or 1024",
        ),
        (
            {"global_batch": 100},
            "global_batch=100 is not divisible by dp 32 x micro_batch 16 = 512: nearest is 512",
        ),
        ({"kv_heads": 5}, "kv_heads=5 does not divide heads=32: nearest is 4"),
        ({"cp": 3, "tp": 1, "dp": 4, "gpus": 12, "seq": 2048}, "cp=3 does not divide seq=2048: nearest is 2"),
        ({"layers": "many"}, "layers=many: is not a whole number"),
        ({"layers": "3.5"}, "layers=3.5: is not a whole number"),
        ({"layers": "inf"}, "layers=inf: is not a whole number"),
        ({"hidden": 0}, "hidden=0: must be at least 1"),
        ({"seq": ""}, "seq is empty"),
        ({"zero": 4}, "zero=4: ZeRO's stages are 0, 1, 2, 3"),
        ({"zero": -1}, "zero=-1: must be at least 0"),
        ({"gated_mlp": "maybe"}, "gated_mlp=maybe: is neither 0 nor 1"),
        ({"precision": "fp8"}, "precision=fp8: choices are bf16, fp16, bf16_fp32grad"),
        ({"recompute": "some"}, "recompute=some: choices are none, selective, full"),
        ({"schedule": "gpipe"}, "schedule=gpipe: choices are none, 1f1b, interleaved"),
        ({"status": "fine"}, "status=fine: choices are ok, oom, crash_or_oom"),
        ({"iter_time_s": "soon"}, "iter_time_s=soon: is not a number"),
        ({"memory_gib": "-3"}, "memory_gib=-3: must be above 0"),
        ({"iter_time_s": "nan"}, "iter_time_s=nan: must be above 0"),
    ],
)
def test_a_wrong_value_is_told_with_its_row_and_column(
    change: dict[str, Any], told: str, tmp_path: Path
) -> None:
    file = write_table(tmp_path / "a.csv", {}, {"run_id": "mine-0002", **change})
    with pytest.raises(DataError) as caught:
        read_table(file)
    assert str(caught.value) == f"{file} row 2 (mine-0002): {told}"


def test_rows_of_one_name_are_told(tmp_path: Path) -> None:
    file = write_table(tmp_path / "a.csv", {}, {"run_id": "mine-0002"}, {})
    with pytest.raises(
        DataError, match=r"a.csv row 3 \(mine-0001\): the run_id is that of .*a.csv row 1 already"
    ):
        read_runs([str(file)])


def test_a_table_without_rows_or_of_another_kind_is_told(tmp_path: Path) -> None:
    file = write_table(tmp_path / "a.csv", {})
    columns, row = file.read_text().splitlines()
    file.write_text(columns + "\n")
    with pytest.raises(DataError, match=r"a\.csv: names columns, and has no row"):
        read_table(file)
    file.write_text(f"{columns}\n{row}\n".replace(",", ";"))
    with pytest.raises(DataError, match=r"a\.csv: the first line, 'run_id;.*…', names no column"):
        read_table(file)


def test_a_missing_column_is_told_with_one_like_it(tmp_path: Path) -> None:
    file = write_table(tmp_path / "a.csv", {"micro_batches": 3}, without=("micro_batch",))
    with pytest.raises(
        DataError, match=r"a.csv: column micro_batch is missing \(the file has micro_batches\)"
    ):
        read_table(file)


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(DataError, match="is empty; the first line names the columns: run_id, cluster"):
        read_table(tmp_path / "empty.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read as CSV"):
        read_table(tmp_path / "binary.csv")
    file = write_table(tmp_path / "long.csv", {})
    file.write_text(file.read_text().rstrip() + ",surplus\n")
    with pytest.raises(DataError, match=r"row 1 \(mine-0001\): has more values than there are columns"):
        read_table(file)
    with pytest.raises(DataError, match=r"runs=.*nothing\*: no such file"):
        read_runs([str(tmp_path / "nothing*")])


def test_globs_and_lists_name_each_file_once(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_table(tmp_path / f"{name}.csv", {"run_id": name})
    runs = read_runs([str(tmp_path / "b.csv"), str(tmp_path / "*.csv")])
    assert [run.run_id for run in runs] == ["b", "a"]


def test_clusters_of_tables_are_the_files_of_conf() -> None:
    assert known_clusters() == CLUSTERS
    clusters = Clusters()
    for name in CLUSTERS:
        assert read_cluster(name) == make_config(name).cluster
        assert clusters.cluster(name.replace("_", "-"), 16).world == 16


@pytest.mark.parametrize(
    ("gpus", "nodes"), [(1, [1]), (2, [2]), (8, [8]), (16, [8, 8]), (12, [8, 4]), (280, [8] * 35)]
)
def test_a_cluster_has_as_many_nodes_as_the_gpus_take(gpus: int, nodes: list[int]) -> None:
    cluster = Clusters().cluster("vtrain-a100", gpus)
    assert [node.devices for node in cluster.nodes] == nodes
    assert [node.nvlink_domain for node in cluster.nodes] == nodes


def test_an_unknown_cluster_is_told_with_the_closest(tmp_path: Path) -> None:
    run = make_run(tmp_path, cluster="selene-a10")
    with pytest.raises(
        DataError, match=r"one.csv row 1 \(mine-0001\): cluster=selene-a10: .*did you mean selene-a100\?"
    ):
        Predictor().predict(run)
    with pytest.raises(ConfigError, match="unknown, known are aws-p5-h100, "):
        Clusters().cluster("xyzzy", 8)


def test_a_cluster_given_stands_before_its_file(tmp_path: Path) -> None:
    slow = make_config("selene_a100", **{"cluster.device.memory_gib": 40.0}).cluster
    assert Clusters(slow).cluster("selene-a100", 8).device.memory_gib == 40
    assert Clusters(slow).cluster("dgx-a100", 8).device.memory_gib == 80
    run = make_run(tmp_path)
    assert Predictor(Clusters(slow)).predict(run).fullest.capacity == 40 * 2**30


def test_a_precision_without_a_known_peak(tmp_path: Path) -> None:
    device = {"name": "old", "kind": "cuda", "memory_gib": 16, "memory_bandwidth_gbps": 700}
    given = make_config(
        "dgx_a100", **{"cluster.name": "old", "cluster.device": {**device, "peak_tflops": {"fp16": 100}}}
    ).cluster
    run = make_run(tmp_path, cluster="old", precision="bf16")
    with pytest.raises(DataError, match=r"precision=bf16: no peak is known for it on old, only for fp16"):
        Predictor(Clusters(given)).setup(run)


def test_models_of_the_first_gpts(tmp_path: Path) -> None:
    model = model_of(make_run(tmp_path))
    assert (model.activation, model.norm, model.position) == (
        Activation.gelu,
        Norm.layernorm,
        Position.learned,
    )
    assert (model.bias, model.dropout, model.attention_dropout) == (True, 0.1, 0.1)
    assert (model.layers, model.hidden, model.vocab, model.tied_embeddings) == (36, 4096, 51200, True)
    assert dtype_of(make_run(tmp_path)) is DType.fp16


def test_models_of_llamas_kind(tmp_path: Path) -> None:
    llama = {"gated_mlp": 1, "flash_attention": 1, "kv_heads": 8, "precision": "bf16_fp32grad"}
    run = make_run(tmp_path, software="nanotron 2024", **llama)
    model = model_of(run)
    assert (model.activation, model.norm, model.position) == (
        Activation.swiglu,
        Norm.rmsnorm,
        Position.rotary,
    )
    assert (model.bias, model.dropout, model.attention_dropout, model.kv_heads) == (False, 0.0, 0.0, 8)
    setup = Predictor().setup(run)
    assert (setup.dtype, setup.fp32_gradients, setup.toolkit) == (DType.bf16, True, Toolkit.nanotron)


def test_layouts(tmp_path: Path) -> None:
    plain = layout_of(make_run(tmp_path, sequence_parallel=1))
    assert (plain.dims.tp, plain.dims.dp, plain.dims.vpp) == (4, 32, 1)
    assert (plain.schedule, plain.sequence_parallel) == (Schedule.one_f_one_b, True)
    assert (plain.zero_stage, plain.zero_engine) == (0, ZeroBackend.deepspeed)
    looped = layout_of(make_run(tmp_path, pp=4, dp=8, vpp=3, schedule="interleaved"))
    assert (looped.schedule, looped.dims.vpp) == (Schedule.interleaved, 3)
    lone = layout_of(make_run(tmp_path, tp=1, dp=128, global_batch=2048, zero=3, sequence_parallel=1, vpp=3))
    assert (lone.zero_engine, lone.sequence_parallel, lone.dims.vpp) == (ZeroBackend.fsdp2, False, 1)


@pytest.mark.parametrize(
    ("layers", "pp", "vpp", "expected"),
    [
        (36, 4, 1, [9] * 4),
        (96, 8, 6, [2] * 48),
        (70, 12, 1, [5, *[6] * 10, 5]),  # BLOOM: Le Scao et al. 2022 (arXiv:2211.05100), section 3.4
        (126, 16, 1, [7, *[8] * 14, 7]),  # Llama 3: Grattafiori et al. 2024 (arXiv:2407.21783), section 3.3.2
        (10, 4, 1, [2, 3, 3, 2]),
        (11, 4, 1, [2, 3, 3, 3]),
        (3, 4, 1, [1, 1, 1, 0]),
    ],
)
def test_stages_are_cut_evenly(layers: int, pp: int, vpp: int, expected: list[int], tmp_path: Path) -> None:
    assert sizes(make_run(tmp_path, layers=layers, pp=pp, vpp=vpp, dp=2, gpus=8 * pp)) == expected


def test_nanotron_deals_layers_by_weight(tmp_path: Path) -> None:
    llama = {"software": "nanotron 2024", "gated_mlp": 1, "dp": 1, "micro_batch": 1}
    # Llama 3 8B, whose head weighs two layers, on 8 stages: as nanotron's notes on 3D parallelism print it.
    eight = {"layers": 32, "hidden": 4096, "ffn_hidden": 14336, "vocab": 128256}
    assert sizes(make_run(tmp_path, **llama, **eight, pp=8, gpus=32)) == [5, 4, 4, 5, 4, 4, 4, 2]
    # Of 16 layers with a head as heavy as four, each stage has a share of five. Published figures of rank 0
    # are too small for a sixth layer's activations (ultrascale table, pp 4).
    one = {"layers": 16, "hidden": 2048, "ffn_hidden": 8192, "vocab": 131072}
    assert sizes(make_run(tmp_path, **llama, **one, pp=4, gpus=16)) == [5, 5, 5, 1]
    assert sizes(make_run(tmp_path, **llama, **one, pp=32, gpus=128)) == [1] * 16 + [0] * 16


def test_nanotron_needs_a_block_on_every_stage(tmp_path: Path) -> None:
    one = {"layers": 16, "hidden": 2048, "ffn_hidden": 8192, "vocab": 131072}
    run = make_run(tmp_path, software="nanotron 2024", **one, pp=32, dp=1)
    # A stage for each of 16 layers, then for norm, head, cast and loss.
    assert why_not(run) == "nanotron leaves 12 of 32 stages without a block"
    prediction = Predictor().predict(run)
    assert prediction.fullest.fits
    assert not prediction.fits
    assert why_not(make_run(tmp_path, software="nanotron 2024", **one, pp=8, dp=4)) is None
    assert why_not(make_run(tmp_path, software="nemo", **one, pp=32, dp=1)) is None


def test_nanotron_needs_micro_batches_to_warm_a_pipeline_up(tmp_path: Path) -> None:
    shape = {"layers": 32, "hidden": 4096, "ffn_hidden": 14336, "vocab": 131072, "gpus": 32, "micro_batch": 1}
    enough, too_few = (
        make_run(tmp_path, software="nanotron 2024", **shape, pp=8, dp=1, global_batch=batch)
        for batch in (7, 6)
    )
    assert why_not(enough) is None
    assert why_not(too_few) == "nanotron warms up 8 stages with 7 micro-batches, and there are 6"


@pytest.mark.parametrize(
    "change",
    [
        {"layers": 35, "pp": 4, "dp": 8},
        {"layers": 5, "pp": 8, "dp": 4},
        {"layers": 3, "pp": 8, "dp": 4, "software": "nanotron 2024"},
        {"pp": 8, "dp": 4, "micro_batch": 128},
        {"pp": 8, "dp": 4, "micro_batch": 128, "vpp": 4, "schedule": "interleaved"},
        {"tp": 32, "dp": 4},
        {"tp": 64, "dp": 2},
        {"heads": 30, "kv_heads": 30},
        {"cp": 2, "dp": 16},
        {"zero": 3, "tp": 1, "dp": 128, "micro_batch": 4},
        {"software": ""},
    ],
)
def test_odd_runs_are_predicted_too(change: dict[str, Any], tmp_path: Path) -> None:
    prediction = Predictor().predict(make_run(tmp_path, **change))
    assert prediction.iter_time_s > 0
    assert prediction.memory_gib > 0


def test_a_published_step_is_met(tmp_path: Path) -> None:
    # 142 TFLOP/s a GPU by the paper's own count (table 1): 3.696 s.
    assert predict_time(make_run(tmp_path)).step == pytest.approx(3.696, rel=0.15)


def test_memory_is_what_the_toolkit_reports(tmp_path: Path) -> None:
    # nanotron reports rank 0, whose stage is not the fullest where the last one holds the head; and no
    # report counts the CUDA context.
    llama = {"software": "nanotron 2024", "gated_mlp": 1, "vocab": 500_000, "precision": "bf16", "tp": 1}
    prediction = Predictor().predict(make_run(tmp_path, **llama, pp=4, dp=32))
    first, *_, last = prediction.memory
    assert prediction.fullest is last
    assert prediction.memory_gib < first.total / GIB < last.total / GIB


def test_the_row_of_the_tests_is_whole(tmp_path: Path) -> None:
    assert read_table(write_table(tmp_path / "a.csv", ROW))[0].run_id == "mine-0001"
