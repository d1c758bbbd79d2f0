"""Node-hours of a run, useful and lost, from the record of its jobs and its metrics."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launchers.slurm.client import node_hours
from launchers.slurm.jobs import JobEvent, What
from orchestrate.train.accounting import account, save, tally
from orchestrate.train.metrics import StepRecord
from tests.unit.train_samples import step_record

NODES = ("a", "b")


def record(step: int, time: float, step_time_s: float = 60.0) -> StepRecord:
    return step_record(step=step, time=time, step_time_s=step_time_s)


def started(job: str, time: float, nodes: tuple[str, ...] = NODES) -> JobEvent:
    return JobEvent(What.started, job, time, 0, nodes)


def test_steps_that_count_are_useful_and_the_rest_is_lost() -> None:
    events = [started("1", 0.0), JobEvent(What.ended, "1", 3600.0, 0, status=0)]
    found = tally(events, [record(n, 600.0 + 60 * n) for n in range(1, 31)], 4000.0)
    assert found.node_hours == pytest.approx(2.0)
    assert found.useful == pytest.approx(2 * 30 / 60)
    assert found.repeated == 0
    assert found.other == pytest.approx(1.0)
    assert found.text.startswith(
        "2 node-hours in 1 start: 1 useful (50%), lost 0 to steps made again and 1 to"
    )


def test_steps_between_two_records_count_and_steps_made_again_do_not() -> None:
    events = [started("1", 0.0), JobEvent(What.ended, "1", 3600.0)]
    records = [record(10, 700.0), record(20, 1400.0), record(15, 1800.0), record(20, 2200.0)]
    found = tally(events, records, 3600.0)
    assert found.repeated == pytest.approx(2 * 10 / 60)
    assert found.useful == pytest.approx(2 * 20 / 60)


def test_a_job_that_said_nothing_of_its_end_held_its_nodes_until_its_last_step() -> None:
    events = [started("1", 0.0), started("1", 7200.0, ("a", "b", "c")), JobEvent(What.requeued, "1", 9000.0)]
    found = tally(events, [record(1, 1800.0), record(2, 7300.0)], 10_000.0)
    assert found.starts == 2
    assert found.node_hours == pytest.approx((2 * 1800 + 3 * 1800) / 3600)


def test_a_job_that_runs_holds_its_nodes_until_now() -> None:
    assert tally([started("1", 0.0)], [], 1800.0).node_hours == pytest.approx(1.0)


def test_accounts_are_kept_in_the_run(tmp_path: Path) -> None:
    found = account(tmp_path, 0.0)
    assert found.text.startswith("0 node-hours in 0 starts")
    save(tmp_path, found)
    assert json.loads((tmp_path / "accounting.json").read_text())["useful"] == 0


def test_slurms_own_accounts_are_asked_where_there_are_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert node_hours(["1"]) is None
    sacct = tmp_path / "sacct"
    sacct.write_text("#!/bin/sh\necho '3600|2'\necho '1800|4'\n")
    sacct.chmod(0o755)
    assert node_hours(["1", "2"]) == pytest.approx(4.0)
    sacct.write_text("#!/bin/sh\necho 'Slurm accounting storage is disabled' >&2\nexit 1\n")
    assert node_hours(["1"]) is None
