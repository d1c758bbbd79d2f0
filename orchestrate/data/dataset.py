"""Training and validation samples of a config, from tokens to samplers."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrate.config import Config, SourceConfig
from orchestrate.data.ingest import Prepared, ingest
from orchestrate.data.sampler import BlendSampler, Sampler, WindowSampler
from orchestrate.data.stream import split
from orchestrate.errors import DataError


@dataclass(frozen=True)
class Data:
    train: Sampler
    validation: Sampler
    """Shares no token's position with `train`; in one order, whatever the seed."""
    vocab: int
    """Ids that the tokens may have: 0 to ``vocab`` - 1."""
    fingerprint: str
    """Equal for equal tokens and split: a run may go on only with the data it began with."""


def open_data(config: Config) -> Data:
    """The samplers of ``config.data``; prepares the tokens first where the cache lacks them.

    Raises:
        DataError: a file that is missing, empty or damaged, tokens too few for one sample, or a
            token id that ``config.model.vocab`` has no room for.
    """
    return assemble(config, ingest(config.data))


def assemble(config: Config, prepared: Sequence[Prepared]) -> Data:
    """The samplers over ``prepared``, one for each leaf of ``config.data.source`` in order.

    Raises:
        DataError: as `open_data`.
    """
    fraction = config.data.validation_fraction
    if not 0 < fraction < 1:
        raise DataError(
            f"data.validation_fraction={fraction:g}: must be above 0 and below 1, for instance 0.02"
        )
    for one in prepared:
        if one.header.max_id >= config.model.vocab:
            vocab, learns = config.model.vocab, config.data.source.tokenizer == "bpe"
            raise DataError(
                f"{one.name} has token id {one.header.max_id}, but model.vocab={vocab} "
                f"ends at {vocab - 1}: use model.vocab={max(p.header.vocab for p in prepared)}"
                + (f", or data.source.bpe_vocab={vocab}" if learns else "")
            )
    pairs = iter([_samplers(config, one, position) for position, one in enumerate(prepared)])
    train, validation = _blend(config.data.source, pairs)
    identity = [
        f"{fraction}",
        *(f"{p.header.tokens}:{p.header.dtype}:{p.header.checksums}" for p in prepared),
    ]
    return Data(
        train,
        validation,
        max(one.header.vocab for one in prepared),
        hashlib.blake2b("\n".join(identity).encode(), digest_size=16).hexdigest(),
    )


def _samplers(config: Config, one: Prepared, position: int) -> tuple[Sampler, Sampler]:
    """Training and validation samplers of one source; ``position`` tells apart sources of a blend."""
    seq, fraction = config.model.seq, config.data.validation_fraction
    train, validation = split(one.stream, fraction)
    least = seq + 1
    if train.tokens < least:
        raise DataError(
            f"{one.name} has {one.stream.tokens} tokens, {train.tokens} of them for training, but one sample "
            f"of model.seq={seq} takes {least}: use model.seq={max(train.tokens - 1, 1)} or more text"
        )
    if validation.tokens < least:
        enough = math.ceil(least / one.stream.tokens * 1000) / 1000
        remedy = f"use data.validation_fraction={enough:g}" if enough < 0.5 else "use more text"
        raise DataError(
            f"{one.name}: data.validation_fraction={fraction:g} leaves {validation.tokens} tokens for "
            f"validation, but one sample of model.seq={seq} takes {least}: {remedy} or a smaller model.seq"
        )
    return (
        WindowSampler(train, seq, f"train/{config.train.seed}/{position}", reshuffle=True),
        WindowSampler(validation, seq, f"validation/{position}", reshuffle=False),
    )


def _blend(source: SourceConfig, leaves: Iterator[tuple[Sampler, Sampler]]) -> tuple[Sampler, Sampler]:
    if source.kind != "blend":
        return next(leaves)
    pairs = [_blend(entry.source, leaves) for entry in source.blend]
    weights = [entry.weight for entry in source.blend]
    return (
        BlendSampler([train for train, _ in pairs], weights),
        BlendSampler([validation for _, validation in pairs], weights),
    )
