"""Files that would run code if they were unpickled: each kind that is read gives an error, and runs nothing.

Those of checkpoints are in tests/distributed/test_checkpoint_faults.py, folders in Hugging Face's form in
test_interchange.py.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrate.config import Config, SourceConfig
from orchestrate.data import open_data
from orchestrate.data.prepare import prepare
from orchestrate.errors import ConfigError, DataError
from orchestrate.plan import plan as plans
from tests.unit.data_cases import config


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """Where a hostile file makes a folder, if it gets to."""
    return tmp_path / "mark"


class Hostile:
    """Leaves its mark when unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._mark),)


@pytest.fixture
def made(tmp_path: Path) -> Config:
    """A config whose data are prepared."""
    (tmp_path / "words.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 200)
    return config(SourceConfig("text", paths=(str(tmp_path / "words.txt"),)), tmp_path / "cache")


@pytest.mark.parametrize("name", ["header.json", "tokens.bin", "documents.bin"])
def test_a_pickle_in_the_cache_of_data(made: Config, name: str, mark: Path) -> None:
    folder = prepare(made)[0].folder
    assert (folder / name).exists()
    (folder / name).write_bytes(pickle.dumps(Hostile(mark)))
    with pytest.raises(DataError, match=rf"{name} is damaged"):
        open_data(made)
    assert not mark.exists()


def as_object(header: dict[str, Any]) -> None:
    """Tokens as pointers to Python objects."""
    header.update(dtype="|O", tokens=header["tokens"] // 4)


@pytest.mark.parametrize(
    "change",
    [
        as_object,
        lambda header: header.update(dtype="nonsense"),
        lambda header: header.update(dtype=3),
        lambda header: header.update(tokens="many"),
        lambda header: header.update(tokens=-1),
        lambda header: header.update(documents=1.5),
        lambda header: header.update(checksums=["0"]),
        lambda header: header.update(source=[]),
    ],
)
def test_a_hostile_header(made: Config, change: Callable[[dict[str, Any]], None]) -> None:
    file = prepare(made)[0].folder / "header.json"
    header = json.loads(file.read_text())
    change(header)
    file.write_text(json.dumps(header))
    with pytest.raises(DataError, match=r"header\.json is damaged"):
        open_data(made)


def test_an_endless_header(made: Config) -> None:
    (prepare(made)[0].folder / "header.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"header\.json is damaged"):
        open_data(made)


def test_a_plan_that_asks_for_python(tmp_path: Path, mark: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(f"cluster: !!python/object/apply:os.mkdir [{mark}]\n")
    with pytest.raises(ConfigError, match=r"plan\.yaml is not a plan"):
        plans.load(file)
    assert not mark.exists()
    yaml.unsafe_load(file.read_text())
    assert mark.exists()  # it would have
