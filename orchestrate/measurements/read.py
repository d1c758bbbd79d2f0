"""Tables of measured runs: CSV into `Run` rows, with every mistake told by file, row and column."""

from __future__ import annotations

import csv
import difflib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from glob import glob
from pathlib import Path
from typing import Any, TypeVar

from orchestrate.checks import MOST_LAYERS
from orchestrate.config import Recompute
from orchestrate.errors import DataError
from orchestrate.measurements.schema import PipelineSchedule, Precision, Run, Status, row_name
from orchestrate.plan.numbers import divisors, nearest
from orchestrate.topology.possible import MOST_DEVICES

E = TypeVar("E", bound=Enum)


def read_runs(patterns: Sequence[str]) -> list[Run]:
    """Every row of the files that ``patterns`` (paths or globs) name, in order.

    Raises:
        DataError: no such file, a column that is missing, or a value that cannot be.
    """
    runs = [run for file in _files(patterns) for run in read_table(file)]
    seen: dict[str, Run] = {}
    for run in runs:
        if (first := seen.setdefault(run.run_id, run)) is not run:
            raise DataError(
                f"{run.where}: the run_id is that of {row_name(first.file, first.row, '')} already"
            )
    return runs


def _files(patterns: Sequence[str]) -> list[Path]:
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern).expanduser()
        matches = [path] if path.is_file() else sorted(map(Path, glob(str(path))))
        if not matches:
            raise DataError(f"runs={pattern}: no such file")
        found.update(dict.fromkeys(matches))
    return list(found)


def read_table(file: Path) -> list[Run]:
    """Every row of ``file``.

    Raises:
        DataError: as `read_runs`.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream)
            _check_columns(file, rows.fieldnames or ())
            found = [_run(file, number, row) for number, row in enumerate(rows, start=1)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"{file}: cannot be read as CSV: {reason}") from None
    if not found:
        raise DataError(f"{file}: names columns, and has no row")
    return found


def _check_columns(file: Path, present: Sequence[str]) -> None:
    missing = [column for column in _COLUMNS if column not in present]
    if not present:
        raise DataError(f"{file}: is empty; the first line names the columns: {', '.join(_COLUMNS)}")
    if len(missing) == len(_COLUMNS):
        line = ",".join(present)
        shown = repr(line if len(line) <= 60 else f"{line[:60]}…")
        raise DataError(
            f"{file}: the first line, {shown}, names no column; separated by commas are needed: "
            f"{', '.join(_COLUMNS)}"
        )
    if missing:
        close = [near[0] for c in missing if (near := difflib.get_close_matches(c, present, n=1, cutoff=0.8))]
        hint = f" (the file has {', '.join(close)})" if close else ""
        what = "column" if len(missing) == 1 else "columns"
        are = "is" if len(missing) == 1 else "are"
        raise DataError(f"{file}: {what} {', '.join(missing)} {are} missing{hint}")


class _Row:
    """One row's values, and where it stands."""

    def __init__(self, where: str, values: Mapping[str | Any, Any]) -> None:
        self.where, self._values = where, values

    def text(self, column: str) -> str:
        """The value of ``column``, empty where there is none."""
        return str(self._values.get(column) or "").strip()

    def fail(self, problem: str) -> DataError:
        return DataError(f"{self.where}: {problem}")

    def given(self, column: str) -> str:
        value = self.text(column)
        if not value:
            raise self.fail(f"{column} is empty")
        return value

    def count(self, column: str, default: int | None = None, least: int = 1) -> int:
        """A whole number of at least ``least``; ``default`` where there is none."""
        if default is not None and not self.text(column):
            return default
        value = self.given(column)
        try:
            number = float(value)
        except ValueError:
            raise self.fail(f"{column}={value}: is not a whole number") from None
        if not math.isfinite(number) or number != int(number):
            raise self.fail(f"{column}={value}: is not a whole number")
        if number < least:
            raise self.fail(f"{column}={value}: must be at least {least}")
        return int(number)

    def flag(self, column: str) -> bool:
        value = self.given(column).lower()
        if value not in _FLAGS:
            raise self.fail(f"{column}={value}: is neither 0 nor 1")
        return _FLAGS[value]

    def choice(self, column: str, choices: type[E], default: E | None = None) -> E:
        value = self.text(column) if default is not None else self.given(column)
        if not value and default is not None:
            return default
        try:
            return choices(value)
        except ValueError:
            names = ", ".join(str(member.value) for member in choices)
            raise self.fail(f"{column}={value}: choices are {names}") from None

    def measured(self, column: str) -> float | None:
        """A positive number, or None where nothing was measured."""
        value = self.text(column)
        if not value:
            return None
        try:
            number = float(value)
        except ValueError:
            raise self.fail(f"{column}={value}: is not a number") from None
        if not math.isfinite(number) or number <= 0:
            raise self.fail(f"{column}={value}: must be above 0")
        return number


