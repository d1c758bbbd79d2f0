"""The copy of the code in a run's folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from launchers.snapshot import PARTS, snapshot, source_tree
from orchestrate.errors import ConfigError
from orchestrate.resources import revision


@pytest.fixture(params=["git", "no git"])
def clone(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A small working tree, with things in it that no job needs."""
    root = tmp_path / "clone"
    for name, text in {
        "orchestrate/a.py": "a = 1\n",
        "orchestrate/deep/b.py": "b = 1\n",
        "launchers/c.py": "c = 1\n",
        "conf/config.yaml": "x: 1\n",
        "slurm/t.j2": "{{ x }}\n",
        "pyproject.toml": "[project]\n",
        "README.md": "not needed\n",
        "orchestrate/__pycache__/a.cpython-311.pyc": "compiled\n",
        ".gitignore": "__pycache__/\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    if request.param == "git":
        for words in (["init", "-q"], ["add", "orchestrate/a.py", "conf", "slurm"]):
            subprocess.run(["git", *words], cwd=root, check=True)
    return root


def files(folder: Path) -> set[str]:
    found = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    return found - {".revision"}


def test_the_code_is_copied_tracked_or_not_and_nothing_else(clone: Path, tmp_path: Path) -> None:
    code = snapshot(clone, tmp_path)
    assert code == tmp_path / "code"
    assert files(code) == {
        "orchestrate/a.py",
        "orchestrate/deep/b.py",
        "launchers/c.py",
        "conf/config.yaml",
        "slurm/t.j2",
        "pyproject.toml",
    }


def test_what_is_edited_later_is_not_in_it_and_what_was_deleted_is_no_error(
    clone: Path, tmp_path: Path
) -> None:
    first = snapshot(clone, tmp_path)
    (clone / "orchestrate/a.py").unlink()
    (clone / "launchers/c.py").write_text("c = 2\n")
    assert (first / "launchers/c.py").read_text() == "c = 1\n"
    second = snapshot(clone, tmp_path)
    assert second == tmp_path / "code-2"
    assert "orchestrate/a.py" not in files(second)
    assert files(first) >= {"orchestrate/a.py"}


def test_the_same_code_is_copied_once_and_recognised_after_it_ran(clone: Path, tmp_path: Path) -> None:
    code = snapshot(clone, tmp_path)
    (code / "orchestrate" / "__pycache__").mkdir()
    (code / "orchestrate" / "__pycache__" / "a.cpython-311.pyc").write_text("compiled")
    assert snapshot(clone, tmp_path) == code
    assert not list(tmp_path.glob(".code*"))


def test_where_nothing_can_be_written_it_says_so(clone: Path, tmp_path: Path) -> None:
    (run := tmp_path / "run").write_text("no folder")
    with pytest.raises(ConfigError, match=r"the code in .* cannot be copied: .*Not a directory"):
        snapshot(clone, run)


def test_the_commit_goes_with_the_copy(tmp_path: Path) -> None:
    root = source_tree()
    assert root is not None
    code = snapshot(root, tmp_path)
    ask = "from orchestrate.resources import revision; print(revision())"
    told = subprocess.run(
        [sys.executable, "-c", ask],
        env={"PYTHONPATH": str(code)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert told.stdout.strip() == str(revision()), told.stderr


def test_this_clone_is_found_with_all_its_parts() -> None:
    root = source_tree()
    assert root is not None
    assert all((root / part).exists() for part in PARTS)
