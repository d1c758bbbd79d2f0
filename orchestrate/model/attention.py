"""Causal self-attention, its heads cut over the tensor-parallel ranks."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrate.config import ModelConfig, Position
from orchestrate.mesh import Axis
from orchestrate.model.dropout import keep_mask, site_key
from orchestrate.model.sharding import Sharding
from orchestrate.model.tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    TensorParallel,
    column_linear,
)
from orchestrate.parallel.recompute import recomputed


class Attention(nn.Module):
    """[s(/tp), b, hidden] -> [s(/tp), b, hidden].

    Queries are one parameter; keys and values another, which several ranks hold equal slices of
    where tp exceeds the key-value heads.
    """

    def __init__(
        self,
        model: ModelConfig,
        parallel: TensorParallel,
        kv_replicas: Axis,
        *,
        name: str,
        seed: int,
        recompute: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        hidden, d, tp = model.hidden, model.head_dim, parallel.axis
        self.head_dim = d
        self.heads = model.heads // tp.size
        self.kv_heads = max(1, model.key_value_heads // tp.size)
        self.first_head = tp.rank * self.heads
        self.all_heads = model.heads
        self.dropout = model.attention_dropout
        self.key = site_key(seed, name)
        self.recompute = recompute
        queries = parallel.cut((model.heads * d, hidden), 0, model.init_std)
        self.query = ColumnParallelLinear(queries, model.bias, parallel, dtype, device)
        keys_values = _key_value_sharding(model, tp, kv_replicas)
        self.key_value = ColumnParallelLinear(keys_values, model.bias, parallel, dtype, device)
        out = parallel.cut((hidden, model.heads * d), 1, residual_std(model))
        self.output = RowParallelLinear(out, model.bias, parallel, dtype, device)

    def forward(self, x: Tensor, samples: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        q, kv = column_linear(x, self.query, self.key_value)
        s, b, _ = q.shape
        q = q.view(s, b, self.heads, self.head_dim).permute(1, 2, 0, 3)
        k, v = kv.view(s, b, 2, self.kv_heads, self.head_dim).permute(2, 1, 3, 0, 4).unbind(0)
        if self.recompute and torch.is_grad_enabled():
            core = recomputed(self._core, q, k, v, samples, rotation)
        else:
            core = self._core(q, k, v, samples, rotation)
        return self.output(core)  # type: ignore[no-any-return]

    def _core(
        self, q: Tensor, k: Tensor, v: Tensor, samples: Tensor, rotation: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """[b, heads, s, d] queries, [b, kv heads, s, d] keys and values -> [s, b, heads * d]."""
        if rotation is not None:
            q, k = _rotate(q, *rotation), _rotate(k, *rotation)
        if self.dropout and self.training:
            y = self._attend_with_dropout(q, k, v, samples)
        else:
            y = F.scaled_dot_product_attention(
                q, k, v, is_causal=True, enable_gqa=self.heads != self.kv_heads
            )
        return y.permute(2, 0, 1, 3).flatten(2)

    def _attend_with_dropout(self, q: Tensor, k: Tensor, v: Tensor, samples: Tensor) -> Tensor:
        # The fused kernel draws its dropout from the device's random state, which differs between
        # layouts. Written out, the mask can be the one that belongs to sample, head and position.
        b, heads, s, d = q.shape
        k, v = (t.repeat_interleave(heads // self.kv_heads, 1) for t in (k, v))
        causal = torch.ones(s, s, dtype=torch.bool, device=q.device).tril()
        scores = (q @ k.transpose(-1, -2)) / math.sqrt(d)
        at_least_fp32 = torch.promote_types(q.dtype, torch.float32)
        weights = scores.masked_fill(~causal, -torch.inf).softmax(-1, dtype=at_least_fp32)
        head = torch.arange(self.first_head, self.first_head + heads, device=q.device)
        place = (samples[:, None] * self.all_heads + head)[..., None] * (s * s) + torch.arange(
            s * s, device=q.device
        )
        keep = keep_mask(self.dropout, self.key, place).view(b, heads, s, s)
        return (weights * keep / (1 - self.dropout)).to(v.dtype) @ v


def rotation_of(model: ModelConfig, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
    """Cosines and sines [seq, head_dim] of rotary positions (Su et al. 2021, arXiv:2104.09864); None without.

    The two halves of a head turn together, as in Llama's published weights.
    """
    if model.position is not Position.rotary:
        return None
    d = model.head_dim
    at_least_fp32 = torch.promote_types(dtype, torch.float32)
    speed = model.rope_theta ** (-torch.arange(0, d, 2, dtype=at_least_fp32, device=device) / d)
    angle = torch.outer(torch.arange(model.seq, dtype=at_least_fp32, device=device), speed).repeat(1, 2)
    return angle.cos(), angle.sin()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos.to(x.dtype) + torch.cat([-second, first], -1) * sin.to(x.dtype)


def _key_value_sharding(model: ModelConfig, tp: Axis, kv_replicas: Axis) -> Sharding:
    """Keys of all heads, then values of all heads, [2 * kv heads * d, hidden], cut by heads."""
    all_rows = model.key_value_heads * model.head_dim
    heads = max(1, model.key_value_heads // tp.size)
    first = tp.rank * model.key_value_heads // tp.size * model.head_dim
    rows = heads * model.head_dim
    return Sharding(
        (2 * all_rows, model.hidden),
        0,
        ((first, rows), (all_rows + first, rows)),
        partial=(kv_replicas.group,) if kv_replicas.group is not None else (),
        owner=kv_replicas.rank == 0,
        decay=True,
        init_std=model.init_std,
    )


def residual_std(model: ModelConfig) -> float:
    """Initial deviation of the weights that end a residual branch.

    Smaller with depth, so that the sum of all branches keeps its scale (Radford et al. 2019, GPT-2,
    section 2.3).
    """
    return model.init_std / math.sqrt(2 * model.layers)
