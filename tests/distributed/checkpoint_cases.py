"""Training on a rank of the pool that saves checkpoints and goes on from them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrate.config import CheckpointConfig, Config, PrecisionConfig
from tests.equivalence.layouts import GLOBAL_BATCH, Layout, config_of, plan_of

FINGERPRINT = "random tokens"
STEPS = 4


@dataclass
class Told:
    """What a rank has to say about a run."""

    losses: list[float] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    weights: str = ""
    """Digest of every local master weight and moment at the end."""
    start: int = 0
    notices: list[str] = field(default_factory=list)


def config_for(layout: Layout, checkpoint: CheckpointConfig, fp16_scale: float = 1024.0) -> Config:
    config = config_of(layout)
    precision = PrecisionConfig(layout.dtype, initial_loss_scale=fp16_scale, loss_scale_window=2)
    return replace(config, precision=precision, checkpoint=checkpoint)


def train(
    layout: Layout,
    run_dir: str,
    steps: int = STEPS,
    every: int = 2,
    asynchronous: bool = True,
    fp16_scale: float = 1024.0,
) -> Told:
    """Train ``layout`` up to ``steps``, going on from what ``run_dir`` holds, saving now and then."""
    import torch

    from orchestrate.data.loader import Loader
    from orchestrate.mesh import build_context
    from orchestrate.train.checkpoint.asynchronous import Saver
    from orchestrate.train.checkpoint.resume import resume
    from orchestrate.train.lr import learning_rate
    from orchestrate.train.record import mean_loss
    from orchestrate.train.setup import build_replica, seed_everything

    checkpoint = CheckpointConfig(every=every, keep=0, asynchronous=asynchronous)
    plan, config = plan_of(layout), config_for(layout, checkpoint, fp16_scale)
    device = torch.device("cpu")
    context = build_context(plan, device)
    seed_everything(config.train.seed, device)
    replica = build_replica(plan, config, context)
    loader = Loader(Words(layout), GLOBAL_BATCH, context.dp.rank, context.dp.size)
    told = Told()
    start = resume(Path(run_dir), config, replica.zero, FINGERPRINT, told.notices.append)
    told.start = start.step
    with Saver(Path(run_dir), plan, config, context, FINGERPRINT, told.notices.append) as saver:
        for step in range(start.step + 1, steps + 1):
            loss = replica.pipeline.run(loader.batch(step - 1))
            told.losses.append(mean_loss(context, loss))
            told.scales.append(replica.zero.step(learning_rate(config.optim, step, 10)).loss_scale)
            if saver.due(step, steps):
                saver.save(step, loader.position(step), replica.zero)
    told.weights = digest(replica.zero)
    return told


def pass_on(layout: Layout, run_dir: str, copy_dir: str) -> Told:
    """Load the newest checkpoint of ``run_dir`` into ``layout``, save it into ``copy_dir`` as it is, and
    train on for one step, which is saved in ``run_dir``."""
    import torch

    from orchestrate.mesh import build_context
    from orchestrate.train.checkpoint.asynchronous import Saver
    from orchestrate.train.checkpoint.resume import resume
    from orchestrate.train.setup import build_replica

    checkpoint = CheckpointConfig(every=1, keep=0)
    plan, config = plan_of(layout), config_for(layout, checkpoint)
    context = build_context(plan, torch.device("cpu"))
    engine = build_replica(plan, config, context).zero
    start = resume(Path(run_dir), config, engine, FINGERPRINT)
    with Saver(Path(copy_dir), plan, config, context, FINGERPRINT) as saver:
        saver.save(start.step, start.samples, engine)
    return train(layout, run_dir, start.step + 1, every=1)


class Words:
    """Sample n is random tokens that depend on n alone."""

    def __init__(self, layout: Layout) -> None:
        self.seq, self.windows, self._vocab = layout.model.seq, 1 << 20, layout.model.vocab

    def sample(self, n: int) -> Any:
        import numpy as np

        return np.random.default_rng([9, n]).integers(self._vocab, size=self.seq + 1)


def digest(engine: Any) -> str:
    hashed = hashlib.sha256(repr(engine.counters()).encode())
    for name, one in sorted(engine.fragments().items()):
        hashed.update(name.encode())
        for values in (one.master, one.exp_avg, one.exp_avg_sq):
            hashed.update(values.contiguous().numpy().tobytes())
    return hashed.hexdigest()
