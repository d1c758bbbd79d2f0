"""From plain values to the frozen tree and back; what cannot be is told in one line."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from enum import Enum
from functools import cache
from typing import Any

from orchestrate.config.hardware import ClusterConfig
from orchestrate.config.layout import ParallelConfig, RecomputeConfig, ZeroConfig
from orchestrate.config.tree import AUTO_KEYS, Config
from orchestrate.errors import ConfigError


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


def _dataclasses_of(root: type) -> set[type]:
    """``root`` and the dataclasses that its fields are made of, in whatever depth."""
    found: set[type] = set()
    waiting: list[Any] = [root]
    while waiting:
        hint = waiting.pop()
        waiting.extend(typing.get_args(hint))
        if isinstance(hint, type) and dataclasses.is_dataclass(hint) and hint not in found:
            found.add(hint)
            waiting.extend(typing.get_type_hints(hint).values())
    return found


def _fields_at(path: tuple[Any, ...]) -> list[str]:
    """Names of the fields that the section at ``path`` has; empty where it has none."""
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
