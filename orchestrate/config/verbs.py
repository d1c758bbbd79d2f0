"""What the verbs beside ``train`` may be told."""

from __future__ import annotations

import dataclasses
from enum import Enum

from orchestrate.config.hardware import DType


class PlanFormat(str, Enum):
    table = "table"
    json = "json"


class Ask(str, Enum):
    """What `orchestrate plan` can answer instead of "which layout"."""

    fewest_gpus = "fewest_gpus"
    longest_sequence = "longest_sequence"
    largest_model = "largest_model"
    scaling = "scaling"
    lost_nodes = "lost_nodes"


@dataclasses.dataclass(frozen=True)
class PlanConfig:
    file: str | None = None
    """A plan to train instead of searching for one."""
    format: PlanFormat = PlanFormat.table
    out: str | None = None
    """Where `orchestrate plan` writes the plan."""
    report: str | None = None
    """Where `orchestrate plan` writes a page that shows the plan, for a browser."""
    top: int = 8
    """How many of the best layouts are shown."""
    risk: float = 0.05
    """Largest probability of running out of memory that a chosen layout may have."""
    why: str | None = None
    """A layout or part of one, as in tp=16,pp=1: what would it cost, or which rule forbids it?"""
    ask: Ask | None = None
    """A question to answer instead: fewest_gpus that fit, longest_sequence, largest_model (in layers), the
    scaling curve over node counts, or the plan that is left when lost_nodes are gone."""
    lost_nodes: int | None = None
    """How many nodes are lost, for ask=lost_nodes, which it implies; null there: one."""
    tokens: float | None = None
    """Tokens to train on: the plan says how many days that takes, and what it costs where
    cluster.device.price_per_hour is known."""


@dataclasses.dataclass(frozen=True)
class VerifyConfig:
    steps: int = 3
    tolerance: float | None = None
    """Largest relative difference; null: 1e-5 for fp32, 1e-10 for fp64, 0.05 for bf16 and fp16."""
    adam_eps: float = 1e-3
    """Used in place of a smaller optim.eps, in both runs. Adam divides a gradient by its own size, so
    with a small epsilon the rounding errors of near-zero gradients become updates of full size, and a
    gradient that is wrong by a factor goes unnoticed."""


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    plot: str | None = "evaluate.svg"
    """Where `orchestrate evaluate` draws predicted over measured step times, as SVG; null: nowhere."""


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """How `orchestrate export` writes a checkpoint in Hugging Face's form; docs/export.md."""

    dtype: DType | None = None
    """Of the weights in the files; null: the precision that the run trained in."""
    shard_gib: float = 5.0
    """Largest file, in GiB; a model that takes more is spread over several, with an index."""
    tokenizer: str | None = None
    """A tokenizer.json, or a folder with a tokenizer's files, to copy along; null: the one that the run's
    data were made with, where that was a file."""


@dataclasses.dataclass(frozen=True)
class CalibrateConfig:
    """How `orchestrate calibrate` measures a cluster, or learns from its runs."""

    out: str = "clusters"
    """Folder of the refitted profile, for --config-dir; the profile itself lies in its folder cluster/."""
    name: str | None = None
    """The refitted cluster's; null: the cluster's own with _calibrated after it."""
    seconds: float = 0.1
    """How long each operator and each collective of each size is repeated, three times over."""
    runs: tuple[str, ...] = ()
    """Folders of finished training runs to refit the profile to; nothing is measured then."""


@dataclasses.dataclass(frozen=True)
class StatusConfig:
    """How `orchestrate status` answers."""

    format: PlanFormat = PlanFormat.table


@dataclasses.dataclass(frozen=True)
class LogsConfig:
    """What `orchestrate logs` shows."""

    rank: int | None = None
    """The process whose log is shown; null: the job's, with what supervises the processes."""
    lines: int = 40
    """Of the end of the log; 0: all."""
    follow: bool = False
    """Go on with what is written, until the run's jobs have ended."""


@dataclasses.dataclass(frozen=True)
class TopologyConfig:
    """Outputs, saved as files, that `orchestrate topology` reads instead of this machine."""

    smi: str | None = None
    """Of nvidia-smi topo -m."""
    gpus: str | None = None
    """Of nvidia-smi --query-gpu=name,memory.total,pcie.link.gen.max,pcie.link.width.max --format=csv."""
    nvlinks: str | None = None
    """Of nvidia-smi nvlink --status."""
    nccl: str | None = None
    """What NCCL wrote to NCCL_TOPO_DUMP_FILE, or reads from NCCL_TOPO_FILE."""
    slurm: str | None = None
    """Of scontrol show topology; a topology.conf does as well."""
    nodes: str | None = None
    """Of scontrol show node."""
    sysfs: str | None = None
    """A folder that holds class/infiniband as /sys does."""
    hosts: str | None = None
    """Only these of Slurm's nodes, as node[01-16]; null: all that have GPUs like the node that is read."""
    live: bool | None = None
    """Whether to read this machine too; null: only where none of the files is given."""
