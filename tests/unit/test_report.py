"""The page of a plan, as text: what is drawn, folded, cut and escaped. tests/browser looks at it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrate.cli import main
from orchestrate.config import DType, Schedule
from orchestrate.plan import units
from orchestrate.plan.layout import ParallelDims
from orchestrate.plan.pipeline.actions import Kind
from orchestrate.plan.plan import Plan
from orchestrate.report import Report, ScalingPoint, drawing, html
from orchestrate.report import text as texts
from orchestrate.report.bars import memory_chart, time_chart
from orchestrate.report.boxes import Box
from orchestrate.report.cluster_map import MOST, Branch, cluster_map
from orchestrate.report.colours import of_group, of_step
from orchestrate.report.curve import TOP, curves
from orchestrate.report.headline import shares, tiles, turned_down
from orchestrate.report.pipeline import AFTER, GAP, LEFT, ROWS, picture
from tests.unit.plan_cases import preset
from tests.unit.report_cases import make_plan, make_report

SWITCHES = [{"nodes": 4, "oversubscription": 2.0}, {"nodes": 16, "oversubscription": 2.0}]


@pytest.fixture(scope="module")
def plan() -> Plan:
    overrides = {"cluster.nodes": 16, "cluster.switches": SWITCHES}
    return make_plan("dgx_h100", "gpt3_175b", ParallelDims(4, 1, 4, 8), 1536, **overrides)


@pytest.fixture(scope="module")
def report(plan: Plan) -> Report:
    return make_report(plan)


def nodes_below(branch: Branch) -> int:
    """Nodes drawn, each as often as it stands for others."""
    return sum(
        fold.times * (len(fold.part.nodes) if isinstance(fold.part, Box) else nodes_below(fold.part))
        for fold in branch.children
    )


def boxes(branch: Branch) -> Iterator[Box]:
    for fold in branch.children:
        if isinstance(fold.part, Box):
            yield fold.part
        else:
            yield from boxes(fold.part)


def test_the_page_loads_nothing_and_runs_its_own_script_alone(report: Report) -> None:
    page = html(report)
    assert not re.search(r"""(?:src|href)\s*=|url\((?!#)|https?://|@import""", page)
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in page
    assert page == html(report)


def test_sections_without_input_are_left_out(plan: Plan, report: Report) -> None:
    every = {"why", "cluster", "pipeline", "memory", "times", "scaling", "turned-down"}
    assert set(re.findall(r'<section id="([\w-]+)"', html(report))) == every
    bare = Report(replace(plan, rejected=(), memory=()), report.dtype)
    assert set(re.findall(r'<section id="([\w-]+)"', html(bare))) == {"why", "cluster"}


HOSTILE = "</title></style><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"


def test_names_are_text(plan: Plan, report: Report) -> None:
    node = replace(plan.cluster.nodes[0], host=HOSTILE)
    cluster = replace(
        plan.cluster,
        name=HOSTILE,
        nodes=(node, *plan.cluster.nodes[1:]),
        device=replace(plan.cluster.device, name=HOSTILE),
    )
    devices = tuple(
        replace(device, host=HOSTILE) if device.host == "node0" else device
        for device in plan.placement.devices
    )
    bad = replace(
        plan,
        cluster=cluster,
        model=replace(plan.model, name=HOSTILE),
        placement=replace(plan.placement, devices=devices),
        rejected=tuple(replace(r, layout=HOSTILE, reason=HOSTILE, detail=HOSTILE) for r in plan.rejected),
        memory=tuple(replace(e, terms={HOSTILE: e.total}) for e in plan.memory),
    )
    options = tuple(replace(option, layout=HOSTILE) for option in report.options)
    page = html(replace(report, plan=bad, why=(HOSTILE,), options=options))
    assert page.count("<script") == page.count("</script") == 1
    assert page.count("</style") == page.count("</title") == 1
    assert "<img" not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") > 10


def test_switches_hold_their_nodes(plan: Plan) -> None:
    drawn = cluster_map(plan)
    assert not drawn.folded
    assert [fold.part.title for fold in drawn.root.children if isinstance(fold.part, Branch)] == [
        "leaf 0",
        "leaf 1",
        "leaf 2",
        "leaf 3",
    ]
    leaf = drawn.root.children[1].part
    assert isinstance(leaf, Branch)
    assert leaf.leaf
    assert "2:1" in leaf.detail
    assert [box.title for box in boxes(leaf)] == ["node4", "node5", "node6", "node7"]


def test_nodes_hang_where_they_are_in_the_network() -> None:
    overrides = {
        "cluster.nodes": 4,
        "cluster.switches": [{"nodes": 2}],
        "cluster.positions": [0, 2, 1, 3],
    }
    drawn = cluster_map(make_plan("dgx_h100", "llama3_8b", ParallelDims(8, 1, 4, 1), 16, **overrides))
    assert [box.title for box in boxes(drawn.root)] == ["node0", "node2", "node1", "node3"]


def test_a_cell_says_where_it_is(plan: Plan) -> None:
    box = next(box for box in boxes(cluster_map(plan).root) if box.title == "node3")
    cell = box.cells[6]
    at = plan.dims.coordinates(30)
    assert cell.tip.splitlines()[0] == "node3:6 · rank 30"
    assert (cell.stage, cell.replica) == (at.pp, at.dp)
    assert f"tensor parallel {at.tp} of 4, group {cell.tp_group}" in cell.tip
    groups = [set(group) for group in plan.dims.groups("tp")]
    same = {
        int(re.search(r"rank (\d+)", c.tip)[1])  # type: ignore[index]
        for b in boxes(cluster_map(plan).root)
        for c in b.cells
        if c.tp_group == cell.tp_group
    }
    assert same in groups


@pytest.mark.parametrize(
    ("domain", "frames", "drawn"),
    [(8, 1, 2), (2, 4, 2), (16, 1, 1)],
    ids=["one domain a node", "pairs", "a domain of two nodes"],
)
def test_every_fast_link_domain_has_a_frame(domain: int, frames: int, drawn: int) -> None:
    overrides = {"cluster.nodes": 2, "cluster.nvlink_domain": domain}
    plan = make_plan("dgx_h100", "llama3_8b", ParallelDims(2, 1, 8, 1), 16, **overrides)
    found = list(boxes(cluster_map(plan).root))
    assert len(found) == drawn
    for box in found:
        assert len(box.frames) == frames
        corners = {(cell.x, cell.y) for cell in box.cells}
        assert len(corners) == len(box.cells) == 16 // drawn
        assert all(cell.x < box.width and cell.y < box.height for cell in box.cells)


def test_mixed_clusters_say_what_each_node_has() -> None:
    overrides = {
        "cluster.nodes": 1,
        "cluster.groups": [{"nodes": 1, "device": preset("cluster/device", "a100_80gb")}],
    }
    plan = make_plan("dgx_h100", "llama3_8b", ParallelDims(8, 1, 2, 1), 16, **overrides)
    assert [box.kind for box in boxes(cluster_map(plan).root)] == ["H100 SXM 80 GB", "A100 SXM 80 GB"]
    assert "A100 SXM 80 GB</span></figcaption>" in html(make_report(plan))


@settings(deadline=None, max_examples=25)
@given(
    stages=st.sampled_from([1, 2, 4, 16]),
    replicas=st.sampled_from([8, 12, 32]),
    leaf=st.sampled_from([0, 4, 16, 24]),
    order=st.permutations(["dp", "pp", "cp"]),
)
def test_folding_loses_no_node(stages: int, replicas: int, leaf: int, order: list[str]) -> None:
    dims = ParallelDims(8, 1, replicas, stages, order=("tp", *order))
    overrides = {"cluster.nodes": stages * replicas, "cluster.switches": [{"nodes": leaf}] if leaf else []}
    plan = make_plan("dgx_h100", "gpt3_1p3b", dims, replicas * 4, **overrides)
    drawn = cluster_map(plan)
    assert drawn.folded == (stages * replicas > 64)
    assert nodes_below(drawn.root) == stages * replicas
    shown = {cell.stage for box in boxes(drawn.root) for cell in box.cells}
    assert shown == set(range(stages))


def test_what_cannot_be_folded_is_counted() -> None:
    dims = ParallelDims(8, 1, 2, 96)
    plan = make_plan("dgx_h100", "gpt3_175b", dims, 256, **{"cluster.nodes": 192})
    mixed = replace(plan.placement, devices=tuple(plan.placement.devices[i * 7 % 1536] for i in range(1536)))
    root = cluster_map(replace(plan, placement=mixed)).root
    assert len(root.children) == MOST
    assert root.left_out == 192 - MOST


def test_the_timeline_is_whole_where_it_fits_and_cut_where_it_does_not(report: Report) -> None:
    assert report.pipeline is not None
    cut = picture(report.plan, report.pipeline)
    start, end = cut.stretches
    assert end.x == pytest.approx(start.x + start.width + GAP)
    assert end.end == report.pipeline.timeline.seconds
    assert "left out" in cut.note
    few = make_report(replace(report.plan, global_batch=32))
    assert few.pipeline is not None
    whole = picture(few.plan, few.pipeline)
    (stretch,) = whole.stretches
    assert "left out" not in whole.note
    scale = stretch.width / few.pipeline.timeline.seconds
    for row, events in zip(whole.rows, few.pipeline.timeline.actions, strict=True):
        assert len(row.bars) == len(events) == 16
        for bar, event in zip(row.bars, events, strict=True):
            assert bar.x == pytest.approx(LEFT + event.start * scale, abs=0.01)
            assert bar.width == pytest.approx((event.end - event.start) * scale, abs=0.02)
        busy = sum(event.end - event.start for event in events)
        assert row.idle == pytest.approx(1 - busy / few.pipeline.timeline.seconds)


def test_the_step_is_simulated_as_it_was_predicted(plan: Plan) -> None:
    drawn = drawing(plan, DType.bf16)
    after = sum(plan.time.terms.get(term, 0.0) for term in AFTER)
    assert drawn.timeline.seconds == pytest.approx(plan.time.step - after)
    by_hand = replace(plan, placement=replace(plan.placement, devices=plan.placement.devices[::-1]))
    assert drawing(by_hand, DType.bf16).timeline.seconds == pytest.approx(drawn.timeline.seconds)


def test_schedules_show_their_kinds_and_virtual_stages() -> None:
    plan = make_plan("dgx_h100", "llama3_8b", ParallelDims(2, 1, 2, 2, 2), 16, schedule=Schedule.zbv)
    report = make_report(plan)
    assert report.pipeline is not None
    drawn = picture(plan, report.pipeline)
    assert drawn.kinds[:1] == (Kind.forward,)
    assert {Kind.inputs, Kind.weights} <= set(drawn.kinds)
    assert {bar.chunk for bar in drawn.rows[0].bars} == {0, 1}
    assert "virtual stage 3" in " ".join(bar.tip for bar in drawn.rows[0].bars)


def test_a_deep_pipeline_shows_some_of_its_ranks() -> None:
    plan = make_plan("dgx_h100", "gpt3_175b", ParallelDims(1, 1, 1, 96), 960, **{"cluster.nodes": 12})
    report = make_report(plan)
    assert report.pipeline is not None
    assert report.pipeline.micro_batches < 960
    drawn = picture(plan, report.pipeline)
    ranks = [row.rank for row in drawn.rows]
    assert len(ranks) == ROWS
    assert (ranks[0], ranks[-1]) == (0, 95)
    assert f"{ROWS} of the 96 ranks" in drawn.note
    assert f"simulates {report.pipeline.micro_batches}" in drawn.note


def test_memory_bars_add_up(plan: Plan) -> None:
    chart = memory_chart(plan, 0.05)
    widest = max(max(estimate.total, estimate.capacity) for estimate in plan.memory)
    colours = [colour for _, colour in chart.legend]
    assert len(set(colours)) == len(colours) <= 8
    for stack, estimate in zip(chart.stacks, plan.memory, strict=True):
        assert stack.limit == pytest.approx(estimate.capacity / widest)
        sizes = {part.name: part.width * widest for part in stack.parts}
        rest = sizes.pop("smaller parts", 0.0)
        assert sizes == pytest.approx({n: s for n, s in estimate.terms.items() if n in sizes})
        assert rest + sum(sizes.values()) == pytest.approx(estimate.total, rel=1e-2)
        for part, after in zip(stack.parts, stack.parts[1:], strict=False):
            assert after.start >= part.start + part.width - 1e-9


def test_alike_stages_share_a_bar_and_too_much_is_an_alarm(plan: Plan) -> None:
    one = replace(plan.memory[0], capacity=1.5 * plan.memory[0].total, spread=0.01)
    same = memory_chart(replace(plan, memory=(one,) * 8), 0.05)
    assert [stack.name for stack in same.stacks] == ["stages 0–7"]
    assert same.stacks[0].detail == "layers 0–95"
    assert not same.stacks[0].alarm
    (half,) = memory_chart(replace(plan, memory=(replace(one, capacity=one.total / 2),) * 8), 0.05).stacks
    assert (half.alarm, half.remark) == (True, "does not fit")
    assert half.limit == pytest.approx(0.5)
    tight = replace(one, capacity=1.1 * one.total, spread=0.1)
    for tolerated, alarm in ((0.05, True), (0.2, False)):
        (stack,) = memory_chart(replace(plan, memory=(tight,) * 8), tolerated).stacks
        assert (stack.alarm, stack.remark) == (alarm, "15.9% risk")


def test_time_bars_share_one_scale(report: Report) -> None:
    chart = time_chart(report.options)
    first, second = chart.stacks
    assert sum(part.width for part in second.parts) == pytest.approx(1.0, abs=0.01)
    assert sum(part.width for part in first.parts) == pytest.approx(1 / 1.1, abs=0.01)
    assert (first.remark, second.remark) == ("chosen", "+10.0%")
    colours = dict(chart.legend)
    assert colours["bubble"] == -1
    assert len({*colours.values()}) == len(colours)


def test_the_headline_follows_from_the_plan(plan: Plan, report: Report) -> None:
    found = {tile.name: tile for tile in tiles(plan, report.dtype, 0.05)}
    tokens = plan.global_batch * plan.model.seq / plan.time.step
    assert found["Tokens per second"].value == units.count(tokens)
    assert found["Step"].value == units.seconds(plan.time.step)
    assert found["Memory"].detail.endswith("on stage 0")
    worst = replace(plan, memory=(replace(plan.memory[0], capacity=1.0),) * 8)
    assert {tile.name for tile in tiles(worst, report.dtype, 0.05) if tile.alarm} == {
        "Memory",
        "Risk of running out",
    }


def test_a_token_budget_takes_days(plan: Plan) -> None:
    names = [name for name, _ in shares(plan, DType.bf16, None)]
    assert names == ["HFU", "communication / computation", "shard efficiency"]
    tokens = 86400 / plan.time.step * plan.global_batch * plan.model.seq
    assert shares(plan, DType.bf16, tokens)[3][1] == "1.0 days"
    priced = replace(plan.cluster, device=replace(plan.cluster.device, price_per_hour=2.0))
    cost = dict(shares(replace(plan, cluster=priced), DType.bf16, tokens))["price"]
    assert cost == f"{2 * 24 * plan.cluster.world:,}"


def test_rejections_are_counted_by_reason(plan: Plan) -> None:
    assert [(reason, layouts) for reason, layouts, _ in turned_down(plan)] == [
        ("does not fit the memory", 386),
        ("slower", 72),
    ]


def test_scaling_marks_this_cluster(report: Report) -> None:
    speed, share = curves(report.scaling, 16)
    assert [dot.chosen for dot in speed.dots] == [True, False, False, False]
    assert speed.dots[0].y > speed.dots[-1].y
    assert [dot.x for dot in speed.dots] == [dot.x for dot in share.dots]
    gaps = [b.x - a.x for a, b in zip(speed.dots, speed.dots[1:], strict=False)]
    assert gaps == pytest.approx([gaps[0]] * 3, abs=0.2)
    assert "81.0%" in share.dots[-1].tip


@given(low=st.floats(1e-2, 1e9), ratio=st.floats(1.001, 1e5))
def test_the_axis_of_speed_has_round_marks(low: float, ratio: float) -> None:
    points = (ScalingPoint(1, 8, low, 1.0), ScalingPoint(2, 16, low * ratio, ratio / 2))
    speed, _ = curves(points, 1)
    assert len(speed.up) <= 6
    if ratio > 1.5:
        assert len(speed.up) >= 3
    assert all(TOP <= mark.at <= speed.bottom for mark in speed.up)


def test_neighbouring_colours_differ_and_text_is_readable_on_them() -> None:
    def brightness(colour: str) -> float:
        red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        return 0.299 * red + 0.587 * green + 0.114 * blue

    paints = [of_group(i) for i in range(9)] + [of_step(i, 16) for i in range(16)] + [of_step(0, 1)]
    for paint in paints:
        assert abs(brightness(paint.fill) - brightness(paint.ink)) > 90
    assert len({of_step(i, 64).fill for i in range(64)}) == 64


def test_numbers_are_short() -> None:
    assert [units.seconds(t) for t in (12.345, 0.05, 2e-5, 1234.5)] == [
        "12.3 s",
        "50.0 ms",
        "20.0 µs",
        "1,234 s",
    ]
    assert units.seconds(0) == units.seconds(1.4e-17) == "0 ms"
    assert [texts.percent(s) for s in (0, 1e-5, 0.123, 0.99999, 1)] == [
        "0%",
        "<0.1%",
        "12.3%",
        ">99.9%",
        "100%",
    ]
    assert [texts.flops(r) for r in (6.54e9, 4.97e14, 1.02e15)] == [
        "6.54 GFLOP/s",
        "497 TFLOP/s",
        "1.02 PFLOP/s",
    ]
    assert texts.ranges([0, 1, 2, 5, 7, 8]) == "0–2, 5, 7–8"
    assert (texts.plural(1, "node"), texts.plural(2048, "node")) == ("1 node", "2,048 nodes")


def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "plan.html"
    assert main(["plan", "experiment=quickstart", f"plan.report={file}"]) == 0
    page = file.read_text(encoding="utf-8")
    assert "gpt_tiny" in page
    assert {"cluster", "pipeline", "memory", "times"} <= set(re.findall(r'<section id="([\w-]+)"', page))
    capsys.readouterr()
    assert main(["plan", "experiment=quickstart", f"plan.report={tmp_path}/no/plan.html"]) == 2
    assert f"there is no folder {tmp_path}/no" in capsys.readouterr().err
