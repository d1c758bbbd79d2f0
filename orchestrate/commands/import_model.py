"""``orchestrate import``: a model in Hugging Face's form as a checkpoint to start from."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from orchestrate.checks import check_parts
from orchestrate.config import Config
from orchestrate.data.meter import Meter
from orchestrate.errors import ConfigError
from orchestrate.interchange import outcome, tokenizer
from orchestrate.topology.discover.merge import safe_name


def run(config: Config, overrides: Sequence[str]) -> int:
    """Write the model in the folder ``path`` to the new folder ``out``, and say how to train it."""
    if config.path is None:
        raise ConfigError(
            "path is missing: name a folder in Hugging Face's form, as in: orchestrate import hf out=started"
        )
    folder = Path(config.path).expanduser().absolute()
    out = outcome.check_new(config.out)

    from orchestrate.interchange.importing import Source, bring_in, size_of, weights_dtype

    source = Source(folder, safe_name(folder.name))
    config = replace(config, model=source.model)
    check_parts(config)
    console = Console(highlight=False, soft_wrap=True)
    size = size_of(source, weights_dtype(config))
    with Meter("importing", size, console) as meter:
        bring_in(source, config, out, meter.advance)
    console.print(f"{folder}: {source.model.name}, {size:,} bytes: {out}", markup=False)
    words = ["orchestrate", "train", "--config-dir", str(out), f"model={source.model.name}"]
    words.append(f"checkpoint.load={out}")
    if (out / tokenizer.DEFINITION).is_file():
        words += ["data=text", f"data.source.tokenizer={out / tokenizer.DEFINITION}", "data.source.paths=[…]"]
    console.print(f"to train it: {shlex.join(words)}", markup=False)
    return 0
