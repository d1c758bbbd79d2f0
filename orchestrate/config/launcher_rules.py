"""What the texts among the keys of ``launcher`` may say, so that Slurm and the shell read what was meant."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from orchestrate.config.launcher import LauncherConfig

_TIME = re.compile(r"(\d+-\d{1,2}(:\d{2}){0,2}|\d+:\d{2}:\d{2}|UNLIMITED)", re.ASCII | re.IGNORECASE)
_MEMORY = re.compile(r"\d+[KMGT]?", re.ASCII)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_OPTION = re.compile(r"--[a-z][a-z0-9-]*(=.*)?", re.ASCII)
_SECRET = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(_|$)", re.IGNORECASE)
_PLACE = re.compile(r"[^\s:]+:\d{1,5}", re.ASCII)
_TAKEN = {
    "--array": "-m submits one",
    "--chdir": "the code's snapshot is imported from there",
    "--job-name": "launcher.chain needs a name that no other run has; set run.name",
    "--nodes": "the plan says how many; set cluster.nodes or launcher.spare_nodes",
    "--ntasks": "the plan says how many",
    "--ntasks-per-node": "the plan says how many; set cluster.gpus_per_node",
    "--output": "orchestrate logs finds them in the run's folder",
    "--parsable": "orchestrate submit sets it",
    "--test-only": "set launcher.dry_run=true",
    "--wait": "set launcher.wait=true",
    "--wrap": "the script is orchestrate's",
}
"""Options of sbatch that are not for ``launcher.extra``, and why."""


def text_problems(launcher: LauncherConfig) -> Iterator[str]:
    """One line for every text of ``launcher`` that cannot be meant so."""
    for key, text in _texts(launcher, "launcher"):
        if not text.isprintable():
            yield f"{key}={text!r}: no script can hold line breaks and control characters"
    for key in ("time", "switches_wait"):
        value = getattr(launcher, key)
        if value is not None and not _TIME.fullmatch(value):
            yield (
                f"launcher.{key}={value}: write hours:minutes:seconds or days-hours:minutes:seconds, as in"
                " 24:00:00, and in quotes where it stands in a YAML file"
            )
    if launcher.memory is not None and not _MEMORY.fullmatch(launcher.memory):
        yield f"launcher.memory={launcher.memory}: write a number with K, M, G or T, as in 900G"
    if launcher.rendezvous is not None and not _PLACE.fullmatch(launcher.rendezvous):
        yield f"launcher.rendezvous={launcher.rendezvous}: write HOST:PORT, as in node1:29400"
    yield from _options(launcher)
    yield from _environment(launcher.env)


def _options(launcher: LauncherConfig) -> Iterator[str]:
    for key in ("extra", "srun"):
        for option in getattr(launcher, key):
            if not _OPTION.fullmatch(option):
                yield f"launcher.{key}={option!r}: write --option or --option=value, one entry each"
    for option in launcher.extra:
        name = option.partition("=")[0]
        if name in _TAKEN:
            yield f"launcher.extra has {name}, which is not for it: {_TAKEN[name]}"
        if name == "--dependency" and launcher.chain > 1:
            yield f"launcher.extra has {name}, and launcher.chain={launcher.chain} needs its own: drop one"


def _environment(env: dict[str, str]) -> Iterator[str]:
    for name in env:
        if not _NAME.fullmatch(name):
            yield f"launcher.env.{name}: no name of a variable; it takes letters, digits and _"
        elif _SECRET.search(name):
            yield (
                f"launcher.env.{name} looks like a secret, and would be written into the run's folder: export"
                f" {name} in the shell that submits, or keep it in a file such as ~/.netrc"
            )


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, entry in value.items():
            yield f"{key}, a name", name
            yield from _texts(entry, f"{key}.{name}")
    elif isinstance(value, tuple):
        for index, entry in enumerate(value):
            yield from _texts(entry, f"{key}[{index}]")
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield from _texts(getattr(value, name), f"{key}.{name}")
