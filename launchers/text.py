"""Text for the files that launchers write: scripts and manifests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrate.errors import ConfigError

if TYPE_CHECKING:
    import jinja2


class Written(str):
    """Text that goes into a file as it is: it is quoted already, or needs no quotes."""


def plain_text(text: str) -> str:
    """``text`` itself.

    Raises:
        ConfigError: it holds a character that could end a line of a file, or command a terminal.
    """
    if not text.isprintable():
        raise ConfigError(
            f"{text!r}: neither a script nor a manifest can hold line breaks and control characters"
        )
    return text


def comment(line: str) -> Written:
    """``line`` for behind a #."""
    return Written(plain_text(line))


def template(
    file: Path, written: Callable[[object], str], **filters: Callable[..., object]
) -> jinja2.Template:
    """The template in ``file``, of which every value goes through ``written``, which quotes it."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(file.parent),
        undefined=jinja2.StrictUndefined,
        finalize=written,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # what is quoted is no HTML
    )
    environment.filters |= {"comment": comment, **filters}
    return environment.get_template(file.name)
