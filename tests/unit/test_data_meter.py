"""The progress bar: there for work that lasts, absent for the rest."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from orchestrate.data import meter
from orchestrate.data.prepare import prepare
from tests.unit.data_cases import config, text


def prepare_and_read_the_screen(tmp_path: Path) -> str:
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text("some text\n" * 100)
    screen = io.StringIO()
    prepare(config(text(tmp_path / "*.txt"), tmp_path / "cache"), Console(file=screen, force_terminal=True))
    return screen.getvalue()


def test_short_work_shows_nothing(tmp_path: Path) -> None:
    assert prepare_and_read_the_screen(tmp_path) == ""


def test_long_work_shows_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "PATIENCE_S", 0.0)  # then any work is long
    screen = prepare_and_read_the_screen(tmp_path)
    assert "preparing text" in screen
    assert "2.9/2.9 KiB" in screen
