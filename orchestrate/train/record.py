"""What a few training steps compute, whole and by name, whatever the layout they ran in.

``python -m orchestrate.train.record RUN_DIR`` is the worker of ``orchestrate verify``; the launcher
starts it in place of the training worker.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import yaml
from torch import Tensor

from orchestrate import config as configs
from orchestrate.config import Config
from orchestrate.data import open_data
from orchestrate.data.loader import Batch, Loader
from orchestrate.mesh import ParallelContext, build_context
from orchestrate.model.sharding import Sharding
from orchestrate.plan import plan as plans
from orchestrate.plan.plan import Plan
from orchestrate.train.compare import COPIES, GRADIENT, INITIAL, LOSS, NORM, RECORD, WEIGHT, key
from orchestrate.train.lr import learning_rate
from orchestrate.train.process import Process, leave, on_terminate, report_failure
from orchestrate.train.setup import Replica, build_replica, seed_everything

KEEPER = 0
"""The logical rank that gathers the record."""

Arrays = dict[str, "np.ndarray[Any, Any]"]


def record(
    plan: Plan, config: Config, context: ParallelContext, batches: Callable[[int], Batch], steps: int
) -> Arrays:
    """Train ``steps`` optimizer steps and record what they compute; collective.

    Args:
        batches: this replica's share of the global batch of a step (from 0).

    Returns:
        On rank `KEEPER` every array of `orchestrate.train.compare`, whole parameters in at least
        fp32 and on the CPU; nothing on other ranks.
    """
    return record_replica(config, build_replica(plan, config, context), batches, steps)


def record_replica(config: Config, replica: Replica, batches: Callable[[int], Batch], steps: int) -> Arrays:
    """As `record`, with this rank's part of the model already built."""
    context = replica.context
    shardings = {name: sharding for stage in replica.stages for name, sharding in stage.shardings.items()}
    kept: Arrays = {}

    def keep(quantity: str, step: int, slices: Mapping[str, Tensor]) -> None:
        whole, apart = gather(context, slices, shardings)
        kept.update({key(quantity, step, name): array for name, array in whole.items()})
        if context.rank == KEEPER:
            copies = key(COPIES, step)
            kept[copies] = np.array(max(apart, kept[copies].item() if copies in kept else 0.0))

    keep(INITIAL, 0, replica.zero.parameters())
    for step in range(1, steps + 1):
        batch = batches(step - 1)
        batch = Batch(batch.tokens.to(context.device), batch.samples.to(context.device))
        loss = mean_loss(context, replica.pipeline.run(batch))
        update = replica.zero.step(
            learning_rate(config.optim, step, config.train.steps),
            observe=lambda gradients, step=step: keep(GRADIENT, step, gradients),  # type: ignore[misc]
        )
        if context.rank == KEEPER:
            kept[key(LOSS, step)] = np.array(loss)
            kept[key(NORM, step)] = np.array(update.grad_norm)
    keep(WEIGHT, steps, replica.zero.parameters())
    return kept


def mean_loss(context: ParallelContext, loss: Tensor) -> float:
    """The loss over all replicas, from what `Pipeline.run` returned on each rank; the same on every rank."""
    total = loss.detach().double().reshape(1)
    if context.world.group is not None:
        dist.all_reduce(total, group=context.world.group)
    # Ranks without the last stage count zero.
    return total.item() / (context.dims.tp * context.dims.cp * context.dims.dp)


def gather(
    context: ParallelContext, slices: Mapping[str, Tensor], shardings: Mapping[str, Sharding]
) -> tuple[Arrays, float]:
    """Bring the slices of all ranks to rank `KEEPER` and put them together; collective.

    Returns:
        On `KEEPER` the whole parameters by name, and the largest relative difference between ranks
        that hold the same slice; nothing and zero elsewhere.
    """
    # A sharding can travel without its groups, and an array much faster than a tensor.
    mine = {
        name: (replace(shardings[name], partial=()), tensor.detach().cpu().numpy())
        for name, tensor in slices.items()
    }
    everyone: list[Any] = [mine]
    if context.world.group is not None:
        everyone = [None] * context.dims.world
        dist.gather_object(
            mine, everyone if context.rank == KEEPER else None, dst=KEEPER, group=context.world.group
        )
    if context.rank != KEEPER:
        return {}, 0.0
    whole: dict[str, Tensor] = {}
    covered: dict[str, Tensor] = {}
    apart = 0.0
    for theirs in everyone:
        for name, (sharding, array) in theirs.items():
            local = torch.from_numpy(array)
            full = whole.setdefault(name, torch.zeros(sharding.full_shape, dtype=local.dtype))
            seen = covered.setdefault(name, torch.zeros(sharding.full_shape, dtype=torch.bool))
            known = sharding.take(seen)
            if known.any():
                difference = ((local - sharding.take(full)).abs() * known).max().item()
                apart = max(apart, difference / max(local.abs().max().item(), torch.finfo(local.dtype).tiny))
            sharding.put(local, full)
            sharding.put(torch.ones_like(known), seen)
    for name, seen in covered.items():
        assert seen.all(), f"no rank holds all of {name}"
    return {name: full.numpy() for name, full in whole.items()}, apart


def main(run_dir: Path) -> None:
    """Record the run whose config and plan are in ``run_dir``, and end the process."""
    process = Process.from_environment()
    on_terminate(lambda: None)
    try:
        config = configs.load(yaml.safe_load((run_dir / "config.yaml").read_text()))
        plan = plans.load(run_dir / "plan.yaml")
        device = process.device(plan.cluster.device.kind)
        process.join(plan, device)
        context = build_context(plan, device)
        seed_everything(config.train.seed, device)
        loader = Loader(open_data(config).train, plan.global_batch, context.dp.rank, context.dp.size)
        arrays = record(plan, config, context, loader.batch, config.verify.steps)
        if context.rank == KEEPER:
            from safetensors.numpy import save_file

            save_file(arrays, run_dir / RECORD)
        # Nobody leaves while another still reads what it sent.
        dist.barrier()
    except BaseException as error:
        status = report_failure(error, process, run_dir)
        leave(status)
    leave(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
