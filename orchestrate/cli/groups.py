"""The config groups and their choices, read from the folders of the conf tree without Hydra."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrate.resources import folder


def conf_folder() -> Path:
    """The folder of the config that comes with the package."""
    return folder("conf")


def groups(extra: Sequence[Path] = ()) -> dict[str, tuple[str, ...]]:
    """Choices by group, both sorted; those of the folders in ``extra`` come in as well."""
    found: dict[str, set[str]] = {}
    for root in (conf_folder(), *extra):
        for file in root.glob("*/**/*.yaml"):
            group = file.parent.relative_to(root).as_posix()
            found.setdefault(group, set()).add(file.stem)
    return {group: tuple(sorted(found[group])) for group in sorted(found)}
