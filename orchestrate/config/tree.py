"""The whole tree of keys."""

from __future__ import annotations

import dataclasses

from orchestrate.config.hardware import ClusterConfig
from orchestrate.config.launcher import LauncherConfig
from orchestrate.config.layout import ParallelConfig, PrecisionConfig, RecomputeConfig, ZeroConfig
from orchestrate.config.model import ModelConfig
from orchestrate.config.run import (
    CheckpointConfig,
    DataConfig,
    FaultsConfig,
    OptimConfig,
    RunConfig,
    TrackingConfig,
    TrainConfig,
)
from orchestrate.config.verbs import (
    CalibrateConfig,
    EvaluateConfig,
    ExportConfig,
    LogsConfig,
    PlanConfig,
    StatusConfig,
    TopologyConfig,
    VerifyConfig,
)


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
