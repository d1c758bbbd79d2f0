"""Every key of the config with its type, default and one line of help, read from `orchestrate.config`.

The dataclasses and the strings under their fields are the one source: the help, the completion, the
defaults that Hydra composes on, and the "did you mean" of an unknown key all come from here.
"""

from __future__ import annotations

import ast
import dataclasses
import types
import typing
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from orchestrate import config
from orchestrate.config import AUTO_KEYS, Config

MISSING = "???"
"""How OmegaConf writes a value that a preset or the user has yet to give."""


@dataclasses.dataclass(frozen=True)
class Key:
    """One key that people type, as in ``optim.lr``."""

    path: str
    kind: str
    """The type in words: int, float, text, true|false, list, mapping, or the choices."""
    default: Any
    """Plain value as YAML would hold it; `MISSING` where a preset gives it."""
    doc: str
    choices: tuple[str, ...] = ()
    """Values worth completing; empty where any value of the kind goes."""

    @property
    def section(self) -> str:
        """The part before the first dot; empty for a key that stands in no section."""
        return self.path.rpartition(".")[0].split(".")[0]


@cache
def all_keys() -> tuple[Key, ...]:
    """Every leaf key, in the order of the dataclasses."""
    return tuple(_keys_of(Config, "", _docs()))


@cache
def defaults() -> dict[str, Any]:
    """The whole config as nested plain values, `MISSING` where there is no default."""
    tree: dict[str, Any] = {}
    for key in all_keys():
        *sections, name = key.path.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = key.default
    return tree


def is_known(path: str) -> bool:
    """Whether ``path`` names a key, a section of keys, or something inside a free-form value."""
    return any(
        f"{key.path}.".startswith(path + ".")
        or (key.kind in ("mapping", "list") and path.startswith(key.path + "."))
        for key in all_keys()
    )


def _keys_of(cls: type, prefix: str, docs: dict[tuple[str, str], str]) -> typing.Iterator[Key]:
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        path = prefix + field.name
        hint, optional = _strip_none(hints[field.name])
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from _keys_of(hint, path + ".", docs)
            continue
        auto = path in AUTO_KEYS
        kind, choices = _describe(hint)
        if auto:
            kind, choices = f"{kind}|auto", (*choices, "auto")
        elif optional:
            kind += "|null"
        doc = docs.get((cls.__name__, field.name), "")
        yield Key(path, kind, _default(field, auto), doc, choices)


def _strip_none(hint: Any) -> tuple[Any, bool]:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        inner = [a for a in typing.get_args(hint) if a is not type(None)]
        return inner[0], len(inner) < len(typing.get_args(hint))
    return hint, False


def _describe(hint: Any) -> tuple[str, tuple[str, ...]]:
    origin = typing.get_origin(hint) or hint
    if isinstance(origin, type) and issubclass(origin, Enum):
        choices = tuple(str(member.value) for member in origin)
        return "|".join(choices), choices
    if origin is bool:
        return "true|false", ("true", "false")
    named = {int: "int", float: "float", str: "text", tuple: "list", dict: "mapping"}
    return named[origin], ()


def _default(field: dataclasses.Field[Any], auto: bool) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return config.dump(field.default_factory())
    if field.default is dataclasses.MISSING:
        return MISSING
    return "auto" if auto and field.default is None else config.dump(field.default)


def _docs() -> dict[tuple[str, str], str]:
    """The string under each field of each dataclass of `orchestrate.config`, all on one line."""
    files = sorted(Path(str(config.__file__)).parent.glob("*.py"))
    classes = (node for file in files for node in ast.parse(file.read_text(encoding="utf-8")).body)
    found = {}
    for cls in classes:
        if not isinstance(cls, ast.ClassDef):
            continue
        for field, below in zip(cls.body, cls.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            ):
                found[cls.name, field.target.id] = " ".join(below.value.value.split())
    return found
