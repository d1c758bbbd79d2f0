"""This rank's parameters by name, and the optimizer's groups of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

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


def moments(optimizer: torch.optim.Optimizer, parameter: Tensor) -> tuple[Tensor, Tensor]:
    """Both moments of ``parameter``, as Adam would begin them where it has made no update yet."""
    state = optimizer.state[parameter]
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    return state["exp_avg"].detach(), state["exp_avg_sq"].detach()


def updates(optimizer: torch.optim.Optimizer) -> int:
    """Updates that ``optimizer`` has made."""
    return max((int(state["step"].item()) for state in optimizer.state.values() if state), default=0)


def set_updates(optimizer: torch.optim.Optimizer, count: int) -> None:
    """Let ``optimizer``, which has all of its state, have made ``count`` updates."""
    for state in optimizer.state.values():
        state["step"].fill_(count)


def even_shares(shardings: Mapping[str, Sharding], rank: int, size: int) -> dict[str, range]:
    """Which elements of each slice the member ``rank`` of ``size`` with equal slices is to save.

    All that is owned here, end to end, is cut into ``size`` runs of one length, so that few
    parameters are cut. Slices that another rank owns give an empty range.
    """
    lengths = {n: math.prod(s.local_shape) if s.owner else 0 for n, s in shardings.items()}
    total = sum(lengths.values())
    low, high = total * rank // size, total * (rank + 1) // size
    shares, start = {}, 0
    for name, length in lengths.items():
        shares[name] = range(min(max(low - start, 0), length), max(0, min(high - start, length)))
        start += length
    return shares


def all_owned(sharding: Sharding, first: int, length: int) -> range:
    """What to save of a fragment that no other rank of its data-parallel group holds."""
    return range(first, first + length if sharding.owner else first)