_FLAGS = {"0": False, "1": True, "false": False, "true": True}


def _run(file: Path, number: int, values: Mapping[str | Any, Any]) -> Run:
    run_id = str(values.get("run_id") or "").strip()
    row = _Row(row_name(file, number, run_id), values)
    if None in values:
        raise row.fail("has more values than there are columns")
    fields = {column: read(row, column) for column, read in _COLUMNS.items()}
    run = Run(
        **fields,
        source=row.text("source"),
        status=row.choice("status", Status) if row.text("status") else None,
        iter_time_s=row.measured("iter_time_s"),
        memory_gib=row.measured("memory_gib"),
        memory_kind=row.text("memory_kind"),
        file=str(file),
        row=number,
    )
    for problem in _impossible(run):
        raise row.fail(problem)
    return run


def _text(row: _Row, column: str) -> str:
    return row.given(column)


def _any_text(row: _Row, column: str) -> str:
    return row.text(column)


def _count(row: _Row, column: str) -> int:
    return row.count(column)


def _up_to(most: int) -> Callable[[_Row, str], int]:
    def read(row: _Row, column: str) -> int:
        number = row.count(column)
        if number > most:
            raise row.fail(f"{column}={row.text(column)}: must be at most {most}")
        return number

    return read


def _one_or_count(row: _Row, column: str) -> int:
    return row.count(column, default=1)


def _key_value_heads(row: _Row, column: str) -> int:
    return row.count(column) if row.text(column) else row.count("heads")


def _stage(row: _Row, column: str) -> int:
    stage = row.count(column, default=0, least=0)
    if stage > 3:
        raise row.fail(f"{column}={stage}: ZeRO's stages are 0, 1, 2, 3")
    return stage


def _flag(row: _Row, column: str) -> bool:
    return row.flag(column)


_COLUMNS: dict[str, Callable[[_Row, str], Any]] = {
    "run_id": _text,
    "cluster": _text,
    "software": _any_text,
    "model": _text,
    "layers": _up_to(MOST_LAYERS),
    "hidden": _count,
    "ffn_hidden": _count,
    "heads": _count,
    "kv_heads": _key_value_heads,
    "gated_mlp": _flag,
    "vocab": _count,
    "tied_embeddings": _flag,
    "seq": _count,
    "gpus": _up_to(MOST_DEVICES),
    "tp": _count,
    "cp": _one_or_count,
    "pp": _count,
    "vpp": _one_or_count,
    "dp": _count,
    "zero": _stage,
    "micro_batch": _count,
    "global_batch": _count,
    "precision": lambda row, column: row.choice(column, Precision),
    "recompute": lambda row, column: row.choice(column, Recompute, Recompute.none),
    "sequence_parallel": _flag,
    "flash_attention": _flag,
    "schedule": lambda row, column: row.choice(column, PipelineSchedule, PipelineSchedule.none),
}
"""The columns that every row needs, and how each is read."""


def _impossible(run: Run) -> Iterator[str]:
    """What contradicts itself. Runs that are merely odd (layers or heads that do not divide evenly, fewer
    micro-batches than stages) have been made, and are predicted."""
    product = run.tp * run.cp * run.pp * run.dp
    if product != run.gpus:
        yield (
            f"tp {run.tp} x cp {run.cp} x pp {run.pp} x dp {run.dp} = {product}, but gpus={run.gpus}"
            + _nearest_dp(run)
        )
    unit = run.dp * run.micro_batch
    if run.global_batch % unit:
        below, above = run.global_batch // unit * unit, -(-run.global_batch // unit) * unit
        nearby = f"{below} or {above}" if below else str(above)
        yield (
            f"global_batch={run.global_batch} is not divisible by dp {run.dp} x micro_batch "
            f"{run.micro_batch} = {unit}: nearest is {nearby}"
        )
    if run.heads % run.kv_heads:
        mend = nearest(run.kv_heads, divisors(run.heads))
        yield f"kv_heads={run.kv_heads} does not divide heads={run.heads}: nearest is {mend}"
    if run.seq % run.cp:
        yield f"cp={run.cp} does not divide seq={run.seq}: nearest is {nearest(run.cp, divisors(run.seq))}"


def _nearest_dp(run: Run) -> str:
    rest = run.tp * run.cp * run.pp
    return f": nearest is dp={run.gpus // rest}" if run.gpus % rest == 0 else ""
