"""``orchestrate checkpoint diff``: how far two checkpoints lie apart, whatever layouts wrote them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console

from orchestrate.commands.checkpoints import given, newest
from orchestrate.config import Config
from orchestrate.errors import ConfigError
from orchestrate.plan.shown.search_tables import table
from orchestrate.train.checkpoint.format import State, read_state, resolve

_COUNTERS = ("step", "samples", "updates", "loss_scale", "good_steps", "seed", "data_fingerprint", "revision")


def run(config: Config, overrides: Sequence[str]) -> int:
    """Print what differs between the newest checkpoints of ``path`` and ``other``.

    The difference of two elements is the largest of a tensor; relative, over the largest element of the
    first.

    Returns:
        0 when all tensors are the same bits, 1 otherwise.
    """
    if config.other is None:
        raise ConfigError(
            "other is missing: name what to compare with, as in: orchestrate checkpoint diff runs/a runs/b"
        )
    one, other = (
        newest(folder).path
        for folder in (given(config, "orchestrate checkpoint diff"), resolve(config.other))
    )
    from orchestrate.train.checkpoint.difference import differences

    console = Console()
    states = table("of the state", "first", "second")
    for name, ours, theirs in _states(read_state(one), read_state(other)):
        states.add_row(name, str(ours), str(theirs))
    if states.row_count:
        console.print(states, "", sep="\n", highlight=False)
    tensors = table("tensor", "difference", "relative", right=(1, 2))
    seen = 0
    for difference in differences(one, other):
        seen += 1
        if difference.largest:
            figures = f"{difference.largest:.1e}", f"{difference.relative:.1e}"
            tensors.add_row(difference.name, *((difference.note, "") if difference.note else figures))
    if tensors.row_count:
        console.print(tensors, highlight=False)
    console.print(f"{tensors.row_count} of {seen} tensors differ", highlight=False)
    return 1 if tensors.row_count else 0


def _states(one: State, other: State) -> Iterator[tuple[str, Any, Any]]:
    for name in _COUNTERS:
        if getattr(one, name) != getattr(other, name):
            yield name, getattr(one, name), getattr(other, name)
    for name in ("config", "plan"):
        yield from _keys(name, getattr(one, name), getattr(other, name))


def _keys(path: str, one: Any, other: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in [*one, *(key for key in other if key not in one)]:
            yield from _keys(f"{path}.{key}", one.get(key), other.get(key))
    elif one != other:
        yield path, _short(one), _short(other)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
