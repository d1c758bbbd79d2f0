"""The command line: `main` takes the verb off, Hydra composes the rest, the verb gets a frozen config."""

from orchestrate.cli.entry import main

__all__ = ["main"]
