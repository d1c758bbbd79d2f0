"""Which nodes a preflight leaves out, and why."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from launchers.slurm.preflight import judge
from launchers.slurm.probes import Answer, Link, read_answer, write_answer
from orchestrate.config import DeviceKind, LauncherConfig
from orchestrate.train.preflight_probe import neighbours
from tests.equivalence.layouts import Layout, config_of, plan_of

PLAN = plan_of(Layout(dp=2))
CONFIG = dataclasses.replace(
    config_of(Layout(dp=2)),
    launcher=LauncherConfig(preflight_bandwidth=0.5, preflight_disk_gib=10, preflight_clock_s=5),
)
GBPS = PLAN.cluster.network.bandwidth_gbps
HOSTS = ("a", "b", "c", "d")


def answers(count: int = 4, **changed: dict[str, object]) -> dict[str, Answer]:
    """What so many sound nodes say; ``changed`` differs by host."""
    found = {}
    for index, host in enumerate(HOSTS[:count]):
        pairs = [(i, j) for i, j in neighbours(count) if i == index]
        links = tuple(Link(HOSTS[j], GBPS, 0.001) for _, j in pairs)
        answer = Answer(host, 8, 80.0, "H100", "550", {"/run": 100.0}, "same", None, links)
        found[host] = dataclasses.replace(answer, **changed.get(host, {}))  # type: ignore[arg-type]
    return found


def judged(given: dict[str, Answer], kind: DeviceKind = DeviceKind.cpu) -> dict[str, str]:
    device = dataclasses.replace(PLAN.cluster.device, kind=kind, memory_gib=80)
    plan = dataclasses.replace(PLAN, cluster=dataclasses.replace(PLAN.cluster, device=device))
    return dict(judge(plan, CONFIG, HOSTS[: max(2, len(given))], given, Path("/run")).bad)


def test_sound_nodes_are_all_used() -> None:
    assert judged(answers()) == {}
    found = judge(PLAN, CONFIG, HOSTS, answers(), Path("/run"))
    assert found.slowest is not None
    assert found.slowest[2] == GBPS


@pytest.mark.parametrize(
    ("kind", "what", "reason"),
    [
        (DeviceKind.cuda, {"devices": 1}, "1 GPUs where the plan needs 2"),
        (DeviceKind.cuda, {"memory_gib": 40.0}, "a GPU of 40 GiB where the cluster file has 80"),
        (DeviceKind.cuda, {"driver": "535"}, "driver 535 where most nodes have 550"),
        (DeviceKind.cuda, {"device_name": "A100"}, "a A100 where most nodes have a H100"),
        (
            DeviceKind.cpu,
            {"disk_gib": {"/tmp": 2.0}},
            "2 GiB free in /tmp, less than launcher.preflight_disk_gib",
        ),
        (DeviceKind.cpu, {"content": "other"}, "it sees other files in the run's folder"),
        (DeviceKind.cpu, {"links": None}, "it never came to the end of measuring its links; see /run/logs"),
    ],
)
def test_a_node_that_is_not_as_it_should_be_is_named(
    kind: DeviceKind, what: dict[str, object], reason: str
) -> None:
    bad = judged(answers(b=what), kind)
    assert list(bad) == ["b"]
    assert bad["b"].startswith(reason)


def test_a_node_that_says_nothing_is_named() -> None:
    given = answers()
    del given["c"]
    assert list(judged(given | {"e": given["a"]})) == ["c"]


def test_a_wrong_clock_is_found_through_its_neighbours() -> None:
    def clock(*ahead: float) -> dict[str, str]:
        given = answers()
        for index, (host, answer) in enumerate(given.items()):
            seconds = ahead[(index + 1) % 4] - ahead[index]
            links = tuple(dataclasses.replace(link, ahead_s=seconds) for link in answer.links or ())
            given[host] = dataclasses.replace(answer, links=links)
        return judged(given)

    assert clock(0, 1, 2, 3) == {}
    (only,) = clock(0, 0, -30, 1).items()
    assert only == ("c", "its clock is 30.0 s behind, more than launcher.preflight_clock_s=5")


def test_of_slow_links_the_node_that_they_share_is_left_out() -> None:
    slow = GBPS / 10
    bad = judged(answers(b={"links": (Link("c", slow),)}, c={"links": (Link("d", slow),)}))
    assert list(bad) == ["c"]
    assert bad["c"] == "; ".join(f"to {p} {slow:.3g} GB/s where the cluster file has {GBPS:g}" for p in "bd")


def test_a_link_that_fails_is_told_in_its_own_words() -> None:
    (only,) = judged(answers(2, a={"links": (Link("b", problem="no connection: timed out"),)})).values()
    assert only == "to a no connection: timed out"


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8])
def test_neighbours_make_a_ring(count: int) -> None:
    pairs = list(neighbours(count))
    assert len(set(pairs)) == len(pairs) == {1: 0, 2: 1}.get(count, count)
    assert all((first + 1) % count == second for first, second in pairs)


def test_answers_survive_the_file_system(tmp_path: Path) -> None:
    answer = answers()["a"]
    write_answer(tmp_path, answer)
    assert read_answer(tmp_path, "a") == answer
    (tmp_path / "b.json").write_text('{"host": "b"')
    assert read_answer(tmp_path, "b") is None
    assert read_answer(tmp_path, "c") is None
