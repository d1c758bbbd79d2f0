"""What wandb wrote into a run's folder while it was offline."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_log(path: Path) -> Iterator[Any]:
    """wandb's records in a .wandb file: LevelDB's log format, after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    block, offset, partial = 32768, 7, b""
    data = path.read_bytes()
    while offset + 7 <= len(data):
        if block - offset % block < 7:
            offset += block - offset % block
            continue
        length, kind = int.from_bytes(data[offset + 4 : offset + 6], "little"), data[offset + 6]
        partial += data[offset + 7 : offset + 7 + length]
        offset += 7 + length
        if kind in (1, 4):  # whole, or last piece
            record = wandb_internal_pb2.Record()
            record.ParseFromString(partial)
            partial = b""
            yield record


def log_files(run_dir: Path) -> list[Path]:
    return sorted((run_dir / "wandb").glob("offline-run-*/*.wandb"))


def history(path: Path) -> dict[int, dict[str, float]]:
    """Logged values by step."""
    rows = {}
    for record in read_log(path):
        if record.WhichOneof("record_type") == "history":
            row = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
            rows[int(row["_step"])] = row
    return rows


def start_of(path: Path) -> Any:
    return next(r.run for r in read_log(path) if r.WhichOneof("record_type") == "run")
