"""Configs for the planner's tests, put together from the presets without Hydra."""

from __future__ import annotations

from typing import Any

import yaml

from orchestrate import config as schema
from orchestrate.config import Config
from orchestrate.resources import folder

CONF = folder("conf")
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
CLUSTERS = sorted(path.stem for path in (CONF / "cluster").glob("*.yaml"))


def preset(group: str, name: str) -> dict[str, Any]:
    """The values of ``conf/<group>/<name>.yaml``, its device filled in."""
    values: dict[str, Any] = yaml.safe_load((CONF / group / f"{name}.yaml").read_text())
    for entry in values.pop("defaults", []):
        if isinstance(entry, dict) and "device" in entry:
            values["device"] = preset("cluster/device", entry["device"])
    return values


def make_config(cluster: str = "dgx_h100", model: str = "llama3_8b", **overrides: Any) -> Config:
    """The config of two presets, with overrides such as ``{"parallel.tp": 2}``."""
    values: dict[str, Any] = {
        "cluster": preset("cluster", cluster),
        "model": preset("model", model),
        "data": {"source": {"kind": "stdlib"}},
    }
    for key, value in overrides.items():
        *sections, name = key.split(".")
        target = values
        for section in sections:
            target = target.setdefault(section, {})
        target[name] = value
    return schema.load(values)
