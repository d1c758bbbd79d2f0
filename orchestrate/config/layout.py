"""How a model is spread over devices, and in which precision."""

from __future__ import annotations

import dataclasses
from enum import Enum

from orchestrate.config.hardware import DType


class Schedule(str, Enum):
    gpipe = "gpipe"
    one_f_one_b = "1f1b"
    interleaved = "interleaved"
    zbv = "zbv"


class ZeroBackend(str, Enum):
    deepspeed = "deepspeed"
    fsdp2 = "fsdp2"


class Recompute(str, Enum):
    none = "none"
    selective = "selective"
    full = "full"


@dataclasses.dataclass(frozen=True)
class ParallelConfig:
    """Degrees and schedule; null (``auto``) where the planner chooses."""

    tp: int | None = None
    cp: int | None = 1
    """Ranks that share one sequence; auto: searched too. Planned only: no model trains with it yet."""
    pp: int | None = None
    dp: int | None = None
    vpp: int | None = None
    """Virtual stages (model chunks) per pipeline rank."""
    micro_batch: int | None = None
    """Sequences that one replica works on at a time."""
    schedule: Schedule | None = None
    sequence_parallel: bool | None = None
    allow_tp_across_nodes: bool = False
    order: tuple[str, ...] | None = None
    """Mesh axes, the one whose neighbours sit closest together first; auto: the fastest order."""
    stage_layers: tuple[int, ...] | None = None
    """Layers of each virtual stage, first to last; null: split by cost."""


@dataclasses.dataclass(frozen=True)
class ZeroConfig:
    stage: int | None = None
    """0: replicas, 1: optimizer sharded, 2: gradients too, 3: parameters too."""
    engine: ZeroBackend = ZeroBackend.deepspeed


@dataclasses.dataclass(frozen=True)
class RecomputeConfig:
    mode: Recompute | None = None
    layers: int | None = None
    """With mode full: only the first so many layers of a stage; null: all."""


@dataclasses.dataclass(frozen=True)
class PrecisionConfig:
    dtype: DType = DType.bf16
    """Of weights and activations. Gradients accumulate, and weights are updated, in at least fp32."""
    initial_loss_scale: float = 65536.0
    """fp16 only: the dynamic loss scale's first value."""
    loss_scale_window: int = 1000
    """fp16 only: steps without overflow before the scale doubles."""
