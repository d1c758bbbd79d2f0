"""The typed schema of everything under ``conf/``, loaded once and never changed after.

`load` turns a plain mapping (what Hydra composed, or a run's ``config.yaml``) into one frozen
tree of dataclasses. A field typed ``X | None`` and listed in `AUTO_KEYS` is one that the planner
may choose: people write ``auto``, the tree holds ``None``. What is derived from the config lives
in the plan, never here.
"""

from __future__ import annotations

from orchestrate.config.hardware import (
    ClusterConfig,
    DeviceConfig,
    DeviceKind,
    DType,
    LinkConfig,
    NodeGroupConfig,
    SwitchConfig,
)
from orchestrate.config.launcher import (
    ContainerRuntime,
    KubernetesConfig,
    KubernetesResource,
    LauncherConfig,
    LauncherKind,
)
from orchestrate.config.layout import (
    ParallelConfig,
    PrecisionConfig,
    Recompute,
    RecomputeConfig,
    Schedule,
    ZeroBackend,
    ZeroConfig,
)
from orchestrate.config.loading import dump, load, load_cluster, unknown_key
from orchestrate.config.model import Activation, ModelConfig, Norm, Position
from orchestrate.config.run import (
    BlendEntry,
    CheckpointConfig,
    DataConfig,
    Decay,
    FaultsConfig,
    OptimConfig,
    RunConfig,
    SourceConfig,
    TrackingConfig,
    TrackingMode,
    TrainConfig,
)
from orchestrate.config.tree import AUTO_KEYS, Config
from orchestrate.config.verbs import (
    Ask,
    CalibrateConfig,
    EvaluateConfig,
    ExportConfig,
    LogsConfig,
    PlanConfig,
    PlanFormat,
    StatusConfig,
    TopologyConfig,
    VerifyConfig,
)

__all__ = [
    "AUTO_KEYS",
    "Activation",
    "Ask",
    "BlendEntry",
    "CalibrateConfig",
    "CheckpointConfig",
    "ClusterConfig",
    "Config",
    "ContainerRuntime",
    "DType",
    "DataConfig",
    "Decay",
    "DeviceConfig",
    "DeviceKind",
    "EvaluateConfig",
    "ExportConfig",
    "FaultsConfig",
    "KubernetesConfig",
    "KubernetesResource",
    "LauncherConfig",
    "LauncherKind",
    "LinkConfig",
    "LogsConfig",
    "ModelConfig",
    "NodeGroupConfig",
    "Norm",
    "OptimConfig",
    "ParallelConfig",
    "PlanConfig",
    "PlanFormat",
    "Position",
    "PrecisionConfig",
    "Recompute",
    "RecomputeConfig",
    "RunConfig",
    "Schedule",
    "SourceConfig",
    "StatusConfig",
    "SwitchConfig",
    "TopologyConfig",
    "TrackingConfig",
    "TrackingMode",
    "TrainConfig",
    "VerifyConfig",
    "ZeroBackend",
    "ZeroConfig",
    "dump",
    "load",
    "load_cluster",
    "unknown_key",
]
