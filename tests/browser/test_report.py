"""The page of a plan as a real browser draws it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from orchestrate.config import Schedule
from orchestrate.plan.layout import ParallelDims
from orchestrate.report import Report, html
from tests.browser.chromium import Page
from tests.unit.report_cases import make_plan, make_report

PHONE, DESK = 390, 1280


@cache
def rack() -> Report:
    overrides = {
        "cluster.nodes": 16,
        "cluster.switches": [{"nodes": 4, "oversubscription": 2.0}],
    }
    return make_report(make_plan("dgx_h100", "gpt3_175b", ParallelDims(4, 1, 4, 8), 1536, **overrides))


@cache
def one_node() -> Report:
    dims = ParallelDims(2, 1, 2, 2, 2)
    return make_report(make_plan("dgx_h100", "llama3_8b", dims, 64, schedule=Schedule.zbv))


@cache
def quickstart() -> Report:
    overrides = {"precision.dtype": "fp32"}
    return make_report(make_plan("two_node_cpu", "gpt_tiny", ParallelDims(2, 1, 2, 2), 32, **overrides))


@cache
def domains_of_18_nodes() -> Report:
    overrides = {"cluster.nodes": 72, "cluster.gpus_per_node": 4, "cluster.nvlink_domain": 72}
    return make_report(make_plan("dgx_b200", "llama3_70b", ParallelDims(8, 1, 9, 4), 288, **overrides))


@cache
def thousands() -> Report:
    overrides = {
        "cluster.nodes": 2048,
        "cluster.rails": True,
        "cluster.switches": [{"nodes": 32}, {"nodes": 512, "oversubscription": 3.0}],
    }
    dims = ParallelDims(8, 1, 128, 16, 2)
    return make_report(
        make_plan("dgx_h100", "llama3_405b", dims, 4096, schedule=Schedule.interleaved, **overrides)
    )


REPORTS: dict[str, Callable[[], Report]] = {
    "16 nodes": rack,
    "1 node": one_node,
    "CPU": quickstart,
    "domains of 18 nodes": domains_of_18_nodes,
    "2,048 nodes": thousands,
}


@pytest.fixture(scope="module", params=REPORTS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(REPORTS[request.param](), tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def racks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    report = rack()
    return report, write(report, tmp_path_factory.mktemp("racks"))


def write(report: Report, folder: Path) -> Path:
    file = folder / "plan.html"
    file.write_text(html(report), encoding="utf-8")
    return file


def boxes(page: Page, selector: str) -> list[dict[str, Any]]:
    """Where and how large the elements of ``selector`` are, in pixels, and what their tooltips say."""
    found: list[dict[str, Any]] = page.evaluate(
        f"""[...document.querySelectorAll({selector!r})].map(e => {{
            const box = e.getBoundingClientRect();
            return {{x: box.x, y: box.y, width: box.width, height: box.height, tip: e.dataset.tip}};
        }})"""
    )
    return found


@pytest.mark.parametrize("width", [DESK, PHONE])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_section_is_drawn(page: Page, written: Path, width: int, dark: bool) -> None:
    page.open(written, width, dark=dark)
    for section in ("cluster", "pipeline", "memory", "times", "scaling"):
        drawings = boxes(page, f"#{section} [data-tip]")
        assert drawings, f"nothing is drawn in {section}"
        assert all(box["width"] > 0 and box["height"] > 0 for box in drawings)
        assert all(box["tip"] for box in drawings)
    assert page.complaints == []
    assert page.requests == [written.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") == width, "wider than the window"


def test_the_page_follows_the_colour_scheme(page: Page, racks: tuple[Report, Path]) -> None:
    shades = {}
    for dark in (False, True):
        page.open(racks[1], dark=dark)
        for what in ("backgroundColor", "color"):
            colour = page.evaluate(f"getComputedStyle(document.body).{what}")
            shades[dark, what] = sum(map(int, colour.removeprefix("rgb(").rstrip(")").split(",")))
    assert shades[False, "backgroundColor"] > 600 > 200 > shades[False, "color"]
    assert shades[True, "backgroundColor"] < 200 < 600 < shades[True, "color"]


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_memory_bars_are_as_long_as_the_bytes(page: Page, racks: tuple[Report, Path], width: int) -> None:
    report, file = racks
    page.open(file, width)
    limits = boxes(page, "#memory .limit")
    for rank, (estimate, limit) in enumerate(zip(report.plan.memory, limits, strict=True)):
        (bar,) = boxes(page, f"#memory .stack:nth-child({rank + 1}) svg.bar")
        parts = boxes(page, f"#memory .stack:nth-child({rank + 1}) .part")
        per_byte = (limit["x"] - bar["x"]) / estimate.capacity
        for part in parts:
            term = part["tip"].splitlines()[1]
            if term in estimate.terms:
                assert part["width"] == pytest.approx(estimate.terms[term] * per_byte, abs=0.5), term
        assert sum(part["tip"].splitlines()[1] in estimate.terms for part in parts) >= 5
        drawn = parts[-1]["x"] + parts[-1]["width"] - bar["x"]
        assert drawn == pytest.approx(estimate.total * per_byte, abs=1)


def test_time_bars_are_as_long_as_the_seconds(page: Page, racks: tuple[Report, Path]) -> None:
    report, file = racks
    page.open(file)
    lengths = []
    for row, option in enumerate(report.options):
        parts = boxes(page, f"#times .stack:nth-child({row + 1}) .part")
        sizes = {part["tip"].splitlines()[1]: part["width"] for part in parts}
        per_second = sizes["compute"] / option.time.terms["compute"]
        assert sizes == pytest.approx({n: option.time.terms[n] * per_second for n in sizes}, abs=0.5)
        lengths.append(sum(sizes.values()) / option.time.step)
    assert lengths[0] == pytest.approx(lengths[1], rel=0.01), "bars share one scale"


def test_the_timeline_is_to_scale(page: Page, racks: tuple[Report, Path]) -> None:
    report, file = racks
    page.open(file)
    assert report.pipeline is not None
    for rank, events in enumerate(report.pipeline.timeline.actions):
        bars = [box for box in boxes(page, "#pipeline .part") if f"stage {rank}\n" in box["tip"]]
        per_second = bars[0]["width"] / (events[0].end - events[0].start)
        # All start with a stretch that is drawn whole.
        for bar, event in zip(bars[:8], events, strict=False):
            assert bar["width"] == pytest.approx((event.end - event.start) * per_second, abs=0.5)
            assert bar["x"] - bars[0]["x"] == pytest.approx(
                (event.start - events[0].start) * per_second, abs=0.5
            )


FILLS = """[...document.querySelectorAll('.gpu')].map(e => [
    e.dataset.{group}, getComputedStyle(e.firstElementChild).fill,
    [...e.querySelectorAll('text')].filter(t => getComputedStyle(t).display !== 'none')
        .map(t => t.textContent)
])"""


def test_the_cluster_is_coloured_by_what_is_chosen(page: Page, racks: tuple[Report, Path]) -> None:
    report, file = racks
    page.open(file)
    assert len(boxes(page, ".gpu")) == report.plan.cluster.world
    assert len(boxes(page, ".node")) == 16
    assert page.evaluate("[...document.querySelectorAll('.switch strong')].map(e => e.textContent)") == [
        "network",
        *(f"leaf {i}" for i in range(4)),
    ]
    for choice, group, groups in (("tp", "t", 32), ("stage", "p", 8), ("replica", "d", 4)):
        page.evaluate(f"document.querySelector('label[for=by-{choice}]').click()")
        cells = page.evaluate(FILLS.format(group=group))
        assert len({number for number, _, _ in cells}) == groups
        assert all(shown == [number] for number, _, shown in cells)
        colour_of = {number: fill for number, fill, _ in cells}
        assert all(colour_of[number] == fill for number, fill, _ in cells)
        for number in range(groups - 1):
            assert colour_of[str(number)] != colour_of[str(number + 1)]


def test_wires_reach_every_node_at_any_width(page: Page, racks: tuple[Report, Path]) -> None:
    for width in (DESK, PHONE):
        page.open(racks[1], width)
        ends = boxes(page, ".leaf > .below > .wires path")
        for node in boxes(page, ".leaf .node"):
            assert any(
                node["x"] <= end["x"] <= node["x"] + node["width"]
                and abs(end["y"] + end["height"] - node["y"]) < 2
                for end in ends
            ), "no wire ends at the node's upper edge"


def test_pointing_at_a_device_lights_its_group(page: Page, racks: tuple[Report, Path]) -> None:
    page.open(racks[1])
    page.evaluate("document.querySelector('.map').scrollIntoView()")
    cell = boxes(page, ".gpu")[9]
    page.point(cell["x"] + 5, cell["y"] + 5)
    assert page.evaluate("document.getElementById('tip').textContent").startswith("node1:1 · rank 9\n")
    alike = page.evaluate("[...document.querySelectorAll('.gpu.alike')].map(e => e.dataset.p)")
    assert alike == ["0"] * 16
    page.point(2, 2)
    assert page.evaluate("document.getElementById('tip').hidden")
    assert page.evaluate("document.querySelectorAll('.map.focused').length") == 0


def test_everything_is_reached_from_the_keyboard(page: Page, racks: tuple[Report, Path]) -> None:
    page.open(racks[1])
    reached = []
    for _ in range(12):
        page.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
        if "marks" in reached[-1]:
            page.press("ArrowRight")
            assert page.evaluate("document.getElementById('tip').textContent")
            page.press("Escape")
            assert page.evaluate("document.getElementById('tip').hidden")
    assert reached[:3] == ["by-stage", "map marks", "scroll marks"]
    assert sum("marks" in place for place in reached) == 6


def test_arrows_move_from_device_to_device(page: Page, racks: tuple[Report, Path]) -> None:
    page.open(racks[1])
    page.evaluate("document.querySelector('.map').focus()")
    hosts = []
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft"):
        page.press(key)
        hosts.append(page.evaluate("document.getElementById('tip').textContent").split(" ")[0])
    assert hosts == ["node0:0", "node0:1", "node0:5", "node0:4"]
    tip, window = boxes(page, "#tip")[0], page.evaluate("innerWidth")
    assert tip["x"] >= 0
    assert tip["x"] + tip["width"] <= window
    page.press("Tab")
    assert page.evaluate("document.getElementById('tip').hidden")


def test_names_cannot_run(page: Page, tmp_path: Path) -> None:
    hostile = "</title></style></script><script>alert(1)</script><img src=x onerror=alert(1)>"
    report = rack()
    plan = replace(report.plan, model=replace(report.plan.model, name=hostile))
    page.open(write(replace(report, plan=plan, why=(hostile,)), tmp_path))
    assert page.complaints == []
    assert page.evaluate("[document.images.length, document.scripts.length]") == [0, 1]
    assert hostile in page.evaluate("document.title")
    assert hostile in page.evaluate("document.querySelector('.why').textContent")


def test_a_large_cluster_is_small_enough_to_look_at(page: Page, tmp_path: Path) -> None:
    file = write(thousands(), tmp_path)
    page.open(file)
    assert len(boxes(page, ".gpu")) == 16 * 8
    assert page.evaluate("document.querySelector('#cluster').offsetHeight") < 1500
    assert file.stat().st_size < 2**20
    times = page.evaluate("[...document.querySelectorAll('.times strong')].map(e => e.textContent)")
    assert times == ["× 32", "× 4"] * 16
