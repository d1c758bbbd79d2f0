"""What a run trains on and how it goes: data, optimizer, steps, checkpoints, faults, records."""

from __future__ import annotations

import dataclasses
from enum import Enum


class Decay(str, Enum):
    cosine = "cosine"
    wsd = "wsd"
    constant = "constant"


class TrackingMode(str, Enum):
    offline = "offline"
    online = "online"
    off = "off"


@dataclasses.dataclass(frozen=True)
class BlendEntry:
    source: SourceConfig
    weight: float


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """Where tokens come from."""

    kind: str
    """stdlib | text | megatron | blend"""
    paths: tuple[str, ...] = ()
    """text: files or globs of text and JSONL. megatron: prefixes of .bin/.idx pairs."""
    text_key: str = "text"
    """JSONL: the field that holds the text."""
    tokenizer: str = "bytes"
    """bytes | bpe (trained on the source) | a tokenizer.json"""
    bpe_vocab: int = 8192
    blend: tuple[BlendEntry, ...] = ()


@dataclasses.dataclass(frozen=True)
class DataConfig:
    source: SourceConfig
    cache: str = "~/.cache/orchestrate"
    """Folder of the prepared token shards."""
    validation_fraction: float = 0.02
    workers: int = 0
    """Loader threads per rank; 0 reads in the training thread."""


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    lr: float = 3e-4
    min_lr_ratio: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    """On matrices only; norms, biases and positions are not decayed."""
    warmup_steps: int = 0
    decay: Decay = Decay.cosine
    decay_share: float = 0.2
    """wsd only: the share of all steps spent decaying at the end."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    steps: int = 100
    global_batch: int = 32
    """Sequences per optimizer step over all replicas."""
    clip: float = 1.0
    """Largest global gradient norm; 0: never clipped."""
    seed: int = 0
    log_every: int = 1
    eval_every: int = 0
    """Steps between validations; 0: only at the end."""
    eval_batches: int = 4
    """Global batches per validation."""


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """What is saved of a run, and where it begins; docs/checkpoints.md."""

    every: int | None = 100
    """Steps between saves, and one at the end; 0: only at the end, null: never."""
    keep: int = 3
    """How many of the newest stay; 0: all."""
    keep_every: int = 0
    """Those after every so many steps stay as well; 0: none."""
    asynchronous: bool = True
    """Write while training goes on, which takes host memory for a copy; false: wait for the disk."""
    load: str | None = None
    """A run's folder, or one checkpoint, to begin from where run.dir holds none of its own."""

    @property
    def copies(self) -> bool:
        """Whether ranks keep a copy of what they save in host memory."""
        return self.asynchronous and self.every is not None


@dataclasses.dataclass(frozen=True)
class RunConfig:
    name: str | None = None
    """Null: the model's name."""
    dir: str | None = None
    """Null: runs/<name>/<date>-<time>."""


@dataclasses.dataclass(frozen=True)
class FaultsConfig:
    """What a run survives, and how; docs/reliability.md."""

    tries: int = 5
    """Restarts in a row without getting further than before, after which the run is given up; 0: none."""
    pause_s: float = 1.0
    """Seconds before the second restart in a row; doubled for each one more, up to five minutes. The first
    comes at once."""
    hang_s: float = 240.0
    """Seconds without progress after which a rank counts as hung; 0: never."""
    lost: tuple[str, ...] = ()
    """Devices not to use: node1 is all of a node, node1:3 one device. lost.txt in the run's folder holds
    more, one per line, and may be written while the run goes on."""
    health_check: tuple[str, ...] = ()
    """A command and its arguments, run after a failure once per device, with ORCHESTRATE_HOST and
    ORCHESTRATE_DEVICE set: where it fails, or has not ended 30 s after the last that did, the
    device is lost."""
    nonfinite_budget: int = 10
    """Steps that may be skipped over a loss or gradient that is not finite; the next one stops the run."""
    spike_factor: float | None = None
    """A logged loss this many times the median of the last ones sends the run back to its last checkpoint,
    to go on past the data since then; null: never."""
    replica_check_every: int = 0
    """Steps between checks that all replicas hold the same weights; 0: never."""


@dataclasses.dataclass(frozen=True)
class TrackingConfig:
    mode: TrackingMode = TrackingMode.offline
    project: str = "orchestrate"
    entity: str | None = None
    tags: tuple[str, ...] = ()
