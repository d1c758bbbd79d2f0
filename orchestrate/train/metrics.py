"""The one record of a training step: what ``metrics.jsonl`` holds and what the tracker is sent.

No torch here: the progress line and the summary read the same records in the parent process.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

METRICS_FILE = "metrics.jsonl"


@dataclass(frozen=True)
class StepRecord:
    """One logged step. None stands for "not measured"; see `docs/metrics.md`."""

    step: int
    """Updates made so far, this one included; counts from 1."""
    time: float
    """Seconds since 1970 at the end of the step."""
    loss: float
    """Mean cross-entropy of this step's global batch, nats per token, before the update."""
    perplexity: float
    """``exp(loss)``."""
    lr: float
    """Learning rate of this step's update."""
    grad_norm: float
    """Global L2 norm of the gradient, before clipping."""
    loss_scale: float
    """Factor on the loss (fp16); 1 otherwise."""
    skipped: int
    """Updates left out since the last record because a gradient overflowed (fp16)."""
    step_time_s: float
    """Seconds per step: mean since the last record, on the slowest rank; evaluation not counted."""
    tokens_per_s: float
    """Tokens trained on per second, all devices together."""
    tokens_per_s_per_device: float
    mfu: float
    """Model FLOPs utilisation, 0 to 1: model FLOPs per second over the devices' peak at this
    precision (PaLM, arXiv:2204.02311, appendix B). Recomputation is not counted."""
    samples: int
    """Sequences consumed since the start of training."""
    tokens: int
    """Tokens consumed since the start of training."""
    memory_kind: str
    """What the memory figures are: ``cuda_allocated`` (peak of PyTorch's allocator) or
    ``process_resident`` (peak resident set of the process, interpreter and libraries included)."""
    memory_mib: tuple[float, ...]
    """Peak memory since the start, MiB, by logical rank."""
    memory_mib_max: float
    """The largest of `memory_mib`."""
    val_loss: float | None = None
    """Mean cross-entropy over ``train.eval_batches`` global batches of the validation split, after
    this step's update; None where the step was not followed by an evaluation."""
    val_perplexity: float | None = None
    """``exp(val_loss)``."""
    checkpoint_s: float | None = None
    """Seconds that training stood still for checkpoints since the last record, on the slowest rank: not
    part of `step_time_s`. The last save of a run comes after its last record."""
    exposed_communication_s: float | None = None
    """Seconds per step spent waiting for communication; None where it is not known."""
    busy_s: tuple[float, ...] | None = None
    """Seconds per step that each rank worked, by logical rank: mean since the last record."""
    straggler: int | None = None
    """The logical rank that the others wait for, where one is notably slower; see `docs/reliability.md`."""
    straggler_share: float | None = None
    """Share of the step time that it costs, 0 to 1."""
    predicted_step_time_s: float | None = None
    """The plan's figure for `step_time_s`."""
    predicted_memory_mib: tuple[float, ...] | None = None
    """The plan's figure for `memory_mib`, by logical rank."""

    def to_json(self) -> str:
        """One line of strict JSON: numbers that JSON lacks become "NaN", "Infinity", "-Infinity"."""
        record = {f.name: _to_plain(getattr(self, f.name)) for f in fields(self)}
        return json.dumps(record, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> StepRecord:
        """The record that `to_json` wrote; keys that this version does not know are passed over.

        Raises:
            ValueError: the line is not such a record.
        """
        try:
            record = json.loads(line)
            known = {f.name: _from_plain(record[f.name]) for f in fields(cls) if f.name in record}
            return cls(**known)
        except (TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"not a step record: {line[:80]!r}") from error


def perplexity(loss: float) -> float:
    """``exp(loss)``, infinite where that overflows."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


class MetricsFile:
    """Appends each record to ``metrics.jsonl`` as one line.

    Without room on the disk, records wait in memory until there is some again.

    Args:
        notify: is told when records begin to wait.
    """

    def __init__(self, run_dir: Path, notify: Callable[[str], None] | None = None) -> None:
        self._file = (run_dir / METRICS_FILE).open("ab", buffering=0)
        self._notify = notify
        self._waiting: list[bytes] = []

    def __call__(self, record: StepRecord) -> None:
        self._waiting.append(record.to_json().encode() + b"\n")
        self._write()

    def _write(self) -> None:
        held_up = len(self._waiting) > 1
        try:
            while self._waiting:
                self._append(self._waiting[0])
                del self._waiting[0]
        except OSError as error:
            if self._notify is not None and not held_up:
                self._notify(
                    f"{METRICS_FILE} cannot be written to ({error.strerror}): training goes on, and records"
                    " wait until it can be"
                )

    def _append(self, line: bytes) -> None:
        # One write per line, so that a reader never sees the beginning of one without its end for long.
        end = os.fstat(self._file.fileno()).st_size
        try:
            written = self._file.write(line)
            if written < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self._file.truncate(end)
            raise

    def close(self) -> None:
        if self._waiting:
            self._write()
        self._file.close()

    def __enter__(self) -> MetricsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class MetricsTail:
    """Reads the records that have been appended since the last look; the file may not exist yet."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / METRICS_FILE
        self._offset = 0

    def skip(self) -> None:
        """Pass over what is there already."""
        for _ in self.read():
            pass

    def read(self) -> Iterator[StepRecord]:
        """New records, oldest first. A line still being written waits for the next look."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                new = file.read()
        except FileNotFoundError:
            return
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            yield StepRecord.from_json(line.decode("utf-8"))


def read_records(run_dir: Path) -> list[StepRecord]:
    """All complete records of a run's folder, in the order of their steps.

    Where a run went back to an earlier step, the later record of a step counts.
    """
    by_step = {record.step: record for record in MetricsTail(run_dir).read()}
    return [by_step[step] for step in sorted(by_step)]


def _to_plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_to_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _from_plain(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_from_plain(item) for item in value)
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value
