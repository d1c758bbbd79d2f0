"""Searching for a plan: it obeys every rule, keeps what is pinned, fits, and says why not the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrate.config import Recompute, Schedule, ZeroBackend
from orchestrate.errors import ConfigError
from orchestrate.plan import plan as plans
from orchestrate.plan.placement.place import require_tp_inside_domains
from orchestrate.plan.plan import Plan
from orchestrate.plan.search.candidate import running_out
from orchestrate.plan.search.search import search
from tests.unit.plan_cases import make_config

QUICKSTART: dict[str, Any] = {
    "parallel.tp": 2,
    "parallel.pp": 2,
    "parallel.dp": 2,
    "parallel.schedule": "1f1b",
    "parallel.sequence_parallel": True,
    "zero.stage": 1,
    "recompute.mode": "selective",
    "precision.dtype": "fp32",
    "train.global_batch": 16,
}


def assert_sound(plan: Plan) -> None:
    """What holds of every plan."""
    dims = plan.dims
    assert dims.world == plan.cluster.world
    assert sorted(plan.placement.devices) == sorted(plan.cluster.devices)
    assert plan.global_batch == plan.micro_batch * plan.micro_batches * dims.dp
    assert plan.model.heads % dims.tp == 0
    assert [stage.first for stage in plan.stages] == [0, *(stage.last for stage in plan.stages[:-1])]
    assert plan.stages[-1].last == plan.model.layers
    assert min(map(len, plan.stages)) >= 1
    assert len(plan.memory) == dims.pp
    assert all(estimate.fits for estimate in plan.memory)
    assert plan.time.step > 0
    require_tp_inside_domains(plan.cluster, dims, plan.placement)
    if plan.schedule is Schedule.one_f_one_b:
        assert plan.micro_batches >= dims.pp
    assert not (plan.zero_stage > 1 and plan.zero_engine is ZeroBackend.deepspeed and dims.pp > 1)


def test_quickstart_is_planned_as_pinned() -> None:
    plan = search(make_config("two_node_cpu", "gpt_tiny", **QUICKSTART))
    assert_sound(plan)
    assert (plan.dims.tp, plan.dims.pp, plan.dims.dp, plan.dims.vpp) == (2, 2, 2, 1)
    assert plan.schedule is Schedule.one_f_one_b
    assert plan.sequence_parallel
    assert plan.recompute_mode is Recompute.selective
    assert [len(stage) for stage in plan.stages] == [2, 2]
    hosts = {device.host for device in plan.placement.devices[:4]}
    assert hosts == {"node0"}, "the first stage's two replicas fill the first node"


@settings(max_examples=60)
@given(
    nodes=st.sampled_from([1, 2, 3, 4, 8]),
    gpus=st.sampled_from([1, 2, 4, 6, 8]),
    model=st.sampled_from(["gpt_tiny", "gpt2_124m", "gpt3_1p3b", "llama3_8b"]),
    batch=st.sampled_from([24, 96, 480]),
    pins=st.fixed_dictionaries(
        {},
        optional={
            "parallel.tp": st.sampled_from([1, 2, 4]),
            "parallel.pp": st.sampled_from([1, 2, 4]),
            "parallel.dp": st.sampled_from([1, 2, 6]),
            "parallel.micro_batch": st.sampled_from([1, 2, 3]),
            "parallel.schedule": st.sampled_from(["gpipe", "1f1b", "interleaved", "zbv"]),
            "parallel.sequence_parallel": st.booleans(),
            "zero.stage": st.integers(0, 3),
            "recompute.mode": st.sampled_from(["none", "selective", "full"]),
        },
    ),
)
def test_any_config_gives_a_sound_plan_or_one_line(
    nodes: int, gpus: int, model: str, batch: int, pins: dict[str, Any]
) -> None:
    sizes = {"cluster.nodes": nodes, "cluster.gpus_per_node": gpus, "train.global_batch": batch}
    config = make_config("dgx_h100", model, **sizes, **pins)
    try:
        plan = search(config)
    except ConfigError as error:
        told = str(error)
    else:
        assert_as_pinned(plan, pins)
        return
    assert "\n" not in told


def assert_as_pinned(plan: Plan, pins: dict[str, Any]) -> None:
    """That ``plan`` is sound, keeps ``pins`` and explains the rest."""
    assert_sound(plan)
    kept = {
        "parallel.tp": plan.dims.tp,
        "parallel.pp": plan.dims.pp,
        "parallel.dp": plan.dims.dp,
        "parallel.micro_batch": plan.micro_batch,
        "parallel.schedule": plan.schedule.value,
        "parallel.sequence_parallel": plan.sequence_parallel,
        "zero.stage": plan.zero_stage,
        "recompute.mode": plan.recompute_mode.value,
    }
    if plan.dims.tp == 1:
        pins = {**pins, "parallel.sequence_parallel": False}
    assert kept | pins == kept
    if "zero.stage" not in pins and plan.dims.dp == 1:
        assert plan.zero_stage == 0
    for rejection in plan.rejected:
        assert rejection.layout
        assert rejection.reason
        assert rejection.detail
        assert rejection.layouts >= 1
    reasons = [rejection.reason for rejection in plan.rejected]
    assert len(set(reasons)) == len(reasons), "one line for each reason"
    steps = [plan.time.step, *(other.time.step for other in plan.alternatives)]
    assert steps == sorted(steps)
    assert len(steps) <= 8


def test_chosen_plan_is_safe_and_its_runner_up_is_named() -> None:
    plan = search(make_config("dgx_a100", "gpt3_13b", **{"cluster.nodes": 4, "train.global_batch": 256}))
    assert_sound(plan)
    assert running_out(plan.memory) <= 0.05
    slower = next(r for r in plan.rejected if r.reason == "slower")
    runner_up = plan.alternatives[0]
    assert slower.layout == str(runner_up.layout)
    assert f"{runner_up.time.step:.3g} s a step" in slower.detail
    assert len(plan.alternatives) == 7


def test_plan_is_the_same_every_time() -> None:
    config = make_config("dgx_a100", "gpt3_13b", **{"cluster.nodes": 4, "train.global_batch": 256})
    assert search(config) == search(config)


def test_reasons_name_what_each_layout_lacks() -> None:
    config = make_config("dgx_h100", "llama3_8b", **{"cluster.nodes": 2, "train.global_batch": 512})
    reasons = {rejection.reason for rejection in search(config).rejected}
    assert {
        "slower",
        "slower, by a bound",
        "does not fit the memory",
        "tp leaves the NVLink domain",
    } <= reasons


@pytest.mark.parametrize(
    ("pins", "schedules", "vpps"),
    [
        ({"parallel.schedule": "1f1b"}, {Schedule.one_f_one_b}, {1}),
        ({"parallel.schedule": "interleaved"}, {Schedule.interleaved}, {2, 3, 6}),
        ({"parallel.schedule": "zbv"}, {Schedule.zbv}, {2}),
        ({"parallel.vpp": 3}, {Schedule.interleaved}, {3}),
        ({"parallel.vpp": 1, "parallel.micro_batch": 8, "train.global_batch": 8}, {Schedule.gpipe}, {1}),
    ],
)
def test_schedule_left_open_suits_what_is_pinned(
    pins: dict[str, Any], schedules: set[Schedule], vpps: set[int]
) -> None:
    plan = search(make_config("dgx_h100", "gpt3_1p3b", **{"parallel.pp": 4, "parallel.tp": 2, **pins}))
    assert plan.schedule in schedules
    assert plan.dims.vpp in vpps


def test_schedule_that_needs_a_pipeline_gets_one() -> None:
    plan = search(make_config("dgx_h100", "gpt3_1p3b", **{"parallel.schedule": "zbv"}))
    assert plan.dims.pp > 1


def test_stage_layers_decide_the_stages() -> None:
    sizes = {"parallel.pp": 2, "parallel.stage_layers": [20, 12]}
    plan = search(make_config("dgx_h100", "llama3_8b", **sizes, **{"train.global_batch": 64}))
    assert [len(stage) for stage in plan.stages] == [20, 12]


def test_head_makes_the_last_stage_shorter() -> None:
    plan = search(make_config("dgx_h100", "gpt2_124m", **{"parallel.pp": 2, "parallel.vpp": 1}))
    first, last = map(len, plan.stages)
    assert last < first


def test_tp_may_exceed_the_key_value_heads() -> None:
    overrides = {"model.kv_heads": 2, "parallel.tp": 8, "train.global_batch": 8}
    assert search(make_config("dgx_h100", "llama3_8b", **overrides)).dims.tp == 8


def test_tp_across_nodes_only_where_it_is_allowed() -> None:
    wide = {"cluster.nodes": 2, "cluster.gpus_per_node": 4, "parallel.tp": 8}
    with pytest.raises(ConfigError, match="allow_tp_across_nodes=true"):
        search(make_config("dgx_h100", "llama3_8b", **wide))
    allowed = {**wide, "parallel.allow_tp_across_nodes": True}
    assert search(make_config("dgx_h100", "llama3_8b", **allowed)).dims.tp == 8


def test_axis_order_that_breaks_up_tp_is_refused() -> None:
    order = {
        "cluster.nodes": 2,
        "parallel.tp": 2,
        "parallel.pp": 1,
        "parallel.order": ["dp", "cp", "tp", "pp"],
    }
    with pytest.raises(ConfigError, match="spans NVLink domains"):
        search(make_config("dgx_h100", "gpt3_1p3b", **order))


def test_model_that_fits_nowhere_says_what_would_hold_it() -> None:
    config = make_config("dgx_h100", "llama3_70b", **{"train.global_batch": 96})
    with pytest.raises(ConfigError) as caught:
        search(config)
    message = str(caught.value)
    assert "\n" not in message
    assert "llama3_70b does not fit on 8 x H100" in message
    assert "of 80.0 GiB" in message
    nodes = int(message.split("cluster.nodes=")[1].split()[0])
    plan = search(make_config("dgx_h100", "llama3_70b", **{"cluster.nodes": nodes, "train.global_batch": 96}))
    assert_sound(plan)


def test_model_that_no_number_of_nodes_holds_says_so() -> None:
    pins = {"parallel.tp": 1, "parallel.pp": 1, "zero.stage": 0, "train.global_batch": 2**16}
    with pytest.raises(ConfigError, match="no number of such nodes"):
        search(make_config("dgx_h100", "llama3_405b", **pins))


def test_no_layout_at_all_names_the_commonest_reason() -> None:
    with pytest.raises(ConfigError, match=r"no layout suits the 8 devices.*batch"):
        search(
            make_config(
                "dgx_h100", "gpt3_1p3b", **{"train.global_batch": 3, "parallel.pp": 1, "model.heads": 2}
            )
        )


def test_no_layout_at_all_names_the_smallest_change_that_would_make_one() -> None:
    with pytest.raises(ConfigError, match="the batch does not divide") as caught:
        search(make_config("dgx_h100", "llama3_8b", **{"cluster.nodes": 20000, "train.global_batch": 64}))
    told = str(caught.value)
    # 8 x 32 is the most that one replica can be cut, which leaves 625 of them.
    assert "nearest is train.global_batch=625" in told
    assert "\n" not in told


def test_more_nodes_are_counted_beside_other_kinds() -> None:
    small = {"nodes": 1, "gpus_per_node": 4}
    config = make_config("dgx_h100", "llama3_70b", **{"train.global_batch": 96, "cluster.groups": [small]})
    with pytest.raises(ConfigError, match=r"would hold it \(with cluster.groups as they are\)"):
        search(config)


def test_plan_survives_its_file(tmp_path: Path) -> None:
    plan = search(make_config("two_node_cpu", "gpt_tiny", **QUICKSTART))
    plans.save(plan, tmp_path / "plan.yaml")
    assert plans.load(tmp_path / "plan.yaml") == plan


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    plan = search(make_config("two_node_cpu", "gpt_tiny", **QUICKSTART))
    plans.save(plan, tmp_path / "plan.yaml")
    return tmp_path / "plan.yaml"


def test_plan_from_a_file_is_taken_as_it_is(plan_file: Path) -> None:
    again = {"train.global_batch": 16, "plan.file": str(plan_file)}
    assert search(make_config("two_node_cpu", "gpt_tiny", **again)) == plans.load(plan_file)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"cluster.nodes": 3}, "two_node_cpu of 2 x 4 devices, but the cluster is two_node_cpu of 3 x 4"),
        ({"model.layers": 8}, "another model"),
        ({"train.global_batch": 32}, "train.global_batch=16, but it is 32"),
    ],
)
def test_plan_for_something_else_is_refused(plan_file: Path, overrides: dict[str, Any], said: str) -> None:
    given = {"train.global_batch": 16, "plan.file": str(plan_file), **overrides}
    with pytest.raises(ConfigError, match=said):
        search(make_config("two_node_cpu", "gpt_tiny", **given))


@pytest.mark.parametrize(
    ("was", "becomes", "said"),
    [
        ("zero_stage: 1", "zero_stage: 3", "zero.stage=3"),
        ("{first: 2, last: 4}", "{first: 3, last: 4}", "layers 0 to 3 in order"),
        ("micro_batch: ", "micro: ", "is not a plan"),
        ("tp: 2", "tp: 3", "is not a plan"),
    ],
)
def test_plan_that_was_tampered_with_is_refused(plan_file: Path, was: str, becomes: str, said: str) -> None:
    text = plan_file.read_text()
    assert was in text
    plan_file.write_text(text.replace(was, becomes))
    with pytest.raises(ConfigError, match=said):
        search(
            make_config("two_node_cpu", "gpt_tiny", **{"train.global_batch": 16, "plan.file": str(plan_file)})
        )


@pytest.mark.parametrize("content", [None, "", "[1, 2", "just words", "a: 1"])
def test_file_that_is_no_plan_is_one_line(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "plan.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        plans.load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
