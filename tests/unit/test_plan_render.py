"""A plan as tables and as JSON."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from orchestrate.config import DType
from orchestrate.plan.plan import Plan
from orchestrate.plan.search.search import search
from orchestrate.plan.shown.as_json import plan_json
from orchestrate.plan.shown.tables import render_plan
from tests.unit.plan_cases import make_config

CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "quickstart": (
        "two_node_cpu",
        "gpt_tiny",
        {"parallel.tp": 2, "parallel.pp": 2, "precision.dtype": "fp32", "train.global_batch": 16},
    ),
    "one device": ("local_cpu", "gpt_tiny", {"cluster.gpus_per_node": 1}),
    "interleaved": ("dgx_h100", "gpt3_1p3b", {"parallel.pp": 4, "parallel.schedule": "interleaved"}),
    "large": ("dgx_a100", "gpt3_175b", {"cluster.nodes": 64, "train.global_batch": 1536}),
}


@pytest.fixture(params=CASES, scope="module")
def plan(request: pytest.FixtureRequest) -> Plan:
    cluster, model, overrides = CASES[request.param]
    return search(make_config(cluster, model, **overrides))


def printed(plan: Plan, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(render_plan(plan))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_tables_fit_a_narrow_terminal_and_carry_no_colour_into_a_file(plan: Plan) -> None:
    text = printed(plan)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    assert "[bold]" not in text


def test_tables_say_what_was_decided(plan: Plan) -> None:
    text = printed(plan)
    for words in (
        "tensor parallel",
        "pipeline stages",
        "data parallel",
        "ZeRO stage",
        "recompute",
        "Predicted step",
    ):
        assert words in text
    assert all(name in text for name in plan.time.terms)
    assert f"{sum(rejection.layouts for rejection in plan.rejected):,} turned down" in text
    assert all(rejection.reason.split()[0] in text for rejection in plan.rejected)


def test_layout_names_context_parallelism_and_an_unusual_axis_order() -> None:
    pins = {"parallel.cp": 2, "parallel.tp": 2, "parallel.pp": 1, "parallel.order": ["tp", "dp", "cp", "pp"]}
    rows = printed(search(make_config("dgx_h100", "gpt3_1p3b", **pins, **{"train.global_batch": 8})))
    text = " ".join(rows.split())
    assert "context parallel 2" in text
    assert "axis order tp dp cp pp" in text
    assert "data parallel 2 the rest of 8 devices, 4 to a replica" in text
    assert "context parallel" not in printed(search(make_config("dgx_h100", "gpt3_1p3b")))


@pytest.mark.parametrize(
    ("layers", "pins", "told"),
    [
        (24, {"parallel.pp": 4, "parallel.stage_layers": [6, 6, 6, 6]}, "6 layers to each of 4 stages"),
        (24, {"parallel.pp": 4, "parallel.stage_layers": [7, 6, 6, 5]}, "layers by stage: 7 6 6 5"),
        (25, {"parallel.pp": 8, "parallel.vpp": 2}, "times 2, "),
    ],
)
def test_layout_says_how_many_layers_a_stage_has(layers: int, pins: dict[str, Any], told: str) -> None:
    schedule = "interleaved" if "parallel.vpp" in pins else "1f1b"
    pins = {"parallel.tp": 1, "parallel.schedule": schedule, "model.layers": layers, **pins}
    text = " ".join(printed(search(make_config("dgx_h100", "gpt3_1p3b", **pins))).split())
    assert told in text
    assert "1 replicas" not in text


def test_title_counts_nodes_of_several_kinds() -> None:
    groups = [{"nodes": 2, "gpus_per_node": 4}]
    text = printed(search(make_config("dgx_h100", "gpt3_1p3b", **{"cluster.groups": groups})))
    title = " ".join(text.split("Layout")[0].split())
    assert "3 nodes of H100 SXM 80 GB: 1 x 8 + 2 x 4" in title


def test_map_shows_every_rank_of_a_small_cluster() -> None:
    cluster, model, overrides = CASES["quickstart"]
    text = printed(search(make_config(cluster, model, **overrides)))
    rows = [line.split() for line in text.splitlines() if line.startswith("node")]
    assert [row[0] for row in rows] == ["node0", "node1"]
    cells = {tuple(row[i : i + 3]) for row in rows for i in range(1, len(row), 3)}
    assert cells == {(f"tp{t}", f"pp{p}", f"dp{d}") for t in (0, 1) for p in (0, 1) for d in (0, 1)}


def test_long_map_is_cut_in_the_middle() -> None:
    cluster, model, overrides = CASES["large"]
    text = printed(search(make_config(cluster, model, **overrides)))
    assert "node0 " in text
    assert "node63" in text
    assert "... 56 more" in text
    assert "node30" not in text


def test_json_is_plain_and_complete(plan: Plan) -> None:
    values = json.loads(json.dumps(plan_json(plan)))
    assert values["dims"]["tp"] == plan.dims.tp
    assert len(values["placement"]["devices"]) == plan.dims.world == values["derived"]["world"]
    assert values["derived"]["step_time_s"] == pytest.approx(plan.time.step)
    assert values["derived"]["memory_bytes"] == [estimate.total for estimate in plan.memory]
    assert values["derived"]["rejections"] == {r.reason: r.layouts for r in plan.rejected}
    assert len(values["rejected"]) == len(plan.rejected)


def test_json_has_what_the_search_found(plan: Plan) -> None:
    values = json.loads(json.dumps(plan_json(plan, DType.fp32, tokens=1e9)))
    assert values["derived"]["mfu"] > 0
    assert values["derived"]["training"]["days"] > 0
    assert values["explanation"] == list(plan.explanation)
    assert [other["name"] for other in values["alternatives"]] == [str(o.layout) for o in plan.alternatives]
    for other, written in zip(plan.alternatives, values["alternatives"], strict=True):
        assert written["derived"]["step_time_s"] == other.time.step
        assert written["time"]["terms"] == other.time.terms


def test_tables_rank_the_best_and_say_why(plan: Plan) -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(render_plan(plan, DType.fp32, tokens=1e9))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    squeezed = " ".join(text.split())
    assert "communication to computation" in squeezed
    assert "1B tokens take" in squeezed
    assert all(sentence in squeezed for sentence in plan.explanation)
    if plan.alternatives:
        rows = text.split("Loses most to")[1].split("Why this one")[0].splitlines()
        ranks = [line.split()[0] for line in rows if line.startswith("   ") and line[3:4].isdigit()]
        assert ranks == [str(rank) for rank in range(1, len(plan.alternatives) + 2)]
