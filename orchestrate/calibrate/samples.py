"""What was measured, as plain records; the ranks write them, the fits read them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Product:
    """A matrix product [m, k] x [k, n]."""

    m: int
    k: int
    n: int
    seconds: float = 0.0


@dataclass(frozen=True)
class Operator:
    """An operator between the products, on one tensor or two equal ones."""

    name: str
    size: int
    """Bytes that it reads and writes."""
    seconds: float = 0.0


@dataclass(frozen=True)
class Pass:
    """Forward and backward of a whole small GPT, on every ``tp`` ranks by themselves."""

    layers: int
    hidden: int
    heads: int
    seq: int
    micro_batch: int
    tp: int = 1
    """Ranks that its layers are cut over."""
    seconds: float = 0.0


@dataclass(frozen=True)
class Exchange:
    """One message, or one collective of several groups of ranks at once."""

    kind: str
    """all_reduce | reduce_scatter | all_gather | send"""
    link: str
    """nvlink | network: the slowest that the groups cross"""
    groups: tuple[tuple[int, ...], ...]
    """Ranks; all groups of equal size, no rank in two."""
    size: int
    """Bytes: of the message, of what is summed, of what all hold after gathering or before scattering."""
    seconds: float = 0.0


Case = Product | Operator | Pass | Exchange
"""Something to measure; its ``seconds`` are 0 until it was."""


@dataclass(frozen=True)
class Samples:
    """One measurement of a cluster. Seconds are those of the slowest rank while all are busy."""

    products: tuple[Product, ...]
    operators: tuple[Operator, ...]
    passes: tuple[Pass, ...]
    exchanges: tuple[Exchange, ...]
    reserved_bytes: int
    """Taken in each process before the first tensor."""
    multiprocessors: int
    """Of one device; 1 on a CPU."""
    device: str
    """What the device calls itself."""
    crowding: float = 1.0
    """Seconds of a product with all ranks busy over those with one rank alone."""


_KINDS: dict[str, type[Any]] = {
    "products": Product,
    "operators": Operator,
    "passes": Pass,
    "exchanges": Exchange,
}


def save(samples: Samples, path: Path) -> None:
    """Write ``samples`` as JSON; the file appears whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(samples)), encoding="utf-8")
    partial.rename(path)


def load(path: Path) -> Samples:
    """Read what `save` wrote."""
    values = json.loads(path.read_text(encoding="utf-8"))
    for name, kind in _KINDS.items():
        values[name] = tuple(kind(**entry) for entry in values[name])
    values["exchanges"] = tuple(
        Exchange(e.kind, e.link, tuple(map(tuple, e.groups)), e.size, e.seconds) for e in values["exchanges"]
    )
    return Samples(**values)
