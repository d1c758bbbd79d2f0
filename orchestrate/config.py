"""The typed schema of everything under ``conf/``, loaded once and never changed after.

`load` turns a plain mapping (what Hydra composed, or a run's ``config.yaml``) into one frozen
tree of dataclasses. A field typed ``X | None`` and listed in `AUTO_KEYS` is one that the planner
may choose: people write ``auto``, the tree holds ``None``. What is derived from the config lives
in the plan, never here.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from enum import Enum
from functools import cache
from typing import Any

from orchestrate.errors import ConfigError
from orchestrate.launcher_config import ContainerRuntime as ContainerRuntime
from orchestrate.launcher_config import KubernetesConfig as KubernetesConfig
from orchestrate.launcher_config import KubernetesResource as KubernetesResource
from orchestrate.launcher_config import LauncherConfig as LauncherConfig
from orchestrate.launcher_config import LauncherKind as LauncherKind


class Norm(str, Enum):
    layernorm = "layernorm"
    rmsnorm = "rmsnorm"


class Activation(str, Enum):
    gelu = "gelu"
    swiglu = "swiglu"


class Position(str, Enum):
    learned = "learned"
    rotary = "rotary"


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


class DType(str, Enum):
    bf16 = "bf16"
    fp16 = "fp16"
    fp32 = "fp32"
    fp64 = "fp64"

    @property
    def bytes(self) -> int:
        """Bytes of one element."""
        return {"bf16": 2, "fp16": 2, "fp32": 4, "fp64": 8}[self.value]


class Decay(str, Enum):
    cosine = "cosine"
    wsd = "wsd"
    constant = "constant"


class TrackingMode(str, Enum):
    offline = "offline"
    online = "online"
    off = "off"


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


class DeviceKind(str, Enum):
    cuda = "cuda"
    cpu = "cpu"


@dataclasses.dataclass(frozen=True)
class DeviceConfig:
    """One accelerator of the cluster (all nodes alike)."""

    name: str
    kind: DeviceKind
    memory_gib: float
    memory_bandwidth_gbps: float
    """GB/s read or written by one device."""
    peak_tflops: dict[DType, float]
    """Dense peak by precision, TFLOP/s."""
    matmul_efficiency: float = 0.7
    """Share of the peak that large matrix products reach."""
    memory_efficiency: float = 0.9
    """Share of the memory bandwidth that operators between the products reach."""
    multiprocessors: int = 1
    """Units (SMs) that the tiles of a product are dealt to in waves; 1: no waves are modelled."""
    launch_us: float = 5.0
    """Least time from one operator to the next, however small: the host's part of starting it."""
    step_us: float = 0.0
    """Time of each step that no operator explains: loading, logging, waiting for one another."""
    crowding: float = 1.0
    """How many times faster a device computes while the others of its node wait: above 1 where processes
    share cores."""
    reserved_gib: float = 1.0
    """Taken before the first tensor: the CUDA context, or the Python process on a CPU."""
    price_per_hour: float | None = None
    """What one device costs for an hour, in any currency; null: no costs are reported."""


@dataclasses.dataclass(frozen=True)
class LinkConfig:
    """What one device can send over a kind of link."""

    bandwidth_gbps: float
    """GB/s in one direction per device."""
    latency_us: float
    """Of one hop of a collective, or of one message."""
    efficiency: float = 0.95
    """Share of the bandwidth that large collectives reach."""
    in_switch_gbps: float | None = None
    """Bus bandwidth of large all-reduces that the switches sum (NVLink SHARP, InfiniBand SHARP), GB/s per
    device; null: the switches only forward."""
    shared_by: int = 1
    """Devices that share one adapter and write to it directly, as pairs do where eight have four;
    ``bandwidth_gbps`` is one device's part. 1 also where any device reaches any adapter as well: over the
    fast link (NCCL's PXN, from 2.12 on), or through the host's memory."""


@dataclasses.dataclass(frozen=True)
class SwitchConfig:
    """One level of the network's tree of switches, the leaves first."""

    nodes: int
    """Consecutive nodes below one switch of this level; with rails, below one of each rail."""
    oversubscription: float = 1.0
    """How many times less bandwidth leaves such a switch upwards than its nodes can send: counted from the
    nodes, so that a spine of 2:1 over leaves of 2:1 has 4."""


