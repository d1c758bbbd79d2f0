"""A rank of training that somebody watches: what its model is fed goes into a file of its own.

``python -m benchmarks.disturb.witness RUN_DIR`` is the worker of `orchestrate.train.worker`. Besides, it
notes the checkpoint that weights were read from, and of each batch that enters the pipeline the numbers of
the samples and a digest of each one's tokens. It knows nothing of what the trainer says about itself, and
writes outside of the run's folder, which may be full: into the one that ``WITNESS`` names.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch.distributed as dist

from benchmarks.disturb.lineage import FOLDER
from orchestrate.data.loader import Batch
from orchestrate.train import worker
from orchestrate.train.checkpoint import resume as resuming
from orchestrate.train.setup import Replica


def main(run_dir: Path) -> None:
    """Train as `orchestrate.train.worker.main` does, and take notes."""
    build, resume, load = worker.build_replica, worker.resume, resuming.load
    file: Any = None

    def note(**what: Any) -> None:
        file.write(json.dumps(what).encode() + b"\n")

    def named_resume(*args: Any, **kwargs: Any) -> Any:
        nonlocal file
        begun = [time.time_ns()]
        dist.broadcast_object_list(begun)  # what tells the ranks of this start from those of another
        folder = Path(os.environ[FOLDER], str(begun[0]))
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / f"rank-{dist.get_rank()}.jsonl").open("wb", buffering=0)
        return resume(*args, **kwargs)

    def noted_load(path: Path, *args: Any) -> None:
        load(path, *args)
        note(loaded=path.name)

    def watched_replica(*args: Any) -> Replica:
        replica = build(*args)
        run = replica.pipeline.run

        def noted_run(batch: Batch) -> Any:
            rows = (row.numpy().tobytes() for row in batch.tokens)
            digests = [hashlib.blake2b(row, digest_size=8).hexdigest() for row in rows]
            note(batch=dict(zip(batch.samples.tolist(), digests, strict=True)))
            return run(batch)

        replica.pipeline.run = noted_run  # type: ignore[method-assign]
        return replica

    worker.build_replica, worker.resume, resuming.load = watched_replica, named_resume, noted_load
    worker.main(run_dir)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
