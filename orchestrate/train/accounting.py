"""What a run's jobs held of a cluster, and what came of it: node-hours useful and lost. No torch here.

From the run's own record: `launchers.slurm.jobs` says which nodes were held from when to when, the
metrics which steps were made, how long each took, and which were made again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from launchers.slurm.jobs import JobEvent, What, read_events
from orchestrate.train.metrics import MetricsTail, StepRecord

ACCOUNTING_FILE = "accounting.json"
_ENDS = (What.ended, What.requeued)


@dataclass(frozen=True)
class Accounting:
    """Node-hours are a node held for an hour, whatever it did."""

    starts: int
    """Of jobs, those that were put back into the queue included."""
    node_hours: float
    useful: float
    """Node-hours in steps that count."""
    repeated: float
    """Node-hours in steps that were made again after a failure."""

    @property
    def other(self) -> float:
        """Node-hours starting, saving, evaluating, waiting for the dead."""
        return max(0.0, self.node_hours - self.useful - self.repeated)

    @property
    def text(self) -> str:
        share = self.useful / self.node_hours if self.node_hours else 0.0
        return (
            f"{self.node_hours:.3g} node-hours in {self.starts} start{'' if self.starts == 1 else 's'}:"
            f" {self.useful:.3g} useful ({share:.0%}), lost {self.repeated:.3g} to steps made again and"
            f" {self.other:.3g} to starting, saving and waiting"
        )


@dataclass(frozen=True)
class _Held:
    begin: float
    end: float
    nodes: int


def account(run_dir: Path, now: float | None = None) -> Accounting:
    """The accounts of the run in ``run_dir``, up to ``now``."""
    records = list(MetricsTail(run_dir).read())
    return tally(read_events(run_dir), records, time.time() if now is None else now)


def tally(events: Sequence[JobEvent], records: Sequence[StepRecord], now: float) -> Accounting:
    """As `account`, from the events of jobs and the records in the order that they were written."""
    held = _held(events, records, now)
    counting = {record.step: record for record in records}
    useful = repeated = 0.0
    for before, step in pairwise([0, *sorted(counting)]):
        useful += _hours(counting[step], step - before, held)
    for earlier, record in pairwise([None, *records]):
        assert record is not None
        if counting[record.step] is not record:
            before = 0 if earlier is None else earlier.step
            repeated += _hours(record, max(1, record.step - before), held)
    total = sum((span.end - span.begin) * span.nodes for span in held) / 3600
    return Accounting(len(held), total, min(useful, total), repeated)


def save(run_dir: Path, accounting: Accounting) -> None:
    """Write ``accounting.json``."""
    values = {**asdict(accounting), "other": accounting.other}
    (run_dir / ACCOUNTING_FILE).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def _held(events: Sequence[JobEvent], records: Sequence[StepRecord], now: float) -> list[_Held]:
    starts = [event for event in events if event.what is What.started]
    found = []
    for start, following in zip(starts, [*starts[1:], None], strict=False):
        limit = now if following is None else following.time
        told = [
            e.time for e in events if e.what in _ENDS and e.job == start.job and start.time <= e.time <= limit
        ]
        # A job whose own node died has said nothing of its end: its last step is what is known.
        seen = [record.time for record in records if start.time <= record.time <= limit]
        end = told[0] if told else limit if following is None else max(seen, default=start.time)
        found.append(_Held(start.time, end, len(start.nodes)))
    return found


def _hours(record: StepRecord, steps: int, held: Sequence[_Held]) -> float:
    """Node-hours in ``steps`` steps up to ``record``."""
    return steps * record.step_time_s * _nodes_at(record.time, held) / 3600


def _nodes_at(when: float, held: Sequence[_Held]) -> int:
    began = [span for span in held if span.begin <= when]
    return began[-1].nodes if began else 0
