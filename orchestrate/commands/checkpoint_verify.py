"""``orchestrate checkpoint verify``: every file against its checksum, every tensor's place in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from orchestrate.commands.checkpoints import MIB, given
from orchestrate.config import Config
from orchestrate.errors import CheckpointError
from orchestrate.train.checkpoint.format import found, leftovers, problems, read_checksums, read_state


def run(config: Config, overrides: Sequence[str]) -> int:
    """Print for each checkpoint of ``path`` whether it is whole, and which files are not.

    Returns:
        0 when all are, 1 otherwise.
    """
    console = Console(highlight=False, soft_wrap=True)
    folder = given(config, "orchestrate checkpoint verify")
    damaged = 0
    for one in found(folder):
        with console.status(f"reading {one.path}"):
            damage = problems(one.path) or _unreadable(one.path)
        for problem in damage:
            console.print(f"{one.path}: {problem}", style="red", markup=False)
        damaged += bool(damage)
        if not damage:
            files = read_checksums(one.path).values()
            size = sum(file.bytes for file in files) / MIB
            console.print(f"{one.path}: whole, {len(files)} files, {size:.1f} MiB", markup=False)
    for leftover in leftovers(found(folder)[0].path.parent):
        console.print(f"{leftover}: never finished; the next run here removes it", markup=False)
    return 1 if damaged else 0


def _unreadable(path: Path) -> list[str]:
    from orchestrate.train.checkpoint.read import names

    try:
        read_state(path)
        names(path)
    except CheckpointError as error:
        return [str(error)]
    return []
