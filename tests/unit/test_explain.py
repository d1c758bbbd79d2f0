"""The sentences that explain a plan say what its numbers say."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from orchestrate.config import DType
from orchestrate.plan.placement.arrangement import Reaches
from orchestrate.plan.plan import Plan, TimeEstimate
from orchestrate.plan.search.candidate import Candidate
from orchestrate.plan.search.explain import limit
from orchestrate.plan.search.search import search
from orchestrate.plan.shown.figures import budget, plan_figures
from orchestrate.plan.units import chance, count, gib, seconds
from tests.unit.plan_cases import make_config


def planned(cluster: str, model: str, **overrides: Any) -> Plan:
    return search(make_config(cluster, model, **overrides))


@pytest.fixture(scope="module")
def plan() -> Plan:
    sizes = {"cluster.nodes": 8, "train.global_batch": 256, "parallel.tp": 8, "parallel.pp": 8}
    return planned("dgx_a100", "gpt3_175b", **sizes, **{"model.layers": 48})


@pytest.fixture(scope="module")
def small() -> Plan:
    """Two stages of two layers on four A100 (312 TFLOP/s), whose time is made up."""
    pins = {"parallel.tp": 1, "parallel.pp": 2, "parallel.dp": 2, "parallel.micro_batch": 1}
    again = {"recompute.mode": "full", "recompute.layers": 1, "parallel.schedule": "1f1b"}
    sizes = {"cluster.nodes": 2, "cluster.gpus_per_node": 2, "train.global_batch": 8}
    terms = {
        "compute": 5.0,
        "recompute": 1.0,
        "bubble": 2.5,
        "pp communication": 0.96,
        "dp communication": 0.24,
        "fixed": 0.26,
        "optimizer": 0.04,
    }
    plan = planned("dgx_a100", "gpt_tiny", **pins, **again, **sizes)
    return replace(plan, time=TimeEstimate(terms, busy=(6.0, 8.0)))


@pytest.mark.parametrize(
    ("order", "across"),
    [(("pp", "tp", "cp", "dp"), "inside a fast-link domain"), (("tp", "cp", "dp", "pp"), "over the network")],
)
def test_where_the_step_goes(small: Plan, order: tuple[str, ...], across: str) -> None:
    dims = replace(small.dims, order=order)
    reach = Reaches(small.cluster, small.cluster.nodes).of(dims)
    layout = replace(small.layout, dims=dims)
    assert limit(Candidate(layout, small.stages, small.memory, small.time), reach) == (
        "A step takes 10.0 s, of which 50% is the model's own compute. Next comes the pipeline's bubble: "
        "2 stages fill and drain around 4 micro-batches (25.0%); then computing activations again (10.0%), "
        f"and handing activations and their gradients from stage to stage {across} (9.6%)."
    )


def test_what_memory_holds_and_risks(plan: Plan) -> None:
    second = plan.explanation[1]
    fullest = max(plan.memory, key=lambda estimate: estimate.total)
    assert f"{gib(fullest.total)} of 80.0 GiB" in second
    largest = max(fullest.terms, key=fullest.terms.__getitem__)
    assert f"{largest} ({gib(fullest.terms[largest])} GiB)" in second
    assert chance(fullest.probability_of_running_out) in second


def test_what_the_runner_up_loses(plan: Plan) -> None:
    runner_up = plan.alternatives[0]
    last = next(sentence for sentence in plan.explanation if sentence.startswith("The runner-up"))
    assert last.startswith(f"The runner-up ({runner_up.layout}) takes {seconds(runner_up.time.step)}")
    changes = {
        name: runner_up.time.terms.get(name, 0.0) - plan.time.terms.get(name, 0.0)
        for name in {*plan.time.terms, *runner_up.time.terms}
    }
    worst = max(changes, key=changes.__getitem__)
    assert f"{seconds(changes[worst])} more {worst}" in last


def test_ties_are_told_apart_from_what_is_slower() -> None:
    plan = planned("two_node_cpu", "gpt_tiny", **{"precision.dtype": "fp32"})
    steps = [other.time.step / plan.time.step - 1 for other in plan.alternatives]
    tied = steps[0] < 5e-4 < steps[-1]
    assert (len([s for s in plan.explanation if s.startswith("The first that is slower")]) == 1) == tied


def test_memory_that_is_paid_for_by_recomputation_is_said() -> None:
    plan = planned("dgx_a100", "gpt3_13b", **{"train.global_batch": 64, "recompute.mode": "full"})
    told = " ".join(plan.explanation)
    assert "Recomputation takes" in told
    sure = planned("dgx_a100", "gpt3_13b", **{"train.global_batch": 64, "recompute.mode": "none"})
    assert "Recomputation takes" not in " ".join(sure.explanation)


def test_a_plan_without_a_safe_layout_warns() -> None:
    sizes = {"cluster.gpus_per_node": 8, "train.global_batch": 64, "plan.risk": 1e-12}
    pins = {"parallel.tp": 8, "parallel.pp": 1, "zero.stage": 1, "recompute.mode": "none"}
    # The leanest such layout takes 36.8 GiB.
    plan = planned("dgx_a100", "gpt3_13b", **sizes, **pins, **{"cluster.device.memory_gib": 40})
    risk = max(estimate.probability_of_running_out for estimate in plan.memory)
    assert risk > 1e-12
    assert "No layout stays below plan.risk=1e-12" in " ".join(plan.explanation)


def test_sentences_are_sentences(plan: Plan) -> None:
    for sentence in plan.explanation:
        assert re.fullmatch(r"[A-Z].*\.", sentence)
        assert "\n" not in sentence
        assert "  " not in sentence
        assert "None" not in sentence


def test_figures_follow_from_the_step(small: Plan) -> None:
    these = plan_figures(small, DType.bf16)
    # 8 sequences of 128 tokens in 10 s.
    assert these.tokens_per_s == pytest.approx(102.4)
    # Of a token forward a layer does 2 x 12 x 128^2 in its matrices and 4 x 128 x 128 in attention, four of
    # them and a head of 2 x 128 x 257 do 1,900,800; three times that with the way back.
    assert these.mfu == pytest.approx(3 * 1_900_800 * 102.4 / (4 * 312e12))
    # One layer of either stage is done again.
    assert these.hfu == pytest.approx((3 * 1_900_800 + 2 * 458_752) * 102.4 / (4 * 312e12))
    assert these.shard_efficiency == pytest.approx(7 / 8)
    assert these.communication_to_computation == pytest.approx(1.2 / 6)


def test_recomputation_counts_for_the_hardware_alone() -> None:
    sizes = {"train.global_batch": 64, "parallel.tp": 8}
    plan = planned("dgx_a100", "gpt3_13b", **sizes, **{"recompute.mode": "full"})
    these = plan_figures(plan, DType.bf16)
    # A layer's forward pass four times over instead of three, but for the head.
    assert 1.28 < these.hfu / these.mfu < 4 / 3
    kept = plan_figures(planned("dgx_a100", "gpt3_13b", **sizes, **{"recompute.mode": "none"}), DType.bf16)
    assert kept.hfu == kept.mfu


def test_a_budget_of_tokens_in_days_and_money() -> None:
    sizes = {"train.global_batch": 64, "cluster.device.price_per_hour": 2.5}
    plan = planned("dgx_a100", "gpt3_13b", **sizes)
    whole = budget(plan, 3e11)
    speed = plan_figures(plan, DType.bf16).tokens_per_s
    assert whole.days == pytest.approx(3e11 / speed / 86400)
    assert whole.cost == pytest.approx(whole.days * 24 * 8 * 2.5)
    assert budget(planned("dgx_h100", "gpt3_13b", **{"train.global_batch": 64}), 1e9).cost is None


def test_numbers_as_people_write_them() -> None:
    assert [seconds(s) for s in (34.93, 0.00166)] == ["34.9 s", "1.66 ms"]
    assert [seconds(s) for s in (4.0, 75.01, 153.2, 1e-5)] == ["4.00 s", "75.0 s", "153 s", "10.0 µs"]
    assert [seconds(s) for s in (0.9996, 0.9994, 9.996e-4, 1234.5)] == [
        "1.00 s",
        "999 ms",
        "1.00 ms",
        "1,234 s",
    ]
    assert [count(n) for n in (12, 8540, 1.75e11, 2e12)] == ["12", "8.54k", "175B", "2T"]
    assert [gib(size * 2**30) for size in (71.26, 0.371)] == ["71.3", "0.37"]
    assert [chance(p) for p in (1e-9, 0.0131)] == ["<0.1%", "1.3%"]
