"""Numbers that cannot be right, on the ranks of the pool."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrate.config import FaultsConfig, TrainConfig
from orchestrate.plan.layout import ParallelDims
from orchestrate.train.resilience.skips import Skip, add_skip, batch_of, read_skips
from orchestrate.train.resilience.stragglers import straggler
from tests.distributed.pool import Pool, RankFailed
from tests.equivalence.layouts import GLOBAL_BATCH, GPT, Layout, config_of, plan_of

STEPS = 4
SLOW_S = 0.25
"""Processor time that a slow rank spends on each step besides."""
NOTHING = (0, "", 0.0)
"""What is spoiled where nothing is: no parameter has that name."""


class Words:
    """Sample n is random tokens that depend on n alone."""

    def sample(self, n: int) -> Any:
        return np.random.default_rng(n).integers(GPT.vocab, size=GPT.seq + 1)


class Watched:
    """A watch that checks numbers alone."""

    def __init__(self, config: Any, replica: Any, slow: int) -> None:
        from orchestrate.train.resilience.numbers import NonFinite

        self.numbers = NonFinite(config, replica)
        self.every, self.replica, self.slow = config.faults.replica_check_every, replica, slow

    def batch_of(self, step: int) -> int:
        return step - 1

    def begin(self, step: int) -> None:
        """The rank that is slow has more to do than the others."""
        until = time.thread_time() + (SLOW_S if self.replica.context.rank == self.slow else 0.0)
        while time.thread_time() < until:
            pass

    def end(self, step: int, batch: Any, rate: float, update: Any) -> bool:
        from orchestrate.train.resilience.replicas import check_replicas

        self.numbers.check(step, batch, rate, update)
        if self.every and step % self.every == 0:
            check_replicas(self.replica, step)
        return False

    def logged(self, step: int, loss: float) -> bool:
        return False


def train_on_a_rank(
    layout: Layout, faults: FaultsConfig, spoil: tuple[int, str, float] = NOTHING, slow: int = -1
) -> Any:
    """Train a few steps, with the first element of a parameter spoiled on one rank, and one that is slow;
    what each record says of skipped steps and of the ranks' times."""
    import torch

    from orchestrate.data.loader import Loader
    from orchestrate.mesh import build_context
    from orchestrate.train import trainer
    from orchestrate.train.setup import build_replica

    train = TrainConfig(steps=STEPS, global_batch=GLOBAL_BATCH, eval_batches=0, seed=7)
    config = dataclasses.replace(config_of(layout), train=train, faults=faults)
    plan = plan_of(layout)
    context = build_context(plan, torch.device("cpu"))
    replica = build_replica(plan, config, context)
    if spoil[0] in (context.rank, -1):
        for stage in replica.stages:
            for name, parameter in stage.named_parameters():
                if name == spoil[1]:
                    parameter.data.view(-1)[0] = spoil[2]
    loaders = [Loader(Words(), GLOBAL_BATCH, context.dp.rank, context.dp.size) for _ in range(2)]
    records: list[Any] = []
    watch = Watched(config, replica, slow)
    trainer.train(plan, config, replica, trainer.Batches(*loaders), [records.append], watch=watch)
    return [(record.skipped, record.busy_s, record.straggler) for record in records]


NAME = "layers.3.mlp.up.weight"


@pytest.mark.parametrize("layout", [Layout(dp=2), Layout(pp=2), Layout(tp=2)], ids=str)
def test_the_parameter_is_named_once_the_budget_is_spent(pool: Pool, layout: Layout) -> None:
    faults = FaultsConfig(nonfinite_budget=2)
    with pytest.raises(RankFailed) as raised:
        pool.run(2, train_on_a_rank, layout, faults, (-1, NAME, float("nan")))
    last = raised.value.reason.strip().splitlines()[-1]
    assert f"NumericalError: step 3: the weights of {NAME} are not finite" in last
    assert "3 steps were skipped over this and faults.nonfinite_budget=2" in last


def test_within_the_budget_steps_are_skipped(pool: Pool) -> None:
    spoiled = (-1, NAME, float("nan"))
    results = pool.run(2, train_on_a_rank, Layout(dp=2), FaultsConfig(), spoiled)
    assert [[skipped for skipped, _, _ in records] for records in results] == [[1] * STEPS] * 2


