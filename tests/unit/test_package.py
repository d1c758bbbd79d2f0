"""The wheel: what `pip install .` puts on a machine that has no clone."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from orchestrate import resources

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the wheel holds."""
    folder = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(installed: Path, *arguments: str) -> str:
    """What Python prints far from the clone, with the unpacked wheel before everything else."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=installed.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_conf_and_slurm_travel_inside(installed: Path) -> None:
    for name in ("conf", "slurm"):
        printed = run(installed, "-c", f"from orchestrate.resources import folder; print(folder({name!r}))")
        assert Path(printed.strip()) == installed / "orchestrate" / name
        there, here = (
            sorted(f.relative_to(root).as_posix() for f in root.rglob("*") if f.is_file())
            for root in (installed / "orchestrate" / name, ROOT / name)
        )
        assert there == here


def test_every_module_travels(installed: Path) -> None:
    for package in ("orchestrate", "launchers"):
        for file in (ROOT / package).rglob("*.py"):
            assert (installed / file.relative_to(ROOT)).exists()
    for templates in ("orchestrate/report/templates", "launchers/templates"):
        there, here = ({file.name for file in (root / templates).iterdir()} for root in (installed, ROOT))
        assert there == here
    assert not (installed / "tests").exists()


def test_the_command_runs_from_any_folder(installed: Path) -> None:
    assert "quickstart" in run(installed, "-m", "orchestrate", "--help")
    assert "2 nodes of 4" in run(installed, "-m", "orchestrate", "plan", "experiment=quickstart")


def test_an_installation_is_submitted_without_a_copy_of_it(installed: Path) -> None:
    typed = (
        "submit",
        "experiment=quickstart",
        "launcher=slurm",
        "launcher.dry_run=true",
        "run.dir=/shared/run",
    )
    script = run(installed, "-m", "orchestrate", *typed)
    assert "#SBATCH --chdir=/shared/run\n" in script
    assert "PYTHONPATH" not in script


def test_the_command_is_declared(installed: Path) -> None:
    (entry_points,) = installed.glob("*.dist-info/entry_points.txt")
    assert "orchestrate = orchestrate.cli:main" in entry_points.read_text()


def test_a_damaged_installation_says_so() -> None:
    with pytest.raises(FileNotFoundError, match="install again"):
        resources.folder("confetti")
