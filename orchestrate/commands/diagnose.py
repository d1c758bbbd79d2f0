"""``orchestrate diagnose RUN``: what went wrong, and which rank the others wait for. No torch here."""

from __future__ import annotations

import time
from collections.abc import Sequence, Set
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from launchers import hang
from launchers.diagnosis import Diagnosis, diagnose, shown_frames
from launchers.faults import Fault, read_faults
from launchers.heartbeat import read_beats
from launchers.processes import Known
from launchers.ranks import Reachable
from launchers.slurm.jobs import What, read_events
from launchers.slurm.step import Running
from orchestrate.commands.here import processes_here
from orchestrate.config import Config
from orchestrate.errors import ConfigError
from orchestrate.plan import plan as plans
from orchestrate.plan.shown.search_tables import table

GOES_ON_S = 15.0
"""Longest wait to see whether a run goes on. Steps that take longer look like a hang, and the table says how
long each rank has been silent."""
_POLL_S = 0.1


def run(config: Config, overrides: Sequence[str]) -> int:
    """Print the faults of the run in ``run.dir``, and what its ranks are doing or were doing in a hang.

    Ranks that run on this machine or in a Slurm job are asked now; otherwise the last answers kept in the
    run's folder are read. Nothing is ended.

    Returns:
        0, also where nothing is wrong.

    Raises:
        ConfigError: ``run.dir`` is not the folder of a run.
    """
    if config.run.dir is None:
        raise ConfigError("diagnose which run? orchestrate diagnose FOLDER")
    run_dir = Path(config.run.dir).expanduser()
    if not (run_dir / "plan.yaml").exists():
        raise ConfigError(f"run.dir={run_dir}: no plan.yaml there; give the folder of a run")
    console = Console()
    faults = read_faults(run_dir)
    if faults:
        console.print(_history(faults))
    running, ranks = _reach(run_dir)
    folder: Path | None
    if ranks is not None:
        folder = hang.collect(run_dir, plans.load(run_dir / "plan.yaml"), running, ranks)
    else:
        folder = next(reversed(hang.folders(run_dir)), None)
    if folder is None:
        console.print("nothing of it runs on this machine or in a job, and no hang is on record")
        return 0
    try:
        found = diagnose(folder)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{folder} is damaged: {error}") from None
    if ranks is not None and _goes_on(run_dir, found):
        console.print(_ranks(replace(found, missing=())))
        console.print("now: no hang, every rank has made a step since")
    else:
        console.print(_ranks(found))
        for rank in found.missing:
            for frame in shown_frames(found.stacks.get(rank, ())):
                console.print(Text(f"  rank {rank}: {frame}"), soft_wrap=True)
        console.print(Text(f"{'then' if ranks is None else 'now'}: {found.headline}"), soft_wrap=True)
    console.print(Text(f"stacks and collectives of every rank: {folder}"), soft_wrap=True)
    return 0


def _reach(run_dir: Path) -> tuple[Set[int], Reachable | None]:
    """The processes of the run that can be asked: those on this machine, or those of its Slurm job."""
    here = processes_here(run_dir)
    if here:
        return here.keys(), Known(here)
    events = read_events(run_dir)
    if events and events[-1].what is What.started:
        beats = len(list((run_dir / "heartbeats").glob("rank-*")))
        return set(range(beats)), Running.of(events[-1].job)
    return set(), None


def _goes_on(run_dir: Path, found: Diagnosis) -> bool:
    """Whether every rank gets past the step that it was asked in. Of a run that is well, too, some ranks have
    begun fewer collectives than others when they are asked; one that is stopped or silent needs no wait."""
    if any(state.stopped or not state.answered for state in found.states):
        return False
    deadline = time.monotonic() + GOES_ON_S
    while time.monotonic() < deadline:
        beats = read_beats(run_dir, len(found.states))
        steps = [beats[state.process].step if state.process in beats else 0 for state in found.states]
        if all(step > state.step for step, state in zip(steps, found.states, strict=True)):
            return True
        time.sleep(_POLL_S)
    return False


def _history(faults: Sequence[Fault]) -> Table:
    made = table("step", "fault", "what", title="Faults of this run")
    for fault in faults:
        made.add_row(str(fault.step), fault.kind.replace("_", " "), Text(fault.text))
    return made


def _ranks(found: Diagnosis) -> Table:
    made = table("rank", "host", "device", "step", "silent", "what it was doing")
    for state in found.states:
        made.add_row(
            str(state.rank),
            state.host,
            str(state.device),
            str(state.step),
            f"{state.silent_s:.0f} s",
            Text(_doing(found, state)),
            style="red" if state.rank in found.missing else "",
        )
    return made


def _doing(found: Diagnosis, state: hang.State) -> str:
    if state.stopped:
        return "stopped by a signal"
    if not state.answered:
        return "does not answer"
    pending = [
        f"{call.name} number {call.number} of group {group.name}"
        for group, call in found.calls.get(state.rank, {}).items()
        if call.pending and group.name != "control"
    ]
    frames = found.stacks.get(state.rank, ("somewhere",))
    return f"in {', '.join(pending)}" if pending else frames[0]
