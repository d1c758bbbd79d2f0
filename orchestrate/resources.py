"""The folders of plain files that travel with the package, ``conf/`` and ``slurm/``, and its commit."""

from __future__ import annotations

import subprocess
from pathlib import Path

REVISION_FILE = ".revision"
"""In a copy of the code without its history: the commit that it was copied from."""


def folder(name: str) -> Path:
    """Absolute path of the folder ``name`` (``conf`` or ``slurm``).

    A built wheel carries them inside the package; in a clone, or an editable install of one, they
    stand beside it.

    Raises:
        FileNotFoundError: the installation is damaged.
    """
    package = Path(__file__).resolve().parent
    for place in (package / name, package.parent / name):
        if place.is_dir():
            return place
    raise FileNotFoundError(f"{name}/ is missing from the installation in {package}: install again")


def revision() -> str | None:
    """The commit of the code that runs, ``-dirty`` where it was changed since; None where nothing tells."""
    source = Path(__file__).resolve().parent
    if (noted := source.parent / REVISION_FILE).is_file():
        return noted.read_text(encoding="utf-8")
    if not (source.parent / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None