@dataclasses.dataclass(frozen=True)
class NodeGroupConfig:
    """Nodes of another kind beside the cluster's own; null fields are the cluster's."""

    nodes: int
    gpus_per_node: int | None = None
    nvlink_domain: int | None = None
    """Null where the cluster's is null too: all devices of a node."""
    device: DeviceConfig | None = None


@dataclasses.dataclass(frozen=True)
class ClusterConfig:
    name: str
    nodes: int
    gpus_per_node: int
    device: DeviceConfig
    nvlink: LinkConfig
    """The fast link, inside a domain of `nvlink_domain` devices."""
    network: LinkConfig
    """The link between nodes."""
    nvlink_domain: int | None = None
    """Devices that share the fast link: a divisor of a node's, or whole nodes' (72 of NVL72); null: all
    of a node's."""
    hosts: tuple[str, ...] = ()
    """Host names in the order of the nodes; empty: node0, node1, …"""
    switches: tuple[SwitchConfig, ...] = ()
    """Levels of the network, the leaves first; empty: one switch that blocks nothing."""
    positions: tuple[int, ...] = ()
    """Where in the network each node sits, in the order of the nodes: node i hangs where the
    ``positions[i]``-th of the whole network would; empty: in order. For nodes that a scheduler hands out
    shuffled, or with gaps."""
    rails: bool = False
    """Whether each device's adapter has leaf switches of its own, shared by that index of all nodes."""
    groups: tuple[NodeGroupConfig, ...] = ()
    """Nodes of other kinds, after the cluster's own `nodes`."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A GPT's architecture. Sizes count elements, not bytes."""

    name: str
    layers: int
    hidden: int
    heads: int
    ffn_hidden: int
    vocab: int
    """Token ids that exist; the trainer pads this so that TP divides it."""
    seq: int
    """Tokens per sample."""
    kv_heads: int | None = None
    """Key-value heads of grouped-query attention; null: as many as heads."""
    norm: Norm = Norm.layernorm
    norm_eps: float = 1e-5
    activation: Activation = Activation.gelu
    position: Position = Position.learned
    rope_theta: float = 10000.0
    bias: bool = True
    tied_embeddings: bool = True
    dropout: float = 0.0
    """On the embedding and on each block's two outputs."""
    attention_dropout: float = 0.0
    """On the attention probabilities (then computed without the fused kernel)."""
    init_std: float = 0.02

    @property
    def key_value_heads(self) -> int:
        return self.kv_heads or self.heads

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads


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
    ORCHESTRATE_DEVICE set: where it fails, or takes more than 30 s, the device is lost."""
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


@dataclasses.dataclass(frozen=True)
class Config:
    cluster: ClusterConfig
    model: ModelConfig
    data: DataConfig
    parallel: ParallelConfig = ParallelConfig()
    zero: ZeroConfig = ZeroConfig()
    recompute: RecomputeConfig = RecomputeConfig()
    precision: PrecisionConfig = PrecisionConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    run: RunConfig = RunConfig()
    launcher: LauncherConfig = dataclasses.field(default_factory=LauncherConfig)
    faults: FaultsConfig = FaultsConfig()
    tracking: TrackingConfig = TrackingConfig()
    plan: PlanConfig = PlanConfig()
    verify: VerifyConfig = VerifyConfig()
    calibrate: CalibrateConfig = CalibrateConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    export: ExportConfig = ExportConfig()
    status: StatusConfig = StatusConfig()
    logs: LogsConfig = LogsConfig()
    topology: TopologyConfig = TopologyConfig()
    runs: str | tuple[str, ...] = ()
    """predict, evaluate: tables of training runs: CSV files or globs, one or a list; docs/measurements.md."""
    path: str | None = None
    """export, checkpoint: a run's folder or one checkpoint; import: a folder in Hugging Face's form. Its
    value may stand alone after the verb."""
    other: str | None = None
    """checkpoint diff: the run's folder or checkpoint to compare with; may stand alone after ``path``."""
    out: str | None = None
    """What to write: of predict a CSV, of topology a cluster file, of export and import a new folder."""


AUTO_KEYS = frozenset(
    {
        "parallel.tp",
        "parallel.cp",
        "parallel.pp",
        "parallel.dp",
        "parallel.vpp",
        "parallel.micro_batch",
        "parallel.schedule",
        "parallel.sequence_parallel",
        "parallel.order",
        "zero.stage",
        "recompute.mode",
    }
)
"""Keys whose value may be ``auto``: the planner's to choose."""


