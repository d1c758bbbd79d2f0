"""A plan that was written before, read again for a config."""

from __future__ import annotations

from pathlib import Path

from orchestrate.config import Config
from orchestrate.errors import ConfigError
from orchestrate.plan import plan as plans
from orchestrate.plan.choice import Choice
from orchestrate.plan.placement.place import require_tp_inside_domains
from orchestrate.plan.plan import Plan
from orchestrate.plan.search.rules import first_violation
from orchestrate.topology.cluster import Cluster


def read_plan(config: Config, cluster: Cluster, path: Path) -> Plan:
    """The plan in ``path``, once it is sure to suit ``cluster`` and the model and batch of ``config``.

    Raises:
        ConfigError: it cannot be read, was made for something else, or breaks a rule of layouts.
    """
    plan = plans.load(path)
    if set(plan.placement.devices) != set(cluster.devices):
        raise ConfigError(
            f"plan={path} was made for {_shape(plan.cluster)}, but the cluster is {_shape(cluster)}: "
            "plan again"
        )
    if plan.model != config.model:
        raise ConfigError(f"plan={path} was made for another model than {config.model.name} here: plan again")
    if plan.global_batch != config.train.global_batch:
        raise ConfigError(
            f"plan={path} was made for train.global_batch={plan.global_batch}, but it is "
            f"{config.train.global_batch}: plan again"
        )
    bounds = [0, *(stage.last for stage in plan.stages)]
    if [stage.first for stage in plan.stages] != bounds[:-1] or bounds[-1] != config.model.layers:
        raise ConfigError(
            f"plan={path}: its stages do not hold layers 0 to {config.model.layers - 1} in order"
        )
    if (violation := first_violation(config, cluster, Choice.of(plan.layout))) is not None:
        raise ConfigError(f"plan={path}: {violation[1]}")
    if not config.parallel.allow_tp_across_nodes:
        require_tp_inside_domains(cluster, plan.dims, plan.placement)
    return plan


def _shape(cluster: Cluster) -> str:
    return f"{cluster.name} of {cluster.shape} devices"
