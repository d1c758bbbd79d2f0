"""Branch and bound finds what looking at every layout finds, and its bounds are bounds."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from orchestrate.config import Config
from orchestrate.plan.choice import pinned
from orchestrate.plan.search.branch_and_bound import (
    SLOWER,
    SLOWER_BY_BOUND,
    TOO_LARGE,
    TOO_RISKY,
    Progress,
    Search,
)
from orchestrate.plan.search.candidate import Candidate, peak, running_out
from orchestrate.plan.search.rules import first_violation
from orchestrate.plan.search.search import prepare
from orchestrate.plan.search.space import LEVELS
from orchestrate.topology.cluster import build_cluster
from tests.unit.plan_cases import make_config

LAYOUTS = {SLOWER, SLOWER_BY_BOUND, TOO_LARGE, TOO_RISKY}
"""Reasons that count complete layouts; rules also turn down partial ones."""
RULES = (
    "fewer layers than stages",
    "too few micro-batches",
    "micro-batches do not make whole rounds",
    "DeepSpeed's ZeRO-2 and 3 cannot pipeline",
    "vpp does not suit the schedule",
    "the schedule needs a pipeline",
    "the batch does not divide",
    "tp ",
    "cp ",
)


def every(search: Search) -> list[Candidate]:
    """All layouts of the space, whether they fit or not."""
    layouts = map(search.space.layout, search.space.leaves())
    return [search.models.candidate(layout, search.models.memory(layout)) for layout in layouts]


CONFIGS = st.builds(
    lambda cluster, model, sizes: make_config(cluster, model, **sizes),
    cluster=st.sampled_from(["dgx_h100", "dgx_a100", "two_node_cpu"]),
    model=st.sampled_from(["gpt_tiny", "gpt3_1p3b", "gpt3_6p7b", "llama3_8b"]),
    sizes=st.fixed_dictionaries(
        {
            "cluster.nodes": st.sampled_from([1, 2, 3]),
            "cluster.gpus_per_node": st.sampled_from([2, 4]),
            # Cards that hold some of the layouts, all of them, or none.
            "cluster.device.memory_gib": st.sampled_from([2.5, 4.0, 6.0, 10.0, 20.0, 80.0]),
            "train.global_batch": st.sampled_from([6, 8, 24]),
            "model.layers": st.sampled_from([4, 6, 7]),
            "zero.engine": st.sampled_from(["deepspeed", "fsdp2"]),
            "precision.dtype": st.sampled_from(["bf16", "fp32"]),
        },
        optional={
            "parallel.cp": st.just("auto"),
            "parallel.micro_batch": st.sampled_from([1, 2]),
            "parallel.schedule": st.sampled_from(["gpipe", "1f1b", "interleaved", "zbv"]),
            "zero.stage": st.sampled_from([0, 1]),
            "recompute.mode": st.sampled_from(["none", "selective", "full"]),
            "parallel.sequence_parallel": st.booleans(),
        },
    ),
)


def small(config: Config) -> Search:
    cluster = build_cluster(config.cluster)
    start = pinned(config, cluster.world)
    assume(first_violation(config, cluster, start) is None)
    search = prepare(config, cluster, start)
    assume(0 < search.space.size <= 400)
    return search


@settings(max_examples=60)
@given(config=CONFIGS, wanted=st.sampled_from([1, 3, 8]))
def test_finds_what_looking_at_every_layout_finds(config: Config, wanted: int) -> None:
    search = small(config)
    fitting = [c for c in every(search) if peak(c.memory).fits and running_out(c.memory) <= search.risk]
    best = sorted(fitting, key=lambda candidate: candidate.preference)[:wanted]
    assert search.fastest(wanted) == best


@settings(max_examples=60)
@given(config=CONFIGS, wanted=st.sampled_from([1, 8]))
def test_every_layout_is_counted_once(config: Config, wanted: int) -> None:
    search = small(config)
    found = search.fastest(wanted)
    whole = [r for r in search.tally.rejections() if r.reason in LAYOUTS]
    assert sum(rejection.layouts for rejection in whole) + min(1, len(found)) == search.space.size
    partial = [r for r in search.tally.rejections() if r.reason not in LAYOUTS]
    assert all(rejection.reason.startswith(RULES) for rejection in partial)


# FSDP's stage 3 keeps no weights beside the masters, which many layers make more than its buffers.
MANY_LAYERS = make_config(
    "dgx_h100",
    "gpt3_1p3b",
    **{
        "cluster.gpus_per_node": 2,
        "train.global_batch": 2,
        "model.layers": 48,
        "model.vocab": 1024,
        "model.seq": 256,
        "parallel.tp": 1,
        "parallel.dp": 2,
        "zero.engine": "fsdp2",
    },
)


@settings(max_examples=60)
@example(config=MANY_LAYERS)
@given(config=CONFIGS)
def test_no_layout_takes_less_than_its_bounds(config: Config) -> None:
    search = small(config)
    for leaf in search.space.leaves():
        layout = search.space.layout(leaf)
        fullest = peak(search.models.memory(layout)).total
        step = search.models.time(layout).step
        assert search.models.least(layout) <= step * (1 + 1e-9)
        node = leaf
        for level in reversed(LEVELS):
            assert search.bounds.seconds(node) <= step, (node, layout)
            assert search.bounds.bytes(node) <= fullest, (node, layout)
            node = node._replace(**dict.fromkeys(level))


@settings(max_examples=30)
@given(config=CONFIGS)
def test_leanest_is_the_least_of_all(config: Config) -> None:
    search = small(config)
    found = search.leanest()
    assert found is not None
    assert found[1].total == min(peak(candidate.memory).total for candidate in every(search))


def test_bounds_leave_most_layouts_unopened() -> None:
    config = make_config("dgx_a100", "gpt3_13b", **{"cluster.nodes": 4, "train.global_batch": 256})
    search = prepare(config, build_cluster(config.cluster), pinned(config, 32))
    search.fastest(1)
    counts = {rejection.reason: rejection.layouts for rejection in search.tally.rejections()}
    assert counts[SLOWER_BY_BOUND] > 20 * counts.get(SLOWER, 1)


def test_progress_is_reported() -> None:
    heard: list[Progress] = []
    config = make_config("dgx_a100", "gpt3_13b", **{"cluster.nodes": 4, "train.global_batch": 256})
    search = replace(prepare(config, build_cluster(config.cluster), pinned(config, 32)), report=heard.append)
    best = search.fastest(1)[0]
    assert len(heard) >= 2
    assert heard[0].best is None
    assert heard[-1].best == best.time.step
    assert [step.nodes for step in heard] == sorted(step.nodes for step in heard)
