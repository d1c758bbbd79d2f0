"""What ``orchestrate data prepare`` does, and what training does before it starts processes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrate.config import Config
from orchestrate.data.dataset import assemble
from orchestrate.data.ingest import Prepared, ingest
from orchestrate.data.shard import verify

if TYPE_CHECKING:
    from rich.console import Console

QUICK_CHUNKS = 64
"""Chunks compared with their checksums unless all are asked for: every byte of a shard of up to 1 GiB."""


@dataclass(frozen=True)
class Summary:
    """One prepared source, to tell people about."""

    name: str
    folder: Path
    """The shard in the cache."""
    tokens: int
    documents: int
    vocab: int
    new: bool
    """False where the cache had it."""


def prepare(config: Config, console: Console | None = None, *, thorough: bool = False) -> tuple[Summary, ...]:
    """Make every token shard that ``config.data`` needs and the cache lacks, and check them all.

    One `Summary` per source, in the order of the blend. Imports no torch. A progress bar shows on
    ``console`` for work of more than two seconds. Shards that were there already are compared with
    their checksums: up to 1 GiB of each, or with ``thorough`` every byte.

    Raises:
        DataError: a file that is missing, empty or damaged, tokens too few for one sample, or a
            token id that ``config.model.vocab`` has no room for.
    """
    prepared = ingest(config.data, console)
    for one in prepared:
        if not one.new and one.source.kind != "megatron":
            verify(one.folder, None if thorough else QUICK_CHUNKS)
    assemble(config, prepared)
    return tuple(_summary(one) for one in prepared)


def _summary(one: Prepared) -> Summary:
    header = one.header
    return Summary(one.name, one.folder, header.tokens, header.documents, header.vocab, one.new)
