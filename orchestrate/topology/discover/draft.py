"""A cluster file in the making: every value with where it came from, and what nobody said marked."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeGuard

MISSING = "???"
"""How a config file writes a value that somebody has yet to give: composing stops at it and names its key."""

WIDTH = 100


@dataclass(frozen=True)
class Value:
    """What a key is set to, and the comment beside it."""

    value: object
    note: str = ""


@dataclass(frozen=True)
class Remark:
    """A comment where a key would stand that the file leaves at its default."""

    text: str


Section = dict[str, "Value | Remark | Section"]


@dataclass
class Draft:
    """A cluster file before it is text."""

    header: list[str] = field(default_factory=list)
    defaults: list[Value] = field(default_factory=list)
    keys: Section = field(default_factory=dict)

    def missing(self) -> list[str]:
        """The keys, below ``cluster``, that have yet to be given."""
        return list(_missing(self.keys, ""))

    def at(self, path: str) -> object:
        """The value at ``path`` (``nvlink.bandwidth_gbps``)."""
        found: object = self.keys
        for part in path.split("."):
            assert isinstance(found, dict)
            found = found[part]
        return found.value if isinstance(found, Value) else found


def _missing(section: Mapping[str, object], prefix: str) -> Iterator[str]:
    for key, entry in section.items():
        if isinstance(entry, dict):
            yield from _missing(entry, f"{prefix}{key}.")
        elif isinstance(entry, Value):
            yield from _missing_in(entry.value, prefix + key)


def _missing_in(value: object, path: str) -> Iterator[str]:
    if value == MISSING:
        yield path
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _missing_in(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield from _missing_in(inner, f"{path}[{at}]")


def render(draft: Draft) -> str:
    """The YAML of ``draft``, comments included."""
    lines = [line for text in draft.header for line in _comment(text, "")]
    lines.append("defaults:")
    for entry in [*draft.defaults, Value("_self_")]:
        lines.extend(_line(f"  - {entry.value}", entry.note, "  "))
    lines.extend(_section(draft.keys, ""))
    return "\n".join(lines) + "\n"


def _section(section: Section, indent: str) -> Iterator[str]:
    for key, entry in section.items():
        if isinstance(entry, Remark):
            yield from _comment(f"{key}: {entry.text}", indent)
        elif isinstance(entry, Value) and _is_table(entry.value):
            yield from _comment(entry.note, indent)
            yield f"{indent}{key}:"
            yield from _table(entry.value, indent + "  ")
        elif isinstance(entry, Value):
            yield from _line(f"{indent}{key}: {_scalar(entry.value)}", entry.note, indent)
        else:
            yield f"{indent}{key}:"
            yield from _section(entry, indent + "  ")


def _is_table(value: object) -> TypeGuard[list[dict[str, object]]]:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _table(rows: list[dict[str, object]], indent: str) -> Iterator[str]:
    for row in rows:
        for first, (key, value) in enumerate(row.items()):
            yield f"{indent}{'  ' if first else '- '}{key}: {_scalar(value)}"


def _line(text: str, note: str, indent: str) -> Iterator[str]:
    """``text`` with its note beside it, or above it where that would be too long."""
    if note and (len(text) + len(note) > WIDTH or "\n" in text):
        yield from _comment(note, indent)
        note = ""
    yield f"{text}  # {note}" if note else text


def _comment(text: str, indent: str) -> Iterator[str]:
    for line in textwrap.wrap(text, WIDTH - len(indent) - 2, break_long_words=False, break_on_hyphens=False):
        yield f"{indent}# {line}"


_BARE = re.compile(r"(?!(?:true|false|null|yes|no|on|off)$)[A-Za-z][\w./-]*", re.IGNORECASE)


def _scalar(value: object) -> str:
    """``value`` as YAML on one line (long lists on several)."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return _list([_scalar(item) for item in value])
    text = str(value)
    bare = not isinstance(value, str) or value == MISSING or text.startswith("${") or _BARE.fullmatch(text)
    return text if bare else json.dumps(text, ensure_ascii=False)


def _list(items: list[str]) -> str:
    text = ", ".join(items)
    if len(text) < WIDTH:
        return f"[{text}]"
    lines = textwrap.wrap(text, WIDTH - 2, break_long_words=False, break_on_hyphens=False)
    return "[\n  " + "\n  ".join(lines) + "\n]"
