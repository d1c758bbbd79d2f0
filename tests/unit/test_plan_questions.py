"""The planner asked the other way round, and asked why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from orchestrate.config import Ask, Config
from orchestrate.errors import ConfigError
from orchestrate.plan.plan import Plan
from orchestrate.plan.search.best_row import best_row, fits
from orchestrate.plan.search.candidate import running_out
from orchestrate.plan.search.questions import Survey, answer, on_nodes
from orchestrate.plan.search.search import search
from orchestrate.plan.search.why import Verdict, why
from orchestrate.topology.cluster import build_cluster
from tests.unit.plan_cases import make_config

SMALL: dict[str, Any] = {
    "cluster.nodes": 4,
    "cluster.gpus_per_node": 2,
    "cluster.device.memory_gib": 12,
    "train.global_batch": 16,
    "parallel.schedule": "1f1b",
    "parallel.micro_batch": 1,
}
WHY: dict[str, Any] = {"cluster.nodes": 2, "train.global_batch": 32}


def asked(ask: Ask, **overrides: Any) -> Survey:
    return answer(make_config("dgx_a100", "gpt3_1p3b", **{**SMALL, **overrides}), ask)


def test_fewest_gpus_fit_and_fewer_do_not() -> None:
    config = make_config("dgx_a100", "gpt3_1p3b", **{**SMALL, "cluster.gpus_per_node": 1, "cluster.nodes": 1})
    (row,) = answer(config, Ask.fewest_gpus).rows
    assert row.layout is not None
    assert row.risk is not None
    assert row.risk <= config.plan.risk
    assert row.nodes > 1
    assert not any(fits(on_nodes(config, nodes)) for nodes in range(1, row.nodes))


def test_fewest_gpus_may_be_a_part_of_one_node() -> None:
    sizes = {**SMALL, "cluster.nodes": 1, "cluster.gpus_per_node": 8, "cluster.device.memory_gib": 80}
    config = make_config("dgx_a100", "gpt3_1p3b", **sizes)
    (row,) = (told := answer(config, Ask.fewest_gpus)).rows
    assert (row.nodes, row.devices) == (1, 1)
    assert "1 x A100" in told.sentences[0]
    assert "a part of one node of 8" in told.sentences[0]


def test_longest_sequence_fits_and_a_longer_one_does_not() -> None:
    told = asked(Ask.longest_sequence)
    longest = told.rows[-1].sequence
    assert f"{longest:,} tokens" in told.sentences[0]
    config = make_config("dgx_a100", "gpt3_1p3b", **SMALL, **{"model.seq": longest})
    assert fits(config)
    assert not fits(replace(config, model=replace(config.model, seq=longest + 1024)))
    assert "cp pinned to 1: parallel.cp=auto" in told.sentences[0]
    lengths = [row.sequence for row in told.rows]
    assert lengths == sorted(lengths)
    assert 2048 in lengths


def test_largest_model_fits_and_one_layer_more_does_not() -> None:
    told = asked(Ask.largest_model)
    most = told.rows[-1].layers
    config = make_config("dgx_a100", "gpt3_1p3b", **SMALL, **{"model.layers": most})
    assert fits(config)
    assert not fits(replace(config, model=replace(config.model, layers=most + 1)))
    assert told.rows[-1].parameters > told.rows[0].parameters


def test_largest_model_starts_at_a_layer_for_each_pinned_stage() -> None:
    told = asked(Ask.largest_model, **{"parallel.pp": 4, "parallel.tp": 1, "model.hidden": 4096})
    assert told.rows[-1].layers >= 4
    assert min(row.layers for row in told.rows) >= 4
    with pytest.raises(ConfigError, match=r"train.global_batch=16 is not divisible by dp 1 x micro_batch 3"):
        asked(Ask.largest_model, **{"parallel.pp": 4, "parallel.tp": 2, "parallel.micro_batch": 3})


@pytest.mark.parametrize("ask", [Ask.fewest_gpus, Ask.scaling, Ask.lost_nodes])
def test_numbers_of_nodes_of_several_kinds_are_not_guessed_at(ask: Ask) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.groups names other kinds") as caught:
        asked(ask, **{"cluster.nodes": 1, "cluster.groups": [{"nodes": 3, "gpus_per_node": 4}]})
    assert "\n" not in str(caught.value)


def test_scaling_gives_the_best_plan_of_each_number_of_nodes() -> None:
    told = asked(Ask.scaling, **{"cluster.nodes": 6, "train.global_batch": 24})
    assert [row.nodes for row in told.rows] == [1, 2, 4, 6]
    config = make_config("dgx_a100", "gpt3_1p3b", **{**SMALL, "cluster.nodes": 2, "train.global_batch": 24})
    plan = search(config)
    assert told.rows[1].layout == str(plan.layout)
    assert told.rows[1].step_s == plan.time.step
    assert told.rows[1].risk == running_out(plan.memory)
    first, *rest = (row for row in told.rows if row.efficiency is not None)
    assert first.efficiency == 1.0
    for row in rest:
        assert row.tokens_per_s is not None
        assert first.tokens_per_s is not None
        each = row.tokens_per_s / row.devices
        assert row.efficiency == pytest.approx(each / (first.tokens_per_s / first.devices))


def test_sizes_that_nothing_fits_stay_in_the_curve() -> None:
    told = answer(
        make_config(
            "dgx_h100",
            "llama3_70b",
            **{"cluster.nodes": 8, "train.global_batch": 64, "parallel.schedule": "1f1b"},
        ),
        Ask.scaling,
    )
    assert told.rows[0].layout is None
    assert told.rows[0].step_s is None
    assert told.rows[-1].layout is not None


def test_lost_nodes_leave_the_best_of_what_is_left() -> None:
    told = asked(Ask.lost_nodes, **{"plan.lost_nodes": 1})
    before, *left = told.rows
    assert before.nodes == 4
    assert [row.nodes for row in left] == list(range(3, 3 - len(left), -1))
    speeds = {row.nodes: row.tokens_per_s for row in left if row.tokens_per_s}
    best = max(speeds, key=lambda nodes: speeds[nodes])
    assert f"{best} nodes do best" in told.sentences[0]
    assert ("idle" in told.sentences[0]) == (best < 3)


@pytest.mark.parametrize(
    ("ask", "overrides", "said"),
    [
        (Ask.lost_nodes, {"plan.lost_nodes": 4}, "plan.lost_nodes=4: the cluster has 4, so at most 3"),
        (Ask.largest_model, {"model.hidden": 400 * 1024, "model.ffn_hidden": 2**22}, "not even one layer"),
        (Ask.scaling, {"model.layers": 4000}, "plan.ask=fewest_gpus"),
        (Ask.longest_sequence, {"model.layers": 4000}, "does not fit at 1024 tokens"),
        (
            Ask.fewest_gpus,
            {"parallel.tp": 1, "parallel.pp": 1, "zero.stage": 0},
            "fits on no number of nodes up to",
        ),
    ],
)
def test_questions_without_an_answer_are_one_line(ask: Ask, overrides: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        asked(ask, **overrides)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def config() -> Config:
    return make_config("dgx_a100", "gpt3_6p7b", **WHY)


@pytest.fixture(scope="module")
def plan(config: Config) -> Plan:
    return search(config)


@pytest.fixture
def told_why(config: Config, plan: Plan) -> Callable[[str], Verdict]:
    return lambda words: why(config, plan.cluster, plan, words)


def test_why_not_gives_the_price_of_another_layout(
    config: Config, plan: Plan, told_why: Callable[[str], Verdict]
) -> None:
    tp = 1 if plan.dims.tp != 1 else 2
    told = told_why(f"tp={tp}")
    assert told.best is not None
    assert told.best.layout.dims.tp == tp
    pinned = make_config("dgx_a100", "gpt3_6p7b", **WHY, **{"parallel.tp": tp})
    assert told.best.time.step == search(pinned).time.step
    (sentence,) = told.sentences
    assert f"{told.best.time.step / plan.time.step - 1:.1%} longer" in sentence
    assert f"tp {tp} instead of {plan.dims.tp}" in sentence


def test_why_not_names_the_rule_and_what_it_saves(plan: Plan, told_why: Callable[[str], Verdict]) -> None:
    told = told_why("tp=16")
    assert "parallel.tp=16 is larger than the NVLink domain of 8" in told.sentences[0]
    assert told.best is not None, "it can still be said what it would cost"
    assert told.best.time.step > plan.time.step
    forbidden = told_why("tp=5")
    assert "nearest is parallel.tp=4" in forbidden.sentences[0]
    assert forbidden.best is None


def test_why_not_says_how_much_memory_is_missing(told_why: Callable[[str], Verdict]) -> None:
    told = told_why("tp=1,pp=1,zero=0,recompute=full")
    assert told.best is None
    assert "fits the memory: even the leanest" in told.sentences[0]
    assert "of 80.0 GiB" in told.sentences[0]


def test_the_plan_itself_may_be_asked_about(
    config: Config, plan: Plan, told_why: Callable[[str], Verdict]
) -> None:
    for words in (str(plan.layout), f"tp={plan.dims.tp}"):
        told = told_why(words)
        assert told.best is not None
        assert told.best.layout == plan.layout
        assert "is what the plan does" in told.sentences[0]


def test_every_alternative_may_be_asked_about_by_its_name(
    plan: Plan, told_why: Callable[[str], Verdict]
) -> None:
    for other in plan.alternatives:
        told = told_why(str(other.layout))
        assert told.best is not None
        assert told.best.layout == other.layout


def test_pinned_degrees_give_way_to_what_is_asked() -> None:
    pins = {"parallel.tp": 2, "parallel.pp": 2, "parallel.dp": 8}
    config = make_config("dgx_a100", "gpt3_1p3b", **{"cluster.nodes": 4, "train.global_batch": 32}, **pins)
    told = why(config, build_cluster(config.cluster), search(config), "tp=4")
    assert told.best is not None
    assert (told.best.layout.dims.tp, told.best.layout.dims.pp, told.best.layout.dims.dp) == (4, 2, 4)


def test_other_degrees_give_way_to_context_parallelism() -> None:
    pins = {"parallel.tp": 2, "parallel.pp": 1, "parallel.dp": 4}
    config = make_config("dgx_a100", "gpt3_1p3b", **{"train.global_batch": 32}, **pins)
    told = why(config, build_cluster(config.cluster), search(config), "cp=2")
    assert told.best is not None
    dims = told.best.layout.dims
    assert (dims.tp, dims.cp, dims.pp, dims.dp) == (2, 2, 1, 2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("pt=3", "did you mean tp"),
        ("tp=x", "whole number"),
        ("tp", "whole number"),
        ("schedule=1f2b", "did you mean 1f1b"),
        ("recompute=ful", "did you mean full"),
        ("zero=2-deepsped", "did you mean deepspeed"),
        ("sp=7", "choices: true, false"),
        (" ,", "plan.why is empty"),
        ("colour=red", "there is no choice 'colour'"),
    ],
)
def test_a_question_that_makes_no_sense_is_one_line(
    told_why: Callable[[str], Verdict], words: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        told_why(words)
    assert "\n" not in str(caught.value)


def test_rows_of_what_cannot_be_are_empty() -> None:
    row = best_row(make_config("dgx_a100", "gpt3_1p3b", **SMALL, **{"parallel.tp": 5}))
    assert row.layout is None
    assert row.devices == 8
