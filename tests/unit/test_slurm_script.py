"""The batch script: files that show all of it, and values that nobody would wish for."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launchers.slurm.script import Place, render
from orchestrate.cli import main
from orchestrate.cli.compose import Source
from orchestrate.cli.job import build
from orchestrate.commands.planning import make_plan
from orchestrate.config import LauncherConfig
from orchestrate.errors import ConfigError
from tests.golden.scripts import COMMON, SCRIPTS, golden

CONFIG = build(Source(), ["experiment=quickstart", "launcher=slurm"])
PLAN = make_plan(CONFIG)


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_is_the_one_on_file(
    name: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.chdir("/")
    assert main(["submit", *COMMON, *SCRIPTS[name]]) == 0
    script = capsys.readouterr().out
    if request.config.getoption("--renew-golden"):
        golden(name).write_text(script)
    assert script == golden(name).read_text(), "make golden renews the files; then look at what changed"


def test_no_file_is_left_of_a_script_that_is_gone() -> None:
    assert {file.stem for file in golden("any").parent.glob("*.sbatch")} == set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_is_sound_shell(name: str) -> None:
    subprocess.run(["bash", "-n", golden(name)], check=True)
    if shutil.which("shellcheck") is None:
        assert os.environ.get("CI") != "true", "CI needs the package shellcheck"
        pytest.skip("the package shellcheck is not installed")
    checked = subprocess.run(["shellcheck", golden(name)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def executed(folder: Path, launcher: LauncherConfig, code: Path | None = None) -> dict[str, str]:
    """What the job's interpreter gets: its arguments and environment, when bash runs the script."""
    folder.mkdir(exist_ok=True)
    python = folder / "python"
    python.write_text("#!/bin/sh\nprintf '%s\\0' \"$@\"; env -0\n")
    python.chmod(0o755)
    launcher = dataclasses.replace(launcher, python=str(python))
    script = folder / "script"
    script.write_text(render(launcher, PLAN, Place(folder, code, "quickstart")))
    done = subprocess.run(["bash", script], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    words = done.stdout.rstrip("\0").split("\0")
    assert words[:3] == ["-m", "orchestrate.commands.job", str(folder)]
    return dict(word.partition("=")[::2] for word in words[3:])


PRINTABLE = st.text(st.characters(blacklist_categories=("Cs",)).filter(str.isprintable), max_size=30)


@settings(max_examples=30)
@given(value=PRINTABLE)
def test_any_text_reaches_the_job_as_it_is(value: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("it's a $(touch 'x') \"run\" & ;")
    assert executed(folder, LauncherConfig(env={"SAID": value}))["SAID"] == value
    assert not list(folder.glob("x*"))


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a\x1b[2Jb", "a\0b", "a\u2028b"])
@pytest.mark.parametrize("key", ["partition", "venv", "python", "container", "extra", "modules"])
def test_line_breaks_and_control_characters_are_refused(key: str, text: str) -> None:
    value: object = (f"--comment={text}",) if key in ("extra", "modules") else text
    launcher = dataclasses.replace(LauncherConfig(), **{key: value})  # type: ignore[arg-type]
    config = dataclasses.replace(CONFIG, launcher=launcher)
    with pytest.raises(ConfigError, match=f"launcher.{key}.*control characters"):
        make_plan(config)
    if key not in ("container",):  # which the script does not hold
        with pytest.raises(ConfigError, match="control characters"):
            render(launcher, PLAN, Place(Path("/run"), None, "run"))


def test_the_snapshot_comes_before_what_the_user_has_on_the_path(tmp_path: Path) -> None:
    environment = executed(tmp_path, LauncherConfig(), code=tmp_path / "code")
    assert environment["PYTHONPATH"].split(":")[0] == str(tmp_path / "code")
    assert environment["PYTHONSAFEPATH"] == "1"


def test_a_virtual_environment_stands_first_on_the_path(tmp_path: Path) -> None:
    environment = executed(tmp_path, LauncherConfig(venv="/my env"))
    assert environment["PATH"].split(":")[0] == "/my env/bin"


def test_modules_without_the_command_are_told(tmp_path: Path) -> None:
    launcher = LauncherConfig(modules=("cuda/12",))
    (script := tmp_path / "script").write_text(render(launcher, PLAN, Place(tmp_path, None, "run")))
    done = subprocess.run(
        ["bash", "--norc", script], capture_output=True, text=True, env={"PATH": os.environ["PATH"]}
    )
    assert done.returncode == 2
    assert "launcher.modules needs the shell function module" in done.stderr


@pytest.mark.parametrize(
    ("launcher", "told"),
    [
        (LauncherConfig(python="/nowhere/python"), "has no /nowhere/python: name one that every node has"),
        (
            LauncherConfig(source=("/nowhere/setup.sh",)),
            "cannot read this file of launcher.source: /nowhere/setup.sh",
        ),
    ],
)
def test_what_a_node_lacks_is_told(launcher: LauncherConfig, told: str, tmp_path: Path) -> None:
    (script := tmp_path / "script").write_text(render(launcher, PLAN, Place(tmp_path, None, "run")))
    done = subprocess.run(["bash", script], capture_output=True, text=True)
    assert done.returncode == 2
    assert told in done.stderr


def test_a_run_folder_that_a_node_does_not_see_is_told(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    (script := tmp_path / "script").write_text(render(LauncherConfig(), PLAN, Place(gone, None, "run")))
    done = subprocess.run(["bash", script], capture_output=True, text=True)
    assert done.returncode == 2
    assert f"does not see {gone}: run.dir must lie on a file system that all nodes share" in done.stderr


def test_jobs_of_one_run_share_a_name_that_no_other_run_has() -> None:
    def name(folder: str) -> str:
        script = render(LauncherConfig(), PLAN, Place(Path(folder), None, "my run"))
        (line,) = [line for line in script.splitlines() if "--job-name" in line]
        return line

    assert name("/runs/1") == name("/runs/1") != name("/runs/2")
    assert "my_run-" in name("/runs/1")


def test_a_percent_sign_in_a_path_is_no_placeholder_of_sbatch() -> None:
    script = render(LauncherConfig(), PLAN, Place(Path("/runs/50%j"), None, "run"))
    assert "#SBATCH --output=/runs/50%%j/logs/slurm-%j.log" in script
