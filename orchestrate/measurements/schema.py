"""One row of a table of measured training runs; docs/measurements.md describes every column."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from orchestrate.config import Recompute


class Precision(str, Enum):
    bf16 = "bf16"
    fp16 = "fp16"
    bf16_fp32grad = "bf16_fp32grad"
    """Gradients are kept in fp32 beside weights in bf16."""


class PipelineSchedule(str, Enum):
    none = "none"
    one_f_one_b = "1f1b"
    interleaved = "interleaved"


class Status(str, Enum):
    ok = "ok"
    oom = "oom"
    crash_or_oom = "crash_or_oom"
    """It failed; whether for want of memory is not known."""


def row_name(file: object, row: int, run_id: str) -> str:
    """How messages name row number ``row`` of ``file``."""
    return f"{file} row {row}" + (f" ({run_id})" if run_id else "")


@dataclass(frozen=True)
class Run:
    """A training configuration, and what was measured of it; None where nothing was."""

    run_id: str
    cluster: str
    software: str
    model: str
    layers: int
    hidden: int
    ffn_hidden: int
    heads: int
    kv_heads: int
    gated_mlp: bool
    vocab: int
    """Padded already, so that tp divides it."""
    tied_embeddings: bool
    seq: int
    gpus: int
    tp: int
    cp: int
    pp: int
    vpp: int
    dp: int
    zero: int
    micro_batch: int
    """Sequences."""
    global_batch: int
    """Sequences."""
    precision: Precision
    recompute: Recompute
    sequence_parallel: bool
    flash_attention: bool
    schedule: PipelineSchedule
    source: str = ""
    status: Status | None = None
    iter_time_s: float | None = None
    """Seconds of one optimizer step."""
    memory_gib: float | None = None
    memory_kind: str = ""
    file: str = ""
    row: int = 0
    """Where it stands in ``file``, from 1."""

    @property
    def where(self) -> str:
        """How messages name it."""
        return row_name(self.file, self.row, self.run_id)

    @property
    def micro_batches(self) -> int:
        """Micro-batches that one replica works through per step."""
        return self.global_batch // (self.micro_batch * self.dp)

    @property
    def ran(self) -> bool:
        """Whether it is known to have run."""
        return self.status is Status.ok or (self.status is None and self.measured)

    @property
    def timed(self) -> bool:
        """Whether it ran and its step was timed."""
        return self.ran and self.iter_time_s is not None

    @property
    def measured(self) -> bool:
        """Whether anything is known of how it went."""
        return self.status is not None or self.iter_time_s is not None or self.memory_gib is not None
