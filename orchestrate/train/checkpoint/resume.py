"""Where a run goes on: the newest checkpoint that is whole, whatever layout wrote it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch.distributed as dist

from orchestrate.config import Config
from orchestrate.errors import CheckpointError
from orchestrate.parallel.zero.base import Counters, ZeroEngine
from orchestrate.train.checkpoint.agreement import check
from orchestrate.train.checkpoint.format import FOLDER, Found, found, problems, read_state, resolve
from orchestrate.train.checkpoint.keep import sweep
from orchestrate.train.checkpoint.read import load


@dataclass(frozen=True)
class Position:
    """Where training stands."""

    step: int = 0
    """Updates made, skipped ones included."""
    samples: int = 0
    """Global samples consumed."""
    path: Path | None = None
    """The checkpoint that was loaded; None: training begins."""
    damaged: tuple[int, ...] = ()
    """Steps of the run's own checkpoints that were passed over."""


def resume(
    run_dir: Path,
    config: Config,
    engine: ZeroEngine,
    data_fingerprint: str,
    notify: Callable[[str], None] | None = None,
) -> Position:
    """Load the newest whole checkpoint of ``run_dir`` into ``engine``, or else that of ``checkpoint.load``.

    Collective. Every file is read and compared with its checksum first, the work spread over the ranks.

    Args:
        notify: is told of checkpoints that are damaged and passed over; on one rank.

    Raises:
        CheckpointError: none is whole, or it is of another model or other data.
    """
    folder = run_dir / FOLDER
    if dist.get_rank() == 0:
        sweep(folder)
    candidates = _agree(found(folder))
    if not candidates:
        if config.checkpoint.load is None:
            return Position()
        folder = resolve(config.checkpoint.load)
        candidates = _agree(found(folder))
    damaged: list[int] = []
    for candidate in candidates:
        damage = _damage(candidate)
        if not damage:
            position = _take(candidate.path, config, engine, data_fingerprint)
            return replace(position, damaged=tuple(damaged) if folder == run_dir / FOLDER else ())
        damaged.append(candidate.step)
        if notify is not None:
            notify(f"{candidate.path} is damaged ({'; '.join(damage)}): passed over for the one before")
    raise CheckpointError(
        f"no checkpoint in {folder} is whole ({len(candidates)} damaged, orchestrate checkpoint verify names"
        " the files): restore one, or choose another run.dir"
    )


def _agree(mine: list[Found]) -> list[Found]:
    """What the first rank found: another may look a moment earlier or later."""
    shared: list[Any] = [mine]
    dist.broadcast_object_list(shared)
    agreed: list[Found] = shared[0]
    return agreed


def _damage(candidate: Found) -> list[str]:
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, problems(candidate.path, dist.get_rank(), dist.get_world_size()))
    return list(dict.fromkeys(problem for theirs in everyone for problem in theirs))


def _take(path: Path, config: Config, engine: ZeroEngine, data_fingerprint: str) -> Position:
    state = read_state(path)
    check(state, path, config, data_fingerprint)
    load(path, engine.fragments())
    saved = Counters(state.updates, state.loss_scale, state.good_steps)
    engine.restore(engine.counters() if state.untrained else saved)
    return Position(state.step, state.samples, path)
