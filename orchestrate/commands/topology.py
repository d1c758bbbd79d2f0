"""``orchestrate topology``: read the machine, or outputs saved on one, into a cluster file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from orchestrate.config import Config
from orchestrate.errors import ConfigError
from orchestrate.topology.discover.draft import Draft, render
from orchestrate.topology.discover.merge import merge, safe_name
from orchestrate.topology.discover.picture import picture
from orchestrate.topology.discover.sources import read_sources


def run(config: Config, overrides: Sequence[str]) -> int:
    """Print the cluster file, or write it to ``out`` and show what was found."""
    reading = read_sources(config.topology)
    for line in reading.missing:
        print(f"not found: {line}", file=sys.stderr)
    out = None if config.out is None else Path(config.out)
    draft = merge(reading, safe_name(out.stem if out else reading.host or "discovered"))
    if out is None:
        print(render(draft), end="")
        return 0
    _write(out, render(draft))
    console = Console(highlight=False, soft_wrap=True)
    console.print(picture(reading, draft))
    console.print(f"written: {out}", markup=False)
    console.print(_next(out, draft), markup=False)
    return 0


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"out={file}: {error.strerror}") from None


def _next(out: Path, draft: Draft) -> str:
    """What to do with the file: it is a choice of the group cluster, so its folder has that name."""
    folder = out.parent
    if folder.name != "cluster":
        folder = folder / "cluster"
        first = f"to plan on it, put it into a folder cluster/: {folder / out.name}; then"
    else:
        first = "to plan on it"
    missing = draft.missing()
    fill = f", once {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} filled in" if missing else ""
    return f"{first}{fill}: orchestrate plan --config-dir {folder.parent} cluster={out.stem}"
