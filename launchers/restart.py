"""Keeps a run going: starts its ranks, and after a failure starts them again, on what is left if need be.

Nothing here knows where a checkpoint is: ranks that start in a run's folder go on from its last good one.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import time
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

from launchers import hang
from launchers.attempt import FAILED, MISTAKE, Attempt, attempt
from launchers.diagnosis import Diagnosis, diagnose
from launchers.exits import GO_BACK, REQUEUE
from launchers.failure import Failure
from launchers.faults import Fault, note
from launchers.footing import Footing, TooFew
from launchers.heartbeat import read_beats
from launchers.local import Local
from launchers.luck import Luck
from launchers.ranks import WORKER, Launcher, Reachable, Start
from launchers.supervise import noted_signals, pause
from orchestrate.config import Config
from orchestrate.errors import ConfigError
from orchestrate.plan import plan as plans
from orchestrate.plan.plan import Plan
from orchestrate.topology.cluster import Device


@dataclass(frozen=True)
class Ended:
    """How a run ended, all restarts included."""

    status: int
    """As `launchers.attempt.Attempt.status`."""
    plan: Plan
    """The one that it was on last."""
    failure: Failure | None = None
    """What ended it, where a rank failed."""
    message: str = ""
    """Why it was not started again, and what a hang looked like; empty where it ended well."""
    too_few: bool = False
    """Whether that was for want of devices alone: on others it might go on."""
    signal: int | None = None
    """The signal that told this process to stop."""


@dataclass
class Run:
    """A run that is kept going; `keep` returns when it has ended for good."""

    plan: Plan
    config: Config
    run_dir: Path
    on_tick: Callable[[], None] | None = None
    on_fault: Callable[[Fault], None] | None = None
    """Told about everything that goes into ``faults.jsonl``."""
    module: str = WORKER
    arguments: Sequence[str] = ()
    launcher: Launcher = field(default_factory=Local)
    _footing: Footing = field(init=False)
    _luck: Luck = field(default_factory=Luck)
    _fell: tuple[float, int] | None = None
    """When the last failure was and how far the run had come; None once it is made good."""
    _diagnosis: Diagnosis | None = None

    def __post_init__(self) -> None:
        self._footing = Footing(self.config, self.run_dir, self.launcher, self.plan.cluster)

    def keep(self) -> Ended:
        """Start the ranks until the run is over, stopped, or not worth another try.

        Raises:
            ConfigError: a key of ``faults`` that cannot be, or the machine cannot stand for the cluster.
            TooFew: nothing fits on the devices that are not known to be lost.
        """
        with noted_signals() as between:
            # Before anything starts: what is known to be lost is not tried first.
            self._go_on_without(self._footing.lost_before())
            while not between:
                self._diagnosis = None
                watch = hang.HangWatch(self.run_dir, self.config.faults.hang_s, self._look)
                shown = self._footing.shown()
                start = Start(self.plan, self.config, self.run_dir, self.module, self.arguments, shown)
                ended = attempt(self.launcher, start, self._tick, watch, between)
                if (over := self._over(ended)) is not None:
                    return over
                if not between and (told := pause(self._pause_s(ended), self.on_tick)) is not None:
                    between.append(told)
            # Nothing runs, so nothing is lost.
            status = 128 + between[0] if between[0] == signal.SIGINT else REQUEUE
            return Ended(status, self.plan, signal=between[0])

    def _over(self, ended: Attempt) -> Ended | None:
        """How the run ended, unless it is to be started again; then everything is ready for that."""
        if ended.status in (0, REQUEUE, MISTAKE) or ended.signal is not None:
            return Ended(ended.status, self.plan, ended.failure, signal=ended.signal)
        fault, suspect = self._fault(ended)
        self._note(fault)
        beats = read_beats(self.run_dir, self.plan.dims.world).values()
        finished = max((b.step if b.first + b.done > b.step else b.step - 1 for b in beats), default=0)
        began = any(beat.done for beat in beats)
        first = self._luck.furthest < 0
        self._luck.failed(fault.step, finished, suspect)
        failure = ended.failure
        if failure is not None and (failure.final or (first and not began and failure.recorded)):
            return self._give_up(ended, "")  # it would end alike, or nothing has ever worked
        if (problem := self._luck.hopeless(self.config.faults.tries)) is not None:
            return self._give_up(ended, problem)
        try:
            self._go_on_without(self._footing.lost(self._luck.broken))
        except (ConfigError, OSError) as error:  # nothing fits, or the new plan does not fit on the disk
            return replace(self._give_up(ended, str(error)), too_few=isinstance(error, TooFew))
        self._fell = self._fell or (fault.time, fault.step)
        return None

    def _fault(self, ended: Attempt) -> tuple[Fault, Device | None]:
        """What happened, and the device that may be to blame."""
        beats = read_beats(self.run_dir, self.plan.dims.world)
        step = max((beat.step for beat in beats.values()), default=0)
        if ended.status == GO_BACK:
            return Fault("went_back", time.time(), step, "the loss went astray"), None
        if ended.failure is not None:
            who = ended.failure.suspect
            device = self._footing.physical(Device(who.host, who.device))
            text = f"rank {who.rank} on {device.host} device {device.index}: {ended.failure.cause}"
            fault = Fault("failed", time.time(), step, text, who.rank, device.host, device.index)
            return fault, device if ended.failure.suspects_device else None
        if ended.lost:
            host = min(ended.lost)
            text = f"{', '.join(sorted(ended.lost))} went down with its ranks"
            return Fault("failed", time.time(), step, text, host=host), None
        text = "no progress" if self._diagnosis is None else self._diagnosis.headline
        missing = () if self._diagnosis is None else self._diagnosis.missing
        if len(missing) != 1:
            return Fault("hung", time.time(), step, text), None
        device = self._footing.physical(self.plan.placement.devices[missing[0]])
        return Fault("hung", time.time(), step, text, missing[0], device.host, device.index), device

    def _give_up(self, ended: Attempt, problem: str) -> Ended:
        hung = "" if self._diagnosis is None else self._diagnosis.headline
        message = "; ".join(part for part in (hung, problem) if part)
        if problem:
            self._note(Fault("gave_up", time.time(), self._luck.step, problem))
        return Ended(FAILED, self.plan, ended.failure, message)

    def _go_on_without(self, lost: Set[Device]) -> None:
        if not lost:
            return
        change = self._footing.go_on_without(lost, self.plan)
        replace_plan(self.run_dir, change.plan)
        self.plan = change.plan
        self._note(Fault(change.kind, time.time(), max(self._luck.step, 0), change.text))

    def _pause_s(self, ended: Attempt) -> float:
        return 0.0 if ended.status == GO_BACK else self._luck.pause_s(self.config.faults.pause_s)

    def _look(self, running: Set[int], ranks: Reachable) -> None:
        # Whether or not there is room for the answers, the ranks are started again.
        with contextlib.suppress(OSError, ValueError):
            self._diagnosis = diagnose(hang.collect(self.run_dir, self.plan, running, ranks))

    def _tick(self) -> None:
        if self.on_tick is not None:
            self.on_tick()
        if self._fell is None:
            return
        beats = read_beats(self.run_dir, self.plan.dims.world).values()
        if len(beats) == self.plan.dims.world and all(beat.done for beat in beats):
            (when, step), self._fell = self._fell, None
            first = max(beat.first for beat in beats)
            took = time.time() - when
            text = (
                f"going on from step {first - 1} after {took:.1f} s: {max(0, step - first + 1)} steps again"
            )
            self._note(Fault("recovered", time.time(), first, text, seconds=round(took, 3)))

    def _note(self, fault: Fault) -> None:
        note(self.run_dir, fault)
        if self.on_fault is not None:
            self.on_fault(fault)


def replace_plan(run_dir: Path, plan: Plan) -> None:
    """Make ``plan`` the run's ``plan.yaml``; the one before stays as ``plan-<n>.yaml``."""
    current = run_dir / "plan.yaml"
    number = 1
    while (kept := run_dir / f"plan-{number}.yaml").exists():
        number += 1
    if current.exists():
        shutil.copyfile(current, kept)
    # Whenever this process may be killed, there is a whole plan.yaml: without one no job goes on.
    partial = run_dir / ".plan.partial"
    plans.save(plan, partial)
    partial.replace(current)
