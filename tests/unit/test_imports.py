"""The direction of imports, and what planning on a login node never loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "deepspeed", "transformers"}

LAYERS: tuple[set[str], ...] = (
    {"orchestrate.errors", "orchestrate.resources"},
    {"orchestrate.config"},
    {"orchestrate.topology"},
    {"orchestrate.plan"},
    {"orchestrate.checks", "orchestrate.mesh", "orchestrate.measurements", "orchestrate.report"},
    {"orchestrate.data", "orchestrate.model", "orchestrate.parallel"},
    {"orchestrate.train", "launchers"},
    {"orchestrate.calibrate", "orchestrate.interchange"},
    {"orchestrate.commands"},
    {"orchestrate.cli"},
    {"orchestrate.__main__"},
)
"""A module imports from its own layer or from those before it."""

NO_TORCH = (
    "launchers",
    "orchestrate.checks",
    "orchestrate.cli",
    "orchestrate.commands",
    "orchestrate.config",
    "orchestrate.errors",
    "orchestrate.measurements",
    "orchestrate.plan",
    "orchestrate.report",
    "orchestrate.resources",
    "orchestrate.topology",
)


def modules() -> Iterator[tuple[str, Path]]:
    for package in ("orchestrate", "launchers"):
        for file in sorted((ROOT / package).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


def imported_by(name: str, file: Path) -> set[str]:
    """Every module that ``file`` imports, wherever in it, but for what only type checkers read."""
    found: set[str] = set()
    skipped: set[ast.AST] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            skipped.update(child for statement in node.body for child in ast.walk(statement))
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def layer_of(module: str) -> tuple[int, str] | None:
    for height, members in enumerate(LAYERS):
        for member in members:
            if module == member or module.startswith(member + "."):
                return height, member
    return None


MODULES = dict(modules())


@pytest.mark.parametrize("name", [name for name in MODULES if name != "orchestrate"])
def test_imports_point_one_way(name: str) -> None:
    here = layer_of(name)
    assert here is not None, f"{name} has no layer: add it to LAYERS"
    for target in imported_by(name, MODULES[name]):
        there = layer_of(target)
        if there is not None:
            assert there[0] <= here[0], f"{name} imports {target}, which stands above it"


PLANNING = ({"placement", "pipeline"}, {"memory"}, {"time"}, {"search"}, {"shown"})
"""The folders of `orchestrate.plan`, each above those before it; its own modules are below all of them."""


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("orchestrate.plan.")])
def test_planning_is_built_upwards(name: str) -> None:
    def height(module: str) -> int:
        below = module.split(".")[2:3]
        return next((i for i, folders in enumerate(PLANNING) if folders & set(below)), -1)

    for target in imported_by(name, MODULES[name]):
        if target.startswith("orchestrate.plan."):
            assert height(target) <= height(name), f"{name} imports {target}, which stands above it"


def test_launchers_know_no_training_code() -> None:
    for name, file in MODULES.items():
        if name.startswith("launchers"):
            targets = {layer[1] for t in imported_by(name, file) if (layer := layer_of(t)) is not None}
            assert targets <= {
                "launchers",
                "orchestrate.config",
                "orchestrate.errors",
                "orchestrate.plan",
                "orchestrate.resources",
                "orchestrate.topology",
            }


def loaded_after(code: str, folder: Path) -> set[str]:
    """Top-level packages in a fresh interpreter's memory after ``code``."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print('MODULES', *sys.modules)"],
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(folder)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in done.stdout.rpartition("MODULES")[2].split()}


def test_planning_code_loads_no_torch(tmp_path: Path) -> None:
    names = [name for name in MODULES if name.startswith(NO_TORCH) and name != "launchers.guard"]
    assert len(names) > 20
    assert not HEAVY & loaded_after("\n".join(f"import {name}" for name in names), tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan"],
        ["plan", "plan.format=json"],
        ["train", "--cfg", "job"],
        ["submit", "launcher=slurm", "launcher.dry_run=true"],
        ["submit", "launcher=torchrun", "launcher.rendezvous=node1:29400", "launcher.dry_run=true"],
    ],
)
def test_planning_loads_no_torch(arguments: list[str], tmp_path: Path) -> None:
    loaded = loaded_after(f"from orchestrate.cli import main; assert main({arguments!r}) == 0", tmp_path)
    assert "hydra" in loaded
    assert not HEAVY & loaded
