"""One job's config: composed, made to agree with a given plan, and frozen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrate import config as schema
from orchestrate.cli.compose import Source, compose, plain
from orchestrate.config import Config
from orchestrate.errors import ConfigError


def build(source: Source, overrides: Sequence[str], run_dir: str | None = None) -> Config:
    """The frozen config of ``overrides``; ``run_dir`` replaces ``run.dir`` where given.

    With ``plan.file`` the plan decides the model, the cluster, the layout and the global batch.

    Raises:
        ConfigError: whatever is wrong with the overrides, the config files or the plan.
    """
    values = plain(compose(source, overrides))
    if run_dir is not None:
        values["run"]["dir"] = run_dir
    file = values["plan"]["file"]
    return schema.load(values if file is None else _adopt(values, str(file), overrides))


def _adopt(values: dict[str, Any], file: str, overrides: Sequence[str]) -> dict[str, Any]:
    """``values`` with all that the plan in ``file`` has decided."""
    from orchestrate.plan import plan as plans
    from orchestrate.topology.cluster import build_cluster

    plan = plans.load(Path(file))
    decided = _decided(plan)
    adopted = {**values, **{section: {**values[section], **decided[section]} for section in decided}}
    # Of a cluster much may be left to its defaults that the plan spells out.
    agreed = {"cluster"} if build_cluster(schema.load_cluster(values["cluster"])) == plan.cluster else set()
    for override in overrides:
        key, _, typed = override.lstrip("+").partition("=")
        section = key.split(".")[0]
        if section in decided.keys() - agreed and _at(values, key) != _at(adopted, key):
            raise ConfigError(
                f"{override} does not agree with plan={file}, which has {key}={_shown(_at(adopted, key))}:"
                f" leave {key} out, or plan again with {key}={typed}"
            )
    return adopted


def _decided(plan: Any) -> dict[str, dict[str, Any]]:
    from orchestrate.topology.cluster import config_of

    dims = plan.dims
    return {
        "cluster": schema.dump(config_of(plan.cluster)),
        "model": schema.dump(plan.model),
        "parallel": {
            "tp": dims.tp,
            "cp": dims.cp,
            "pp": dims.pp,
            "dp": dims.dp,
            "vpp": dims.vpp,
            "order": list(dims.order),
            "micro_batch": plan.micro_batch,
            "schedule": plan.schedule.value,
            "sequence_parallel": plan.sequence_parallel,
            "stage_layers": [len(stage) for stage in plan.stages],
        },
        "zero": {"stage": plan.zero_stage, "engine": plan.zero_engine.value},
        "recompute": schema.dump(plan.recompute),
        "train": {"global_batch": plan.global_batch},
    }


def _at(values: Any, path: str) -> Any:
    """The value at ``path``; a group's choice (``model=gpt_tiny``) stands for its whole section."""
    for part in path.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _shown(value: Any) -> str:
    return str(value.get("name", value)) if isinstance(value, dict) else str(value)
