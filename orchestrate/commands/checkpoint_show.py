"""``orchestrate checkpoint show``: which checkpoints a run has, and what is in the newest. No torch here."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from orchestrate.commands.checkpoints import MIB, given, layout
from orchestrate.config import Config, PlanFormat
from orchestrate.errors import CheckpointError
from orchestrate.plan.shown.search_tables import table
from orchestrate.train.checkpoint.format import Found, State, found, read_checksums, read_state


def run(config: Config, overrides: Sequence[str]) -> int:
    """Print a line for each checkpoint of ``path``; no tensor is read."""
    folder = given(config, "orchestrate checkpoint show")
    rows = [_row(one) for one in found(folder)]
    if config.plan.format is PlanFormat.json:
        print(json.dumps(rows, indent=2))
        return 0
    cells = [[_cell(row[key]) for key in _COLUMNS] for row in rows]
    made = table(*_TITLES, right=(0, 1, 3))
    for title, *column in zip(made.columns, *cells, strict=True):
        title.min_width = max((len(word) for cell in column for word in cell.split()), default=0)
        title.no_wrap = title.no_wrap or title.header == "saved"
    for row_cells in cells:
        made.add_row(*row_cells)
    console = Console()
    console.print(str(folder), markup=False, highlight=False, soft_wrap=True)
    console.print(made, highlight=False)
    for row in rows:
        if "problem" in row:
            console.print(f"{row['folder']}: {row['problem']}", style="red", markup=False, soft_wrap=True)
    return 0


_TITLES = ("step", "samples", "saved", "MiB", "layout", "precision", "revision")
_COLUMNS = ("step", "samples", "saved", "mib", "layout", "precision", "revision")


def _cell(value: Any) -> str:
    text = "" if value is None else str(value)
    # A commit is known by its first digits.
    return text[:8] + text[40:] if re.fullmatch(r"[0-9a-f]{40}(-dirty)?", text) else text


def _row(one: Found) -> dict[str, Any]:
    try:
        state, checksums = read_state(one.path), read_checksums(one.path)
    except CheckpointError as error:
        return {
            **dict.fromkeys(_COLUMNS, "?"),
            "step": one.step,
            "folder": str(one.path),
            "problem": str(error),
        }
    return {
        **_values(state),
        "mib": round(sum(c.bytes for c in checksums.values()) / MIB, 1),
        "folder": str(one.path),
    }


def _values(state: State) -> dict[str, Any]:
    return {
        "step": state.step,
        "samples": state.samples,
        "saved": time.strftime("%m-%d %H:%M:%S", time.localtime(state.time)),
        "layout": layout(state.plan),
        "precision": state.config.get("precision", {}).get("dtype", "?"),
        "revision": state.revision,
        "versions": dict(state.versions),
        "seed": state.seed,
        "loss_scale": state.loss_scale,
        "updates": state.updates,
    }
