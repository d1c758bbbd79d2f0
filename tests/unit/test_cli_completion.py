"""Completion, by asking the function and by pressing TAB in a real bash."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrate.cli.completion import complete, script
from orchestrate.cli.groups import groups
from orchestrate.cli.schema import all_keys
from orchestrate.cli.verbs import VERBS

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([""], sorted({verb.name.split()[0] for verb in VERBS})),
        (["pr"], ["predict"]),
        (["--v"], ["--version"]),
        (["--completion", "b"], ["bash"]),
        (["data", ""], ["prepare"]),
        (["predict", "ru"], ["run.", "runs="]),
        (["train", "mod"], ["model.", "model="]),
        (["train", "model=gpt2"], ["model=gpt2_124m"]),
        (["train", "-m", "model=gpt2_124m,gpt_t"], ["model=gpt2_124m,gpt_tiny"]),
        (["train", "optim.l"], ["optim.lr="]),
        (["train", "+optim.l"], ["+optim.lr="]),
        (["train", "parallel.schedule=z"], ["parallel.schedule=zbv"]),
        (["train", "zero.engine="], ["zero.engine=deepspeed", "zero.engine=fsdp2"]),
        (["train", "model.bias=t"], ["model.bias=true"]),
        (["data", "prepare", "data=m"], ["data=megatron"]),
        (["train", "--cfg", ""], ["all", "hydra", "job"]),
        (["train", "--conf"], ["--config-dir", "--config-name"]),
        (["train", "optim.lr=0."], []),
        (["nonsense", "mod"], []),
        (["status", "runs/mine", "fo"], ["format="]),
        (["status", "runs/mine", "format=j"], ["format=json"]),
        (["logs", "runs/mine", "ra"], ["rank="]),
        (["checkpoint", "show", "runs/mine", "format=j"], ["format=json"]),
        (["evaluate", "pl"], ["plan.", "plan=", "plot="]),
        (["plan", "ra"], []),
        (["submit", "launcher=s"], ["launcher=slurm"]),
        (["submit", "launcher.container_r"], ["launcher.container_runtime="]),
    ],
)
def test_what_may_stand_there(words: list[str], found: list[str]) -> None:
    assert complete(words) == found


def test_every_group_choice_and_key_is_offered() -> None:
    for group, choices in groups().items():
        assert f"{group}=" in complete(["train", group])
        assert complete(["train", f"{group}="]) == [f"{group}={choice}" for choice in choices]
    for key in all_keys():
        assert f"{key.path}=" in complete(["train", key.path])


def test_choices_from_a_folder_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").touch()
    assert complete(["train", "--config-dir", str(tmp_path), "model=mi"]) == ["model=mine"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_in_the_shells_language(shell: str, tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        assert os.environ.get("CI") != "true", f"CI needs {shell}"
        pytest.skip(f"no {shell} here")
    file = tmp_path / "script"
    file.write_text(script(shell))
    subprocess.run([program, "-n", str(file)], check=True)


class Terminal:
    """An interactive bash on a pseudo-terminal, with completion switched on."""

    def __init__(self, folder: Path) -> None:
        command = folder / "orchestrate"
        command.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m orchestrate "$@"\n')
        command.chmod(0o755)
        environment = {
            "PATH": f"{folder}:{os.environ['PATH']}",
            "TERM": "dumb",
            "PS1": "READY ",
            "HOME": str(folder),
        }
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], environment)
        self.wait_for("READY ")
        self.type(
            'bind "set bell-style none"; eval "$(orchestrate --completion bash)"; printf "%s\\n" S""ET\n'
        )
        self.wait_for("SET")

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def wait_for(self, text: str) -> str:
        """What the terminal shows up to and including ``text``."""
        shown, deadline = "", time.monotonic() + DEADLINE_S
        while text not in shown:
            assert time.monotonic() < deadline, f"{text!r} did not appear in {shown!r}"
            if select.select([self.fd], [], [], 0.1)[0]:
                shown += os.read(self.fd, 4096).decode(errors="replace")
        return shown

    def close(self) -> None:
        self.type("\x15exit\n")
        os.close(self.fd)  # hangs up, should it not have understood
        os.waitpid(self.pid, 0)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_tab_in_a_real_bash(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    try:
        for typed, becomes in (
            ("orchestrate tra\t", "orchestrate train "),
            ("model=gpt2\t", "model=gpt2_124m "),
            ("parallel.sch\t", "parallel.schedule="),
            ("zb\t", "zbv "),
            ("optim.l\t", "optim.lr="),
        ):
            terminal.type(typed)
            terminal.wait_for(becomes)
    finally:
        terminal.close()
