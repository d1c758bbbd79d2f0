"""Text for the files that launchers write: scripts and manifests."""

from __future__ import annotations

from orchestrate.errors import ConfigError


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
