"""Captured outputs, and a sysfs like theirs."""

from __future__ import annotations

from pathlib import Path

CAPTURES = Path(__file__).parent / "captures"
"""See its README for where each was published."""


def capture(name: str) -> str:
    """What the program printed."""
    return (CAPTURES / name).read_text(encoding="utf-8")


def adapter(sys: Path, name: str, *ports: tuple[str, str, str]) -> None:
    """A device of class/infiniband as the kernel shows it: (state, rate, link layer) of each port."""
    for number, values in enumerate(ports, start=1):
        folder = sys / "class/infiniband" / name / "ports" / str(number)
        folder.mkdir(parents=True)
        for file, text in zip(("state", "rate", "link_layer"), values, strict=True):
            (folder / file).write_text(text + "\n", encoding="utf-8")
