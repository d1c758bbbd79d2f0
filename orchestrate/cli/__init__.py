"""The command line: `main` takes the verb off, Hydra composes the rest, and the verb gets one frozen config."""

from orchestrate.cli.entry import main

__all__ = ["main"]
