"""Restarts, with real processes: small ones without torch that make steps and fail as told."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launchers.exits import REQUEUE
from launchers.faults import Fault, read_faults
from launchers.footing import TooFew
from launchers.heartbeat import read_beats
from launchers.local import Local
from launchers.ranks import Launcher
from launchers.restart import Ended, Run, replace_plan
from orchestrate.config import FaultsConfig, LauncherConfig
from orchestrate.errors import ConfigError
from orchestrate.plan import plan as plans
from orchestrate.plan.plan import MemoryEstimate, Plan
from tests.distributed.test_launcher import is_alive
from tests.equivalence.layouts import Layout, config_of, plan_of

ROOT = Path(__file__).resolve().parents[2]
LAYOUT = Layout(dp=2)
GIB = 2**30


@pytest.fixture(autouse=True)
def _workers_find_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def keep(
    run_dir: Path,
    behaviour: str,
    *,
    on_tick: Callable[[], None] | None = None,
    plan: Plan | None = None,
    launcher: Launcher | None = None,
    **faults: Any,
) -> Ended:
    plan = plan or plan_of(LAYOUT)
    plans.save(plan, run_dir / "plan.yaml")
    config = dataclasses.replace(
        config_of(LAYOUT),
        launcher=LauncherConfig(grace_s=20.0),
        faults=FaultsConfig(**{"pause_s": 0.0, **faults}),
    )
    module = "tests.distributed.faulty_worker"
    run = Run(plan, config, run_dir, on_tick, None, module, [behaviour], launcher or Local())
    ended = run.keep()
    assert not [pid for start in starts(run_dir) for pid in [start["pid"]] if is_alive(pid)]
    return ended


def starts(run_dir: Path, process: int = 0) -> list[dict[str, int]]:
    file = run_dir / f"starts-{process}"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def kinds(run_dir: Path) -> list[str]:
    """What happened, but for recoveries: whether one is seen before the next failure is up to chance."""
    return [fault.kind for fault in read_faults(run_dir) if fault.kind != "recovered"]


def test_a_failure_is_made_good(tmp_path: Path) -> None:
    ended = keep(tmp_path, "once")
    assert (ended.status, ended.message, ended.failure) == (0, "", None)
    assert len(starts(tmp_path)) == 2
    failed, *_ = read_faults(tmp_path)
    assert (failed.kind, failed.step, failed.rank, failed.host, failed.device) == ("failed", 3, 1, "node0", 1)
    assert "rank 1 on node0 device 1: killed by SIGKILL" in failed.text


def test_a_step_that_fails_three_times_ends_the_run(tmp_path: Path) -> None:
    ended = keep(tmp_path, "memory")
    assert ended.status == 1
    assert (ended.message, ended.too_few) == ("step 3 failed 3 times in a row", False)
    assert kinds(tmp_path) == ["failed", "failed", "failed", "gave_up"]
    assert ended.failure is not None
    assert ended.failure.text.splitlines()[-1] == "MemoryError: CUDA out of memory"


def test_tries_are_bounded(tmp_path: Path) -> None:
    ended = keep(tmp_path, "memory", tries=1)
    assert ended.message == "faults.tries=1 restarts did not get past step 2"
    assert len(starts(tmp_path)) == 2


def test_what_never_worked_is_not_tried_again(tmp_path: Path) -> None:
    assert keep(tmp_path, "start").status == 1
    assert len(starts(tmp_path)) == 1


def test_a_start_that_fails_without_a_signal_is_no_fault_of_its_device(tmp_path: Path) -> None:
    alone = plan_of(Layout(dp=1))
    ended = keep(tmp_path, "exits", plan=alone)
    assert ended.message == "the start, before the first step, failed 3 times in a row"
    assert kinds(tmp_path) == ["failed", "failed", "failed", "gave_up"]


def test_what_would_end_alike_is_not_tried_again(tmp_path: Path) -> None:
    assert keep(tmp_path, "final").status == 1
    assert len(starts(tmp_path)) == 1


def test_going_back_is_no_failure(tmp_path: Path) -> None:
    assert keep(tmp_path, "astray").status == 0
    assert kinds(tmp_path)[0] == "went_back"


def test_out_of_memory_shows_what_the_plan_expects(tmp_path: Path) -> None:
    estimate = MemoryEstimate({"weights": 2.0 * GIB, "activations": 1.0 * GIB}, 4.0 * GIB)
    plan = dataclasses.replace(plan_of(LAYOUT), memory=(estimate,))
    failure = keep(tmp_path, "memory", plan=plan, tries=0).failure
    assert failure is not None
    lines = failure.text.splitlines()
    assert lines[1] == "out of memory in stage 0, where the plan expects 3.000 of 4.000 GiB:"
    assert lines[2].split() == ["weights", "2.000", "GiB"]


def test_a_device_that_fails_again_and_again_is_left_out(tmp_path: Path) -> None:
    first = plan_of(LAYOUT)
    ended = keep(tmp_path, "device")
    assert ended.status == 0
    assert [start["world"] for start in starts(tmp_path)] == [2, 2, 1]
    assert kinds(tmp_path)[:3] == ["failed", "failed", "replanned"]
    assert plans.load(tmp_path / "plan-1.yaml") == first
    again = plans.load(tmp_path / "plan.yaml")
    assert again == ended.plan
    assert (again.dims.world, again.global_batch) == (1, first.global_batch)


def test_a_device_that_is_reported_lost_is_left_out(tmp_path: Path) -> None:
    def report() -> None:
        (tmp_path / "lost.txt").write_text("node0:0\nno such thing\n")

    ended = keep(tmp_path, "once", on_tick=report)
    assert ended.status == 0
    assert [start["world"] for start in starts(tmp_path)] == [2, 1]


def test_a_device_that_fails_its_check_is_left_out(tmp_path: Path) -> None:
    check = "import os, sys; sys.exit(os.environ['ORCHESTRATE_DEVICE'] == '1')"
    ended = keep(tmp_path, "once", health_check=(sys.executable, "-S", "-c", check))
    assert ended.status == 0
    assert [start["world"] for start in starts(tmp_path)] == [2, 1]


def test_devices_known_to_be_lost_are_never_started_on(tmp_path: Path) -> None:
    assert keep(tmp_path, "well", lost=("node0:1",)).status == 0
    assert [start["world"] for start in starts(tmp_path)] == [1]
    with pytest.raises(ConfigError, match=r"faults\.lost=node7: no such node; .* has node0"):
        keep(tmp_path, "well", lost=("node7",))
    with pytest.raises(ConfigError, match=r"faults\.lost=node0:2: node0 has devices 0 to 1"):
        keep(tmp_path, "well", lost=("node0:2",))


def test_nothing_left_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(TooFew, match="no layout for the 0 of 2 devices"):
        keep(tmp_path, "well", lost=("node0",))


def test_nothing_left_after_a_failure_ends_the_run_which_might_go_on_elsewhere(tmp_path: Path) -> None:
    def report() -> None:
        (tmp_path / "lost.txt").write_text("node0\n")

    ended = keep(tmp_path, "once", on_tick=report)
    assert (ended.status, ended.too_few) == (1, True)
    assert ended.message.startswith("no layout for the 0 of 2 devices")


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGUSR1, REQUEUE), (signal.SIGTERM, REQUEUE), (signal.SIGINT, 130)]
)
def test_signals_reach_the_ranks(tmp_path: Path, number: signal.Signals, status: int) -> None:
    assert keep(tmp_path, "asks", on_tick=signals(tmp_path, number)).status == status


def test_a_second_signal_ends_all_at_once(tmp_path: Path) -> None:
    assert keep(tmp_path, "deaf", on_tick=signals(tmp_path, signal.SIGINT, times=2)).status == 130


def test_a_signal_between_two_starts_ends_the_run(tmp_path: Path) -> None:
    sent: list[int] = []

    def tick() -> None:
        if kinds(tmp_path) == ["failed", "failed"] and not sent:
            sent.append(signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    assert keep(tmp_path, "memory", on_tick=tick, pause_s=1e4).status == REQUEUE


def test_a_signal_while_a_start_is_prepared_reaches_its_ranks(tmp_path: Path) -> None:
    class Interrupted(Local):
        def check(self, plan: Plan) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    assert keep(tmp_path, "asks", launcher=Interrupted()).signal == signal.SIGTERM


def test_a_plan_that_is_replaced_is_kept(tmp_path: Path) -> None:
    degrees = (1, 2, 4)
    for dp in degrees:
        replace_plan(tmp_path, plan_of(Layout(dp=dp)))
    found = [plans.load(tmp_path / name).dims.dp for name in ("plan-1.yaml", "plan-2.yaml", "plan.yaml")]
    assert tuple(found) == degrees
    assert len(list(tmp_path.iterdir())) == len(degrees)


def signals(run_dir: Path, number: signal.Signals, times: int = 1) -> Callable[[], None]:
    """Sends this process ``number`` so many times once all ranks have come as far as they will."""
    sent: list[int] = []

    def tick() -> None:
        beats = read_beats(run_dir, 2)
        if len(sent) < times and len(beats) == 2 and all(beat.step == 3 for beat in beats.values()):
            sent.append(number)
            os.kill(os.getpid(), number)

    return tick


def test_a_fault_cut_short_is_passed_over(tmp_path: Path) -> None:
    fault = Fault("hung", 1.0, 2, "no progress")
    (tmp_path / "faults.jsonl").write_text(
        '{"kind": "hung", "time": 1.0, "step": 2, "text": "no progress"}\n{"kind"'
    )
    assert read_faults(tmp_path) == [fault]