def test_gradients_that_overflow_are_named(pool: Pool) -> None:
    """The weight itself is finite; what comes of it is not."""
    spoiled = (-1, NAME, 3e38)
    with pytest.raises(RankFailed) as raised:
        pool.run(2, train_on_a_rank, Layout(dp=2), FaultsConfig(nonfinite_budget=0), spoiled)
    last = raised.value.reason.strip().splitlines()[-1]
    assert "NumericalError: step 1: the gradients of " in last
    assert "are not finite" in last


def test_equal_replicas_pass(pool: Pool) -> None:
    faults = FaultsConfig(replica_check_every=2)
    results = pool.run(2, train_on_a_rank, Layout(dp=2), faults)
    assert all(len(busy) == 2 and min(busy) > 0 for _, busy, _ in results[0])


def test_the_rank_that_the_others_wait_for_has_worked_longest(pool: Pool) -> None:
    results = pool.run(4, train_on_a_rank, Layout(dp=4), FaultsConfig(), NOTHING, 2)
    for _, busy, _ in results[0]:
        assert max(range(4), key=lambda rank: busy[rank]) == 2
        named = straggler(busy, ParallelDims(dp=4), step_time_s=SLOW_S)
        assert named is not None
        assert named.rank == 2


def test_the_replica_that_differs_is_named(pool: Pool) -> None:
    with pytest.raises(RankFailed) as raised:
        pool.run(4, train_on_a_rank, Layout(dp=4), FaultsConfig(replica_check_every=1), (2, NAME, 0.5))
    assert raised.value.rank == 2
    last = raised.value.reason.strip().splitlines()[-1]
    assert "step 1: rank 2 holds other weights than the other replicas: " in last


def test_of_two_replicas_nobody_can_tell(pool: Pool) -> None:
    with pytest.raises(RankFailed, match="ranks 0, 1 hold other weights than each other, and nobody"):
        pool.run(2, train_on_a_rank, Layout(dp=2), FaultsConfig(replica_check_every=1), (1, NAME, 0.5))


def test_a_jump_of_the_loss_is_seen_and_forgotten() -> None:
    from orchestrate.train.resilience.numbers import Spikes

    spikes = Spikes(2.0)
    assert [spikes.is_one(loss) for loss in (9.0, 2.0, 2.0, 2.0, 2.0, 3.9)] == [False] * 6
    assert spikes.is_one(4.1)
    assert not spikes.is_one(2.0)
    assert not spikes.is_one(float("nan"))
    never = Spikes(None)
    assert not any(never.is_one(loss) for loss in (1.0, 1.0, 1.0, 1.0, 1.0, 1e9))


def test_left_out_data_counts_until_a_checkpoint_holds_it(tmp_path: Path) -> None:
    assert read_skips(tmp_path) == ()
    add_skip(tmp_path, Skip(after=10, batches=3))
    add_skip(tmp_path, Skip(after=20, batches=2))
    skips = read_skips(tmp_path)
    # From the beginning: step 11 is the first past what is left out.
    assert [batch_of(step, 0, skips) for step in (1, 10, 11, 20, 21)] == [0, 9, 13, 22, 25]
    # A start from the checkpoint of step 10 has yet to leave them out, one from step 15 has done so.
    assert batch_of(11, 10, skips) == 13
    assert batch_of(16, 15, skips) == 15
    assert batch_of(21, 15, skips) == 22


def test_the_slow_rank_is_named_with_its_share() -> None:
    dims = ParallelDims(dp=4)
    slow = straggler([0.10, 0.11, 0.10, 0.16], dims, step_time_s=0.2)
    assert slow is not None
    assert (slow.rank, round(slow.share, 3)) == (3, 0.3)
    assert straggler([0.10, 0.10, 0.105, 0.10], dims, 0.2) is None
    # Stages are not compared: by plan one may have more to do.
    assert straggler([0.1, 0.3], ParallelDims(pp=2), 0.3) is None
    assert straggler([0.0] * 4, dims, 0.2) is None
