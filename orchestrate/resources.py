"""The folders of plain files that travel with the package: ``conf/`` and ``slurm/``."""

from __future__ import annotations

from pathlib import Path


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
