"""This rank's parameters by name, and the optimizer's groups of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from orchestrate.config import OptimConfig
from orchestrate.model.sharding import Sharding


class ShardedModule(Protocol):
    """A module that says how each of its parameters is sharded."""

    shardings: dict[str, Sharding]
    """By the name of the parameter in the whole model."""

    def named_parameters(self) -> Any: ...


def named_slices(stages: Sequence[Any]) -> tuple[dict[str, nn.Parameter], dict[str, Sharding]]:
    """Every parameter of ``stages`` by name, and how it is sharded; shared ones once."""
    parameters: dict[str, nn.Parameter] = {}
    shardings: dict[str, Sharding] = {}
    for stage in stages:
        for name, parameter in stage.named_parameters():
            assert parameters.setdefault(name, parameter) is parameter, f"two parameters are named {name}"
            shardings.setdefault(name, stage.shardings[name])
    return parameters, shardings


def decay_groups(
    tensors: Mapping[str, torch.Tensor], shardings: Mapping[str, Sharding], optim: OptimConfig
) -> list[dict[str, Any]]:
    """Optimizer groups: decayed and not decayed, neither empty."""
    groups = []
    for decay in (True, False):
        members = [tensor for name, tensor in tensors.items() if shardings[name].decay is decay]
        if members:
            groups.append({"params": members, "weight_decay": optim.weight_decay if decay else 0.0})
    return groups


def adamw(groups: list[dict[str, Any]], optim: OptimConfig) -> torch.optim.AdamW:
    """Fused AdamW over ``groups`` (Loshchilov & Hutter 2019)."""
    return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
