"""The record of a run's Slurm jobs."""

from __future__ import annotations

from pathlib import Path

from launchers.slurm.jobs import JOBS_FILE, What, jobs_of, note, read_events, this_job


def test_events_come_back_as_they_were_noted(tmp_path: Path) -> None:
    noted = [
        note(tmp_path, What.submitted, "17"),
        note(tmp_path, What.started, "17", restart=0, nodes=("node1", "node2")),
        note(tmp_path, What.requeued, "17", text="the time limit is near"),
        note(tmp_path, What.submitted, "18_2"),
        note(tmp_path, What.ended, "17", restart=1, status=0),
    ]
    assert read_events(tmp_path) == noted
    assert jobs_of(tmp_path) == ["17", "18_2"]


def test_a_damaged_line_is_passed_over(tmp_path: Path) -> None:
    note(tmp_path, What.submitted, "17")
    with (tmp_path / JOBS_FILE).open("a") as file:
        file.write('[1]\n{"what": "lost", "job": "1", "time": 0}\n{"what": "ended"}\n{"what": "sta\n')
    note(tmp_path, What.ended, "17", status=1)
    assert [event.what for event in read_events(tmp_path)] == [What.submitted, What.ended]


def test_a_folder_without_a_record_has_no_jobs(tmp_path: Path) -> None:
    assert jobs_of(tmp_path) == []


def test_a_job_knows_its_name_in_and_out_of_an_array() -> None:
    assert this_job({"SLURM_JOB_ID": "17"}) == "17"
    assert this_job({"SLURM_JOB_ID": "19", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "2"}) == "17_2"
    assert this_job({}) is None
