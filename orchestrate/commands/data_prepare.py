"""``orchestrate data prepare``: write the token shards that training would otherwise write first."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from orchestrate.config import Config
from orchestrate.data.prepare import prepare


def run(config: Config, overrides: Sequence[str]) -> int:
    """Prepare all data of ``config``, checking every byte, and say what there is and where."""
    console = Console()
    for source in prepare(config, console, thorough=True):
        state = "written" if source.new else "there already, checked"
        console.print(
            f"{source.name}: {source.tokens:,} tokens in {source.documents:,} documents,"
            f" {source.vocab:,} token ids, {state}: {source.folder}",
            highlight=False,
            soft_wrap=True,
        )
    return 0
