"""Submitting without Slurm: torchrun's command, or a manifest for Kubernetes. No torch here."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from launchers import kubernetes, torchrun
from launchers.slurm.script import interpreter
from launchers.snapshot import CODE, source_tree
from orchestrate.commands import run_folder
from orchestrate.commands.freeze import FROZEN, copy_code, note_environment, prepared
from orchestrate.commands.planning import make_plan
from orchestrate.config import Config, LauncherKind
from orchestrate.data.prepare import prepare
from orchestrate.errors import ConfigError
from orchestrate.plan.plan import Plan
from orchestrate.plan.shown.tables import render_plan


def run(config: Config, overrides: Sequence[str]) -> int:
    """Freeze the run of ``config``, then become torchrun, or write the manifest and say how to apply it; with
    ``launcher.dry_run`` print the command or the manifest, and leave nothing behind.

    Raises:
        ConfigError: what cannot be planned or started so.
    """
    to_pods = config.launcher.kind is LauncherKind.kubernetes
    if to_pods:
        # Pods are called what Kubernetes calls them.
        config = replace(config, cluster=replace(config.cluster, hosts=()))
    plan = make_plan(config)
    if config.launcher.dry_run:
        folder = run_folder.proposed(config).absolute()
        code = None if source_tree() is None else folder / CODE
        print(_manifest(config, plan, folder, code) if to_pods else _line(config, plan, folder, code), end="")
        return 0
    console = Console()
    console.print(render_plan(plan))
    if not to_pods:
        prepare(config, console)
    with prepared(config, plan, overrides, (*FROZEN, kubernetes.MANIFEST_FILE)) as folder:
        note_environment(folder, None)
        code = copy_code(folder)
        line = _line(config, plan, folder, code) if not to_pods else _apply(config, plan, folder, code)
    console.print(f"run folder {folder}", highlight=False, soft_wrap=True, markup=False)
    console.print(line, end="", highlight=False, soft_wrap=True, markup=False)
    return 0 if to_pods else _become(config, plan, folder, code)


def _line(config: Config, plan: Plan, folder: Path, code: Path | None) -> str:
    """What to type on every node, from whatever folder."""
    argv = torchrun.command(config, plan, folder, interpreter(config.launcher))
    stand = "" if code is None else f"cd {shlex.quote(str(code))} && "
    return f"{stand}{torchrun.shown(torchrun.variables(config, code), argv)}\n"


def _become(config: Config, plan: Plan, folder: Path, code: Path | None) -> int:
    """Go on as torchrun, so that signals and the exit status are its own.

    Raises:
        ConfigError: there is no such interpreter.
    """
    argv = torchrun.command(config, plan, folder, interpreter(config.launcher))
    sys.stdout.flush()
    if code is not None:
        os.chdir(code)
    try:
        os.execvpe(argv[0], argv, {**os.environ, **torchrun.variables(config, code)})
    except OSError as error:
        raise ConfigError(
            f"{argv[0]}: {error.strerror}: name one that this machine has in launcher.python or launcher.venv"
        ) from None


def _manifest(config: Config, plan: Plan, folder: Path, code: Path | None) -> str:
    name = f"{config.run.name or config.model.name}-{folder.name}"
    return kubernetes.render(config, plan, folder, code, name)


def _apply(config: Config, plan: Plan, folder: Path, code: Path | None) -> str:
    """Write the manifest; the command that hands it to Kubernetes."""
    file = folder / kubernetes.MANIFEST_FILE
    file.write_text(_manifest(config, plan, folder, code), encoding="utf-8")
    return shlex.join(["kubectl", "apply", f"--filename={file}"]) + "\n"
