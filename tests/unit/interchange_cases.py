"""Checkpoints of random weights, folders in Hugging Face's form made of them, and a reader that counts."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orchestrate.config import DType, ModelConfig, dump
from orchestrate.interchange.exporting import Form, write
from orchestrate.interchange.names import counterparts, parameters
from orchestrate.model.sharding import Sharding
from orchestrate.train.checkpoint.format import FOLDER, State
from orchestrate.train.checkpoint.parts import Part, weight_key
from orchestrate.train.checkpoint.write import save_alone
from tests.equivalence.layouts import Layout, config_of


def weights_of(model: ModelConfig) -> dict[str, Tensor]:
    """Every parameter of ``model`` by name, fp32, all different."""
    generator = torch.Generator().manual_seed(3)
    return {
        parameter.name: torch.randn(parameter.shape, generator=generator)
        for parameter in parameters(counterparts(model))
    }


def save(model: ModelConfig, run_dir: Path, step: int = 4) -> dict[str, Tensor]:
    """Write a checkpoint of ``model`` into ``run_dir``; its weights."""
    weights = weights_of(model)
    parts = [Part(weight_key(n), Sharding(tuple(w.shape)), 0, w.flatten()) for n, w in weights.items()]
    state = State(
        step=step,
        samples=8 * step,
        seed=7,
        data_fingerprint="random",
        updates=step,
        loss_scale=1.0,
        good_steps=0,
        config=dump(config_of(Layout(model))),
        plan={},
        revision=None,
        versions={},
        time=time.time(),
    )
    (run_dir / FOLDER).mkdir(parents=True)
    save_alone(parts, state, run_dir / FOLDER, "test")
    return weights


def huggingface(model: ModelConfig, folder: Path, shard_bytes: int = 2**30) -> dict[str, Tensor]:
    """Write ``model`` with random weights to ``folder`` in Hugging Face's form; our weights."""
    weights = weights_of(model)
    form = Form(DType.fp32, shard_bytes, {}, None)
    write(lambda name, rows: weights[name][rows], model, folder, form, lambda _: None)
    return weights


class Alive:
    """Bytes of the tensors that were handed out and are still there, now and at most."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def watch(self, make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def made(*args: Any) -> Tensor:
            # A copy, so that nothing else keeps it.
            tensor = make(*args).clone()
            self.now += tensor.nbytes
            self.most = max(self.most, self.now)
            weakref.finalize(tensor, self._gone, tensor.nbytes)
            return tensor

        return made

    def _gone(self, size: int) -> None:
        self.now -= size
