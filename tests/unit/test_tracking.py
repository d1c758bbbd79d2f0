"""Tracking with the real wandb, offline: what its files hold, and that its failures stop nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrate.config import TrackingMode
from orchestrate.train.notices import Notices, read_notices
from orchestrate.train.tracking import Tracker, open_tracker, run_id, series
from tests.unit import train_samples as samples
from tests.unit.wandb_files import history, log_files, start_of

ENVIRONMENT = {"WANDB_ERROR_REPORTING": "true", "WANDB_MODE": "online", "WANDB_DIR": "/nowhere"}
"""What a user's shell might hold; the config decides all the same."""


@pytest.fixture(autouse=True)
def shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # No key in somebody's .netrc


def track(run_dir: Path, mode: TrackingMode = TrackingMode.offline) -> None:
    with Tracker(samples.config(mode), samples.plan(), run_dir, Notices(run_dir)) as tracker:
        for record in samples.records():
            tracker(record)


def test_every_value_arrives_with_predictions_beside_it(tmp_path: Path) -> None:
    track(tmp_path)
    (path,) = log_files(tmp_path)
    rows = history(path)
    assert sorted(rows) == list(range(1, 21))
    for record in samples.records():
        sent = series(record, samples.plan())
        assert {name: rows[record.step][name] for name in sent} == pytest.approx(sent)
    assert rows[5]["val/loss"] == pytest.approx(samples.records()[4].val_loss)
    assert "val/loss" not in rows[6]
    assert rows[20]["speed/step_time_s_predicted"] == 0.3
    assert rows[20]["memory/rank02_mib"] == 640.0
    assert rows[20]["memory/rank02_mib_predicted"] == 620.0
    assert read_notices(tmp_path) == []


def test_config_and_plan_are_attached(tmp_path: Path) -> None:
    for name in ("config.yaml", "plan.yaml"):
        (tmp_path / name).write_text(f"{name}: 1\n")
    track(tmp_path)
    (path,) = log_files(tmp_path)
    run = start_of(path)
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["config"]["model"]["hidden"] == 32
    assert config["plan"]["dims"]["tp"] == 2
    assert (run.project, run.display_name, list(run.tags)) == ("orchestrate", "a run", ["test"])
    for name in ("config.yaml", "plan.yaml"):
        assert (path.parent / "files" / name).read_text() == f"{name}: 1\n"


def test_a_resumed_run_goes_on_under_its_id(tmp_path: Path) -> None:
    track(tmp_path)
    track(tmp_path)
    ids = {start_of(path).run_id for path in log_files(tmp_path)}
    assert ids == {run_id(tmp_path)}


def test_no_key_keeps_the_run_offline_with_one_warning(tmp_path: Path) -> None:
    track(tmp_path, TrackingMode.online)
    (notice,) = read_notices(tmp_path)
    assert "cannot go online" in notice
    assert "wandb sync" in notice
    (path,) = log_files(tmp_path)
    assert sorted(history(path)) == list(range(1, 21))


def test_an_unreachable_server_keeps_the_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrate.train.tracking._INIT_TIMEOUT_S", 2.0)
    key = "5ec2e7" * 6 + "feed"
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    track(tmp_path, TrackingMode.online)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and key.encode() in p.read_bytes()]
    assert len(read_notices(tmp_path)) == 1
    (path,) = log_files(tmp_path)
    assert sorted(history(path)) == list(range(1, 21))


def test_without_wandb_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    track(tmp_path)
    assert read_notices(tmp_path) == [
        "warning: wandb is off for the rest of this run (not installed: pip install wandb); "
        "metrics.jsonl goes on"
    ]


def test_a_folder_that_cannot_be_written_is_one_warning(tmp_path: Path) -> None:
    (tmp_path / "wandb_id").mkdir()
    track(tmp_path)
    assert len(read_notices(tmp_path)) == 1


def test_wandb_killed_in_the_middle_stops_nothing(tmp_path: Path) -> None:
    """In a process of its own: nothing of the dead service stays behind in this one."""
    result = subprocess.run(
        [sys.executable, "-m", "tests.unit.test_tracking", str(tmp_path)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert "all steps done" in result.stdout
    assert len(read_notices(tmp_path)) <= 1


def test_nothing_leaves_the_machine_offline(tmp_path: Path) -> None:
    assert open_tracker(samples.config(TrackingMode.off), samples.plan(), tmp_path) is None
    track(tmp_path)
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"


def test_memory_of_many_ranks_is_sent_by_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrate.train.tracking._PER_RANK_SERIES", 2)
    sent = series(samples.step_record(), samples.plan())
    memory = {name: value for name, value in sent.items() if name.startswith("memory/stage")}
    assert memory == {
        "memory/stage00_mib": 512.0,
        "memory/stage01_mib": 640.0,
        "memory/stage00_mib_predicted": 500.0,
        "memory/stage01_mib_predicted": 620.0,
    }


def _train_while_wandb_dies(run_dir: Path) -> None:
    import threading

    tracker = Tracker(samples.config(), samples.plan(), run_dir, Notices(run_dir))
    records = samples.records()
    tracker(records[0])
    while not log_files(run_dir):  # wandb has started once its file is there
        threading.Event().wait(0.05)
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
    for record in records[1:]:
        tracker(record)
    tracker.close(timeout_s=5)
    print("all steps done", flush=True)
    os._exit(0)


if __name__ == "__main__":
    _train_while_wandb_dies(Path(sys.argv[1]))
