"""The record of a step: strict JSON, read back equal, documented."""

from __future__ import annotations

import json
import math
import resource
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrate.train.metrics import MetricsFile, MetricsTail, StepRecord, perplexity, read_records
from tests.unit.train_samples import step_record


def reject(constant: str) -> float:
    raise AssertionError(f"{constant} is not JSON")


numbers = st.floats()


@given(loss=numbers, norm=numbers, val=st.none() | numbers, memory=st.lists(numbers, min_size=1, max_size=4))
def test_every_record_is_one_line_of_strict_json_and_reads_back_equal(
    loss: float, norm: float, val: float | None, memory: list[float]
) -> None:
    record = step_record(loss=loss, grad_norm=norm, val_loss=val, memory_mib=tuple(memory))
    line = record.to_json()
    assert "\n" not in line
    json.loads(line, parse_constant=reject)
    assert repr(StepRecord.from_json(line)) == repr(record)  # repr: nan is not equal to nan


def test_keys_are_the_fields_in_their_order() -> None:
    assert list(json.loads(step_record().to_json())) == [f.name for f in fields(StepRecord)]


def test_a_record_of_a_later_version_is_still_read() -> None:
    record = step_record()
    line = json.dumps({**json.loads(record.to_json()), "something_new": 1})
    assert StepRecord.from_json(line) == record


@pytest.mark.parametrize("line", ["", "{", "[]", "3", '{"step": 1}'])
def test_what_is_no_record_is_named(line: str) -> None:
    with pytest.raises(ValueError, match="not a step record"):
        StepRecord.from_json(line)


def test_every_field_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    documented = [row.split("`")[1] for row in text.splitlines() if row.startswith("| `")]
    assert documented == [f.name for f in fields(StepRecord)]


def test_perplexity_overflows_to_infinity() -> None:
    assert perplexity(0.0) == 1.0
    assert perplexity(1e4) == math.inf


def test_the_tail_gives_each_whole_line_once(tmp_path: Path) -> None:
    tail = MetricsTail(tmp_path)
    assert list(tail.read()) == []
    with MetricsFile(tmp_path) as write:
        write(step_record(step=1))
        write(step_record(step=2))
        assert [r.step for r in tail.read()] == [1, 2]
        assert list(tail.read()) == []
    line = step_record(step=3).to_json().encode() + b"\n"
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(line[:50])
        file.flush()
        assert list(tail.read()) == []
        file.write(line[50:])
    assert [r.step for r in tail.read()] == [3]


def test_a_step_that_was_made_again_counts_once(tmp_path: Path) -> None:
    with MetricsFile(tmp_path) as write:
        for step, loss in ((1, 5.0), (2, 4.0), (3, 3.0), (2, 4.5)):
            write(step_record(step=step, loss=loss))
    assert [(r.step, r.loss) for r in read_records(tmp_path)] == [(1, 5.0), (2, 4.5), (3, 3.0)]


def test_without_room_records_wait(tmp_path: Path) -> None:
    told: list[str] = []
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with MetricsFile(tmp_path, told.append) as write:
        write(step_record(step=1))
        written = (tmp_path / "metrics.jsonl").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (written + 100, before[1]))
        try:
            for step in (2, 3):
                write(step_record(step=step))
                assert (tmp_path / "metrics.jsonl").stat().st_size == written
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        write(step_record(step=4))
    assert [record.step for record in read_records(tmp_path)] == [1, 2, 3, 4]
    (notice,) = told
    assert notice.startswith("metrics.jsonl cannot be written to (")
