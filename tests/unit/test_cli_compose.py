"""Composition: the conf tree, the schema under it, and what a job becomes."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrate.checks import check
from orchestrate.cli.compose import Source, compose, jobs, plain
from orchestrate.cli.groups import groups
from orchestrate.cli.job import build
from orchestrate.cli.schema import MISSING, all_keys, defaults
from orchestrate.config import AUTO_KEYS, Config, DType, Recompute, TrackingMode, dump, load

CHOICES = [(group, choice) for group, choices in groups().items() for choice in choices]
NEEDS_PATHS = ("text", "megatron", "blend")


@pytest.mark.parametrize(("group", "choice"), CHOICES, ids=[f"{g}={c}" for g, c in CHOICES])
def test_every_choice_of_every_group_composes(group: str, choice: str) -> None:
    config = build(Source(), [f"{group}={choice}"])
    if (group, choice) not in {("data", kind) for kind in NEEDS_PATHS} and group != "model":
        check(config)


def test_the_defaults_train_on_cpus_in_fp32_and_gpus_in_bf16() -> None:
    assert build(Source(), []).precision.dtype is DType.fp32
    assert build(Source(), ["cluster=dgx_h100"]).precision.dtype is DType.bf16
    assert build(Source(), ["precision=bf16"]).precision.dtype is DType.bf16


def test_quickstart_is_three_dimensional() -> None:
    config = build(Source(), ["experiment=quickstart"])
    parallel = config.parallel
    assert (config.cluster.nodes, config.cluster.gpus_per_node) == (2, 4)
    assert (parallel.tp, parallel.pp, parallel.dp, parallel.sequence_parallel) == (2, 2, 2, True)
    assert (config.zero.stage, config.recompute.mode, config.data.source.kind) == (
        1,
        Recompute.selective,
        "stdlib",
    )


def test_a_group_and_a_key_of_its_section_go_together() -> None:
    config = build(Source(), ["recompute=full", "recompute.layers=2", "tracking=off", "data=text"])
    assert (config.recompute.mode, config.recompute.layers) == (Recompute.full, 2)
    assert (config.tracking.mode, config.data.source.kind) == (TrackingMode.off, "text")


def test_experiment_yields_to_what_is_typed() -> None:
    config = build(Source(), ["experiment=quickstart", "model=gpt2_124m", "parallel.tp=1", "precision=bf16"])
    assert (config.model.name, config.parallel.tp, config.precision.dtype) == ("gpt2_124m", 1, DType.bf16)


def test_auto_is_left_to_the_planner() -> None:
    config = build(Source(), ["parallel.tp=auto", "recompute=auto"])
    assert (config.parallel.tp, config.recompute.mode) == (None, None)


def test_a_folder_of_ones_own_adds_choices_and_a_start(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("defaults: [gpt_tiny, _self_]\nname: mine\nlayers: 3\n")
    (tmp_path / "start.yaml").write_text(
        "defaults: [config, override model: mine, _self_]\ntrain: {steps: 9}\n"
    )
    assert build(Source((tmp_path,)), ["model=mine"]).model.layers == 3
    config = build(Source((tmp_path,), "start"), [])
    assert (config.model.name, config.train.steps) == ("mine", 9)


def test_the_plan_shorthand() -> None:
    assert jobs(Source(), ["plan=a.yaml"], multirun=False) == [["plan.file=a.yaml"]]


def test_the_schema_is_the_config() -> None:
    composed = plain(compose(Source(), []))
    paths = {key.path for key in all_keys()}
    assert {path for path, _ in _leaves(composed, paths)} == paths
    assert all(key.path in paths for key in all_keys())
    assert paths >= AUTO_KEYS


def test_schema_defaults_are_the_dataclasses_own() -> None:
    given = plain(compose(Source(), []))
    required = {section: given[section] for section in ("cluster", "model", "data")}
    bare = dump(load(required))
    optional = {key.path: key.default for key in all_keys() if key.default != MISSING}
    for path, default in optional.items():
        if path.split(".")[0] not in required:
            assert _at(bare, path) == default == _at(defaults(), path)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_a_config_survives_its_own_yaml(data: st.DataObject) -> None:
    choices = {
        group: data.draw(st.sampled_from(names), label=group)
        for group, names in groups().items()
        if group not in ("experiment", "cluster/device")
    }
    config = build(Source(), [f"{group}={choice}" for group, choice in choices.items()])
    assert load(dump(config)) == config


@given(st.lists(st.integers(1, 3), min_size=1, max_size=3))
def test_a_sweep_is_the_product_of_its_axes(sizes: list[int]) -> None:
    keys = ("train.steps", "train.seed", "model.layers")[: len(sizes)]
    axes = [[f"{key}={n}" for n in range(1, size + 1)] for key, size in zip(keys, sizes, strict=True)]
    typed = [f"{key}={','.join(map(str, range(1, size + 1)))}" for key, size in zip(keys, sizes, strict=True)]
    assert jobs(Source(), typed, multirun=True) == [list(job) for job in itertools.product(*axes)]


def test_composition_leaves_no_state_behind() -> None:
    first: Config = build(Source(), ["model=gpt2_124m"])
    build(Source(), ["model=llama3_8b", "precision=fp64"])
    assert build(Source(), ["model=gpt2_124m"]) == first


def _leaves(tree: object, stop: set[str], path: str = "") -> list[tuple[str, object]]:
    if path in stop or not isinstance(tree, dict):
        return [(path, tree)]
    return [leaf for key, value in tree.items() for leaf in _leaves(value, stop, f"{path}.{key}".lstrip("."))]


def _at(tree: object, path: str) -> object:
    for part in path.split("."):
        assert isinstance(tree, dict)
        tree = tree[part]
    return tree


@pytest.mark.parametrize(
    ("typed", "path", "value"),
    [
        ("launcher.time=24:00:00", "time", "24:00:00"),
        ("launcher.nodelist=node3,node[07-09]", "nodelist", "node3,node[07-09]"),
        ("launcher.constraint=h100&nvlink", "constraint", "h100&nvlink"),
        (
            "launcher.container=nvcr.io#nvidia/pytorch:25.01-py3",
            "container",
            "nvcr.io#nvidia/pytorch:25.01-py3",
        ),
        ('launcher.extra=["--mail-type=END"]', "extra", ("--mail-type=END",)),
        ("launcher.env.NCCL_DEBUG=INFO", "env", {"NCCL_DEBUG": "INFO"}),
        ("launcher.env.NCCL_IB_HCA=mlx5_0,mlx5_1", "env", {"NCCL_IB_HCA": "mlx5_0,mlx5_1"}),
        ('launcher.env.SAID=it\'s "x"', "env", {"SAID": 'it\'s "x"'}),
    ],
)
def test_what_slurm_takes_can_be_typed_as_it_is(typed: str, path: str, value: object) -> None:
    (overrides,) = jobs(Source(), [typed], multirun=False)
    assert getattr(build(Source(), overrides).launcher, path) == value