def load(values: Mapping[str, Any]) -> Config:
    """The frozen config of plain nested ``values``, types checked, ``auto`` read as None.

    Raises:
        ConfigError: an unknown key (with the closest known one), or a value of the wrong type.
            Rules across fields are the job of `orchestrate.checks`.
    """
    loaded: Config = _validated(Config, _read_auto(values))
    return loaded


def load_cluster(values: Mapping[str, Any]) -> ClusterConfig:
    """The cluster of the plain nested ``values`` of one file of ``conf/cluster/``.

    Raises:
        ConfigError: as `load`.
    """
    loaded: ClusterConfig = _validated(ClusterConfig, values, ("cluster",))
    return loaded


def _validated(cls: type, values: Any, section: tuple[str, ...] = ()) -> Any:
    from pydantic import ValidationError

    try:
        return _adapter(cls).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(_explain({**first, "loc": (*section, *first["loc"])})) from None


def dump(config: Any) -> Any:
    """Plain nested values that YAML can write and `load` reads back to an equal config."""
    if dataclasses.is_dataclass(config):
        return {
            f.name: "auto"
            if (value := getattr(config, f.name)) is None and _may_be_auto(type(config), f.name)
            else dump(value)
            for f in dataclasses.fields(config)
        }
    if isinstance(config, Enum):
        return config.value
    if isinstance(config, tuple | list):
        return [dump(item) for item in config]
    if isinstance(config, dict):
        return {dump(key): dump(value) for key, value in config.items()}
    return config


_GROUP_OF = {ParallelConfig: "parallel", ZeroConfig: "zero", RecomputeConfig: "recompute"}


def _may_be_auto(cls: type, field: str) -> bool:
    return f"{_GROUP_OF.get(cls)}.{field}" in AUTO_KEYS


def _read_auto(values: Any, path: str = "") -> Any:
    if isinstance(values, Mapping):
        return {k: _read_auto(v, f"{path}.{k}" if path else str(k)) for k, v in values.items()}
    return None if values == "auto" and path in AUTO_KEYS else values


@cache
def _adapter(root: type) -> Any:
    from pydantic import ConfigDict, TypeAdapter

    for cls in _dataclasses_of(Config):
        cls.__pydantic_config__ = ConfigDict(extra="forbid", coerce_numbers_to_str=True)  # type: ignore[attr-defined]
    return TypeAdapter(root)


def _dataclasses_of(root: type) -> list[type]:
    module = vars(__import__(root.__module__, fromlist=["_"]))
    return [c for c in module.values() if isinstance(c, type) and dataclasses.is_dataclass(c)]


def _fields_at(path: tuple[Any, ...]) -> list[str]:
    """Names of the fields that the section at ``path`` has; empty where it has none."""
    import typing

    cls: Any = Config
    for part in path:
        hints = typing.get_type_hints(cls) if dataclasses.is_dataclass(cls) else {}
        cls = hints.get(part)
        if cls is None:
            return []
    return [f.name for f in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []


def _explain(error: Mapping[str, Any]) -> str:
    # Pydantic's location ends with the union member or dict key it was trying; keys are what people typed.
    path = tuple(part for part in error["loc"] if isinstance(part, str) and part not in ("int", "str"))
    key = ".".join(path)
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return unknown_key(key, _fields_at(path[:-1]))
    if error["type"] in ("missing", "missing_argument"):
        return f"{key} is missing: give it a value, or choose a preset (orchestrate --help lists them)"
    wanted = error["msg"][0].lower() + error["msg"][1:]
    if error["type"] == "enum":
        choices = error["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        close = difflib.get_close_matches(str(error["input"]), choices, n=1, cutoff=0.5)
        wanted = f"did you mean {close[0]}?" if close else f"choices: {', '.join(choices)}"
    if key in AUTO_KEYS and not wanted.endswith("?"):
        wanted += ", or auto"
    return f"{key}={error['input']!r}: {wanted}"


def unknown_key(key: str, known: list[str]) -> str:
    """One line that says ``key`` does not exist and names the closest of its siblings ``known``."""
    *section, name = key.split(".")
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    prefix = ".".join(section) + "." if section else ""
    hint = f"did you mean {prefix}{close[0]}?" if close else f"known: {', '.join(sorted(known)) or 'none'}"
    return f"unknown key {key}: {hint}"
