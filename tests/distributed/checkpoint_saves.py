"""Small saves without a model, on ranks of the pool: some are killed meanwhile, some find no room."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

STATE = {
    "samples": 0,
    "seed": 0,
    "data_fingerprint": "none",
    "updates": 0,
    "loss_scale": 1.0,
    "good_steps": 0,
    "config": {},
    "plan": {},
    "revision": None,
    "versions": {},
    "time": 0.0,
}
ROWS = 64


def save_step(run_dir: str, step: int) -> str:
    """Save a tensor of ``step`` everywhere, cut over the ranks; the notice given, if any."""
    import torch
    import torch.distributed as dist

    from orchestrate.model.sharding import Sharding
    from orchestrate.train.checkpoint.format import FOLDER, State
    from orchestrate.train.checkpoint.parts import Part
    from orchestrate.train.checkpoint.write import save

    rows = ROWS // dist.get_world_size()
    sharding = Sharding((ROWS, 256), 0, ((dist.get_rank() * rows, rows),))
    parts = [Part("model.x", sharding, 0, torch.full((rows * 256,), float(step)))]
    state: Any = STATE
    save(parts, State(step=step, **state), Path(run_dir) / FOLDER, "token")
    return run_dir


def save_and_die(run_dir: str, step: int, last_words: int) -> int:
    """Save, but get SIGKILL when the ``last_words``-th thing is about to be done to a file of the folder.

    Returns how many things were done, where that is less.
    """
    done = 0

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal done
        if event in ("open", "os.mkdir", "os.rename", "os.rmdir", "os.remove") and run_dir in str(arguments):
            done += 1
            if done == last_words:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(note)
    save_step(run_dir, step)
    return done


def save_into_a_full_disk(run_dir: str, step: int, limit: int) -> str:
    """Save where no file may grow beyond ``limit`` bytes on the last rank; what the error says."""
    import resource

    import torch.distributed as dist

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if dist.get_rank() == dist.get_world_size() - 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        save_step(run_dir, step)
    except OSError as error:
        return f"{type(error).__name__}: {error.strerror}"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return "saved"
