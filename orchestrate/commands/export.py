"""``orchestrate export``: a checkpoint's weights in Hugging Face's form. No torch until all is checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from orchestrate import config as configs
from orchestrate.checks import check_parts
from orchestrate.config import Config
from orchestrate.data.meter import Meter
from orchestrate.errors import ConfigError
from orchestrate.interchange import outcome, tokenizer
from orchestrate.plan.units import GIB
from orchestrate.train.checkpoint import format as checkpoints


def run(config: Config, overrides: Sequence[str]) -> int:
    """Write the newest whole checkpoint of ``path``, or the one that it names, to the folder ``out``."""
    if not (math.isfinite(config.export.shard_gib) and config.export.shard_gib > 0):
        raise ConfigError(f"export.shard_gib={config.export.shard_gib:g}: must be above 0")
    out = outcome.check_new(config.out)
    console = Console(highlight=False, soft_wrap=True)
    checkpoint = _choose(config.path, console)
    state = checkpoints.read_state(checkpoint)
    trained = configs.load(state.config)
    check_parts(trained)
    dtype = config.export.dtype or trained.precision.dtype
    made_with = None if state.untrained else tokenizer.named(trained.data.source)
    files = tokenizer.find(config.export.tokenizer, made_with)
    end = tokenizer.end_of_document(files, made_with, trained.model.vocab)

    from orchestrate.interchange.exporting import Form, Source, size_of, write

    source = Source(checkpoint, trained.model)
    form = Form(dtype, int(config.export.shard_gib * GIB), files, end)
    size = size_of(trained.model, dtype)
    with Meter("exporting", size, console) as meter:
        write(source.rows, trained.model, out, form, meter.advance)
    console.print(f"{checkpoint}: {trained.model.name} in {dtype.value}, {size:,} bytes: {out}", markup=False)
    if not files:
        console.print("no tokenizer goes with it: export.tokenizer=FILE_OR_FOLDER adds one")
    return 0


def _choose(given: str | None, console: Console) -> Path:
    if given is None:
        raise ConfigError(
            "path is missing: name a run's folder or a checkpoint, as in: orchestrate export runs/mine out=hf"
        )
    folder = checkpoints.resolve(given)
    with console.status("comparing checksums"):
        chosen = checkpoints.latest(
            folder, lambda damage: console.print(damage, style="yellow", markup=False)
        )
    if chosen is None:
        raise ConfigError(
            f"{given}: no checkpoint there is whole: orchestrate checkpoint verify names the files"
        )
    return chosen.path
