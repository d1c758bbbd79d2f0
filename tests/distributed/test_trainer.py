"""The training loop in several layouts: its records, its evaluations, and where it starts."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from orchestrate.config import Schedule, TrainConfig
from orchestrate.train.lr import learning_rate
from tests.distributed.pool import Pool
from tests.equivalence.layouts import GLOBAL_BATCH, GPT, Layout, config_of, plan_of

ALONE = Layout()
LAYOUTS = [
    Layout(tp=2, dp=2, sp=True),
    Layout(pp=2, dp=2),
    Layout(tp=2, pp=2, schedule=Schedule.zbv, vpp=2, order=("pp", "tp", "cp", "dp")),
]
TRAIN = TrainConfig(steps=5, global_batch=GLOBAL_BATCH, log_every=2, eval_every=3, eval_batches=2, seed=7)


class RandomWords:
    """Sample n is random tokens that depend on ``name`` and n alone; remembers what was asked for."""

    def __init__(self, name: int) -> None:
        self._name = name
        self.asked: list[int] = []

    def sample(self, n: int) -> Any:
        self.asked.append(n)
        return np.random.default_rng([self._name, n]).integers(GPT.vocab, size=GPT.seq + 1)


def train_on_a_rank(
    layout: Layout, train: TrainConfig, start_step: int = 0
) -> tuple[list[Any], list[int], list[int]]:
    """Records of this rank's observer, and the training and validation samples it asked for."""
    import torch

    from orchestrate.data.loader import Loader
    from orchestrate.mesh import build_context
    from orchestrate.train import trainer
    from orchestrate.train.setup import build_replica

    plan, config = plan_of(layout), dataclasses.replace(config_of(layout), train=train)
    context = build_context(plan, torch.device("cpu"))
    replica = build_replica(plan, config, context)
    samplers = RandomWords(1), RandomWords(2)
    loaders = [Loader(s, train.global_batch, context.dp.rank, context.dp.size) for s in samplers]
    records: list[Any] = []
    trainer.train(plan, config, replica, trainer.Batches(*loaders), [records.append], start_step)
    return records, samplers[0].asked, samplers[1].asked


@pytest.fixture(scope="module")
def alone(pool: Pool) -> Any:
    (result,) = pool.run(1, train_on_a_rank, ALONE, TRAIN)
    return result


def test_a_record_where_one_is_due(alone: Any) -> None:
    records, _, _ = alone
    assert [r.step for r in records] == [2, 3, 4, 5]  # every second, after the evaluation, the last
    assert [r.val_loss is not None for r in records] == [False, True, False, True]


def test_a_record_says_what_the_step_did(alone: Any) -> None:
    records, asked, _ = alone
    config = config_of(ALONE)
    for record in records:
        assert record.lr == learning_rate(config.optim, record.step, TRAIN.steps)
        assert record.samples == record.step * GLOBAL_BATCH
        assert record.tokens == record.samples * GPT.seq
        assert record.perplexity == pytest.approx(np.exp(record.loss))
        assert record.grad_norm > 0
        assert (record.loss_scale, record.skipped) == (1.0, 0)
        assert record.tokens_per_s == pytest.approx(GLOBAL_BATCH * GPT.seq / record.step_time_s)
        assert 0 < record.mfu < 1
    assert asked == list(range(TRAIN.steps * GLOBAL_BATCH))


def test_every_evaluation_sees_the_same_samples(alone: Any) -> None:
    _, _, asked = alone
    assert asked == list(range(TRAIN.eval_batches * GLOBAL_BATCH)) * 2


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_records_are_those_of_one_process(pool: Pool, alone: Any, layout: Layout) -> None:
    expected, _, _ = alone
    results = pool.run(layout.world, train_on_a_rank, layout, TRAIN)
    for records, _, _ in results:  # every rank knows the same
        for record, one in zip(records, expected, strict=True):
            assert record.loss == pytest.approx(one.loss, rel=1e-5)
            assert record.val_loss == (one.val_loss and pytest.approx(one.val_loss, rel=1e-5))
            assert record.grad_norm == pytest.approx(one.grad_norm, rel=1e-5)
            assert (record.samples, record.tokens) == (one.samples, one.tokens)
            assert record.tokens_per_s_per_device == pytest.approx(record.tokens_per_s / layout.world)
            assert len(record.memory_mib) == layout.world
            assert record.memory_mib_max == max(record.memory_mib) >= min(record.memory_mib) > 50
    replicas = [sorted(set(validation)) for _, _, validation in results]
    assert sorted({n for asked in replicas for n in asked}) == list(range(TRAIN.eval_batches * GLOBAL_BATCH))


def test_it_goes_on_from_a_later_step(pool: Pool, alone: Any) -> None:
    expected, _, _ = alone
    ((records, asked, _),) = pool.run(1, train_on_a_rank, ALONE, TRAIN, 3)
    assert [r.step for r in records] == [4, 5]
    assert [r.lr for r in records] == [r.lr for r in expected[2:]]
    assert asked == list(range(3 * GLOBAL_BATCH, 5 * GLOBAL_BATCH))


def test_without_evaluation_there_is_none(pool: Pool) -> None:
    train = dataclasses.replace(TRAIN, eval_batches=0, steps=2)
    ((records, _, validation),) = pool.run(1, train_on_a_rank, ALONE, train)
    assert [r.val_loss for r in records] == [None]
    assert validation == []
