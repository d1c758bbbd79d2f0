"""Tables of measured runs for the tests, written row by row."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from orchestrate.measurements.read import read_table
from orchestrate.measurements.schema import Run

ROW: dict[str, Any] = {
    "run_id": "mine-0001",
    "cluster": "selene-a100",
    "software": "megatron-lm 2021",
    "model": "gpt-7.5B",
    "layers": 36,
    "hidden": 4096,
    "ffn_hidden": 16384,
    "heads": 32,
    "kv_heads": 32,
    "gated_mlp": 0,
    "vocab": 51200,
    "tied_embeddings": 1,
    "seq": 2048,
    "gpus": 128,
    "tp": 4,
    "cp": 1,
    "pp": 1,
    "vpp": 1,
    "dp": 32,
    "zero": 0,
    "micro_batch": 16,
    "global_batch": 512,
    "precision": "fp16",
    "recompute": "full",
    "sequence_parallel": 0,
    "flash_attention": 0,
    "schedule": "none",
}
"""The 7.5B model of Narayanan et al. 2021 (arXiv:2104.04473), table 1; nothing measured."""


def write_table(file: Path, *changes: dict[str, Any], without: tuple[str, ...] = ()) -> Path:
    """A table with a row for each of ``changes`` to `ROW`, and no column of ``without``."""
    rows = [{**ROW, **change} for change in changes]
    columns = [
        column for column in dict.fromkeys(key for row in rows for key in row) if column not in without
    ]
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return file


def make_run(folder: Path, **changes: Any) -> Run:
    """The one row of such a table, read."""
    return read_table(write_table(folder / "one.csv", changes))[0]
