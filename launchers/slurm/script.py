"""The batch script of a run: from the launcher's keys and the plan to a file for people to read and edit."""

from __future__ import annotations

import hashlib
import math
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from launchers.ranks import devices_per_node, nodes_of
from launchers.slurm.commands import log_pattern
from launchers.slurm.requeue import outlives_nodes
from launchers.text import Written, plain_text, template
from orchestrate.config import DeviceKind, LauncherConfig
from orchestrate.plan.plan import Plan
from orchestrate.resources import folder as resource

TEMPLATE = "train.sbatch.j2"
SCRIPT_FILE = "submit.sbatch"


@dataclass(frozen=True)
class Place:
    """Where the files of a job are, all absolute, and all to be seen by every node."""

    folder: Path
    """The run's; with `tasks` the one that has a run's folder ``1``, ``2``, … for each task."""
    code: Path | None
    """The snapshot to import from; None: the code is installed where the job runs."""
    name: str
    """Of the run, for people."""
    tasks: int | None = None
    """Of a job array; None: one job."""


def render(launcher: LauncherConfig, plan: Plan, place: Place) -> str:
    """The batch script that trains ``plan``.

    Raises:
        ConfigError: Slurm cannot give the nodes of the plan in one request, or a path that no script
            can hold.
    """
    return template(resource("slurm") / TEMPLATE, _shell, directive=_directive).render(
        about=tuple(_about(plan, place)),
        options=tuple(_options(launcher, plan, place)),
        array=place.tasks is not None,
        folder=place.folder,
        python=interpreter(launcher),
        sources=launcher.source,
        modules=launcher.modules,
        path=None if launcher.venv is None else Path(launcher.venv) / "bin",
        variables=_variables(launcher),
        code=place.code,
    )


def interpreter(launcher: LauncherConfig) -> str:
    """The Python that the job runs with."""
    if launcher.python is not None:
        return launcher.python
    return sys.executable if launcher.venv is None else str(Path(launcher.venv) / "bin" / "python")


def _shell(value: object) -> str:
    """``value`` as one word of the shell."""
    return value if isinstance(value, Written) else shlex.quote(plain_text(str(value)))


def _directive(option: str) -> Written:
    """``option`` as one argument of an #SBATCH line: there a backslash escapes in either kind of quotes, and
    # begins a comment outside of them."""
    name, equals, value = plain_text(option).partition("=")
    if not equals or re.fullmatch(r"[\w@%+=:,./&|*\[\]-]+", value, re.ASCII):
        return Written(option)
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return Written(f'{name}="{escaped}"')


def _about(plan: Plan, place: Place) -> Iterator[str]:
    dims = plan.dims
    degrees = ", ".join(f"{axis} {dims.degree(axis)}" for axis in ("tp", "cp", "pp", "dp"))
    runs = f"{place.tasks} runs, each " if place.tasks is not None else ""
    yield f"Trains {place.name}: {runs}on {dims.world} devices of {plan.cluster.name}, {degrees}."
    yield "Written by orchestrate submit, and yours to edit: sbatch takes it as it is."


def _options(launcher: LauncherConfig, plan: Plan, place: Place) -> Iterator[str]:
    """The options of sbatch, one argument each."""
    devices = devices_per_node(plan)
    log = "slurm-%j.log" if place.tasks is None else "slurm-%A_%a.log"
    where = log_pattern(place.folder) + ("" if place.tasks is None else "/%a")
    yield f"--job-name={job_name(place)}"
    if place.tasks is not None:
        limit = "" if launcher.array_limit is None else f"%{launcher.array_limit}"
        yield f"--array=1-{place.tasks}{limit}"
    yield f"--nodes={nodes_of(plan) + launcher.spare_nodes}"
    yield f"--ntasks-per-node={devices}"
    if launcher.cpus_per_task is not None:
        yield f"--cpus-per-task={launcher.cpus_per_task}"
    wanted = launcher.request_gpus
    if plan.cluster.device.kind is DeviceKind.cuda if wanted is None else wanted:
        yield f"--gpus-per-node={devices}"
    if launcher.exclusive:
        yield "--exclusive"
    memory = launcher.memory or ("0" if launcher.exclusive else None)
    if memory is not None:
        yield f"--mem={memory}"
    for name in ("partition", "account", "qos", "time", "constraint", "reservation", "nodelist", "exclude"):
        if (value := getattr(launcher, name)) is not None:
            yield f"--{name}={value}"
    if switches := _switches(launcher, plan):
        wait = "" if launcher.switches_wait is None else f"@{launcher.switches_wait}"
        yield f"--switches={switches}{wait}"
    yield f"--chdir={place.folder if place.code is None else place.code}"
    yield f"--output={where}/logs/{log}"
    yield "--open-mode=append"
    if launcher.signal_s:
        yield f"--signal=B:USR1@{launcher.signal_s}"
    yield "--requeue" if launcher.requeue else "--no-requeue"
    if outlives_nodes(launcher):
        yield "--no-kill"
    if launcher.chain > 1:
        yield "--dependency=singleton"
    yield from launcher.extra


def job_name(place: Place) -> str:
    """One name for all jobs of a run, and for none of another's: --dependency=singleton goes by it."""
    short = re.sub(r"[^\w.-]", "_", place.name)
    return f"{short}-{hashlib.sha256(str(place.folder).encode()).hexdigest()[:6]}"


def _switches(launcher: LauncherConfig, plan: Plan) -> int:
    """How many leaf switches to ask for; 0: it does not matter."""
    levels = plan.cluster.switches
    if launcher.switches is not None or not any(level.oversubscription > 1 for level in levels):
        return launcher.switches or 0
    used = {device.host for device in plan.placement.devices}
    if len(used) == 1:
        return 0
    leaves = {node.position // levels[0].nodes for node in plan.cluster.nodes if node.host in used}
    return max(len(leaves), math.ceil((len(used) + launcher.spare_nodes) / levels[0].nodes))


def _variables(launcher: LauncherConfig) -> Mapping[str, str]:
    """What the job's environment gets."""
    # Without the first, a module of the folder that the job stands in would be imported before the code's.
    return {**launcher.env, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
