"""Finished training runs, as what the planner's models can be held against."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import yaml

from orchestrate import config as configs
from orchestrate.config import ClusterConfig, DType
from orchestrate.errors import ConfigError
from orchestrate.plan import plan as plans
from orchestrate.plan.choice import Layout
from orchestrate.plan.layout import AXES
from orchestrate.plan.memory.model import MemoryModel
from orchestrate.plan.placement.place import Reach, reach
from orchestrate.plan.plan import MemoryEstimate, Plan, TimeEstimate
from orchestrate.plan.time.step import CostModel
from orchestrate.topology.cluster import Cluster
from orchestrate.train.metrics import METRICS_FILE, read_records

WARM_UP = 1
"""Records at the start of a run that are left out: allocation, connections and compilation happen once."""
_MIB = 2**20


@dataclass(frozen=True)
class Run:
    """One finished run: how it was laid out, and what it took."""

    name: str
    plan: Plan
    dtype: DType
    step_s: float
    """Median seconds per step."""
    memory: tuple[float, ...]
    """Peak bytes by logical rank."""
    memory_kind: str
    """What these count, see `docs/metrics.md`."""
    saved_from_copy: bool = False
    """Whether it kept a copy of what it saved in host memory."""

    @cached_property
    def spans(self) -> dict[str, Reach]:
        """What the groups of each axis span; no figure of a link changes it."""
        plan = self.plan
        return {axis: reach(plan.cluster, plan.placement, plan.dims.groups(axis), axis) for axis in AXES}


def read_run(folder: Path) -> Run:
    """The run in ``folder``.

    Raises:
        ConfigError: a file of it is missing or broken, or it is too short to tell a step's time.
    """
    for name in ("config.yaml", "plan.yaml", METRICS_FILE):
        if not (folder / name).is_file():
            raise ConfigError(
                f"calibrate.runs: {folder} has no {name}: name folders of finished training runs"
            )
    try:
        config = configs.load(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
        records = read_records(folder)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise ConfigError(f"calibrate.runs: {folder} cannot be read: {str(error).splitlines()[0]}") from None
    if len(records) <= WARM_UP:
        raise ConfigError(
            f"calibrate.runs: {folder} has {len(records)} records of steps, and the first is left out: at "
            f"least {WARM_UP + 1} are needed"
        )
    return Run(
        name=str(folder),
        plan=plans.load(folder / "plan.yaml"),
        dtype=config.precision.dtype,
        step_s=statistics.median(record.step_time_s for record in records[WARM_UP:]),
        memory=tuple(mib * _MIB for mib in records[-1].memory_mib),
        memory_kind=records[-1].memory_kind,
        saved_from_copy=config.checkpoint.copies,
    )


def read_runs(folders: Sequence[str], cluster: ClusterConfig) -> list[Run]:
    """The runs in ``folders``, once it is sure that they ran on the devices of ``cluster``.

    Raises:
        ConfigError: as `read_run`; or a run is of other devices, or named twice.
    """
    found = [read_run(Path(folder).expanduser()) for folder in dict.fromkeys(folders)]
    for run in found:
        device = run.plan.cluster.device.name
        if device != cluster.device.name:
            raise ConfigError(
                f"calibrate.runs: {run.name} ran on {device}, but cluster={cluster.name} has "
                f"{cluster.device.name}: choose the cluster that the runs used"
            )
    return found


def estimate_time(run: Run, profile: ClusterConfig) -> TimeEstimate:
    """The step of ``run`` as the planner sees it with the devices and links of ``profile``."""
    plan, cluster = run.plan, _with(run.plan.cluster, profile)
    return CostModel(cluster, plan.model, run.dtype, _layout(plan), run.spans).estimate(plan.stages)


def estimate_memory(run: Run, profile: ClusterConfig) -> tuple[MemoryEstimate, ...]:
    """The memory of ``run`` by pipeline rank, with the devices of ``profile``."""
    plan, cluster = run.plan, _with(run.plan.cluster, profile)
    return MemoryModel(
        cluster, plan.model, run.dtype, _layout(plan), plan.stages, saved_from_copy=run.saved_from_copy
    ).estimate()


def _with(cluster: Cluster, profile: ClusterConfig) -> Cluster:
    return replace(cluster, device=profile.device, nvlink=profile.nvlink, network=profile.network)


def _layout(plan: Plan) -> Layout:
    return Layout(
        dims=plan.dims,
        micro_batch=plan.micro_batch,
        global_batch=plan.global_batch,
        schedule=plan.schedule,
        sequence_parallel=plan.sequence_parallel,
        zero_stage=plan.zero_stage,
        zero_engine=plan.zero_engine,
        recompute=plan.recompute,
    )
