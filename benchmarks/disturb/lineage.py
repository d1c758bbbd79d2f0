"""Which batches are in the final weights, by what the witnesses in the ranks wrote down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = "WITNESS"
"""The environment variable that tells witnesses where to write."""

Samples = Mapping[int, str]
"""By global number: the digest of each sample's tokens."""


@dataclass(frozen=True)
class Start:
    """One start of all ranks."""

    loaded: int
    """The step of the checkpoint that its weights were read from; 0: none."""
    ranks: int
    batches: Mapping[int, Samples]
    """By step: the global batch, all replicas together."""

    @property
    def reached(self) -> int:
        """The furthest step that it began."""
        return max(self.batches, default=self.loaded)


def read_starts(folder: Path) -> list[Start]:
    """The starts that witnesses in ``folder`` saw come as far as a first step, oldest first."""
    names = sorted((path.name for path in folder.iterdir()), key=int) if folder.exists() else []
    return [start for name in names if (start := _read(folder / name)).batches]


def lineage(starts: list[Start], last: int) -> dict[int, Samples]:
    """By step, the global batch that the weights after step ``last`` come of.

    Goes backwards: the last start made the steps since the checkpoint that it read, the one that wrote this
    checkpoint those before, and so on to the first step.
    """
    made: dict[int, Samples] = {}
    step = last
    for start in reversed(starts):
        if start.loaded < step <= start.reached:
            made.update({s: start.batches[s] for s in range(start.loaded + 1, step + 1)})
            step = start.loaded
    assert step == 0, f"nobody saw how the weights after step {step} came about"
    return made


def _read(folder: Path) -> Start:
    loaded: set[int] = set()
    batches: dict[int, dict[int, str]] = {}
    files = sorted(folder.glob("rank-*.jsonl"))
    for file in files:
        notes = [json.loads(line) for line in file.read_bytes().splitlines()]
        first = 1
        if notes and "loaded" in notes[0]:
            first += int(notes.pop(0)["loaded"].removeprefix("step-"))
        loaded.add(first - 1)
        for step, note in enumerate(notes, first):
            whole = batches.setdefault(step, {})
            for sample, digest in note["batch"].items():
                known = whole.setdefault(int(sample), digest)
                assert known == digest, f"ranks were fed different tokens as sample {sample}"
    # A rank that was killed before it had read the checkpoint says nothing of it.
    return Start(max(loaded, default=0), len(files), batches)
