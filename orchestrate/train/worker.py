"""One process of a training run: ``python -m orchestrate.train.worker RUN_DIR``, started by a launcher."""

from __future__ import annotations

import signal
import sys
from contextlib import ExitStack
from pathlib import Path

import torch.distributed as dist
import yaml

from launchers.exits import GO_BACK, REQUEUE
from launchers.heartbeat import Heart
from launchers.ranks import launch_order
from orchestrate import config as configs
from orchestrate.config import Config
from orchestrate.data import open_data
from orchestrate.data.loader import Loader
from orchestrate.data.sampler import Sampler
from orchestrate.mesh import ParallelContext, build_context
from orchestrate.plan import plan as plans
from orchestrate.plan.plan import Plan
from orchestrate.train.checkpoint.asynchronous import Saver
from orchestrate.train.checkpoint.format import FOLDER, latest
from orchestrate.train.checkpoint.resume import resume
from orchestrate.train.metrics import MetricsFile
from orchestrate.train.notices import Notices
from orchestrate.train.process import JOIN_TIMEOUT_S, Process, leave, report_failure
from orchestrate.train.resilience.signals import Requests
from orchestrate.train.resilience.watch import RunWatch
from orchestrate.train.setup import build_replica, seed_everything
from orchestrate.train.tracking import Tracker, open_tracker
from orchestrate.train.trainer import Batches, Observer, train

WRITER = 0
"""The logical rank that keeps the run's records."""
TERMINATION_S = 2.0
"""Seconds that the tracker gets to finish once this process was asked to stop."""


def main(run_dir: Path) -> None:
    """Train the run whose config and plan are in ``run_dir``, and end the process.

    The exit status is 0, `launchers.exits.REQUEUE` when it was asked to stop and has saved a
    checkpoint, `GO_BACK` when it wants to start again from one, `PORT_TAKEN`, or 1 after a failure,
    which is then in ``logs/failure-<index>.json``.
    """
    process = Process.from_environment()
    tracker: Tracker | None = None

    def stop() -> None:
        if tracker is not None:
            tracker.close(failed=True, timeout_s=TERMINATION_S)

    def leave_at_once() -> None:
        stop()
        leave(128 + signal.SIGTERM)

    requests = Requests(run_dir, process.index, leave_at_once)
    heart = Heart(run_dir, process.index, process.remote)
    try:
        config = configs.load(yaml.safe_load((run_dir / "config.yaml").read_text()))
        plan = plans.load(run_dir / "plan.yaml")
        if launch_order(plan)[process.index] != process.here:
            raise RuntimeError(f"process {process.index} should not run on {process.here}: who started it?")
        if plan.placement.rank_of(process.here) == WRITER:
            tracker = open_tracker(config, plan, run_dir, Notices(run_dir))
        status = run(process, plan, config, run_dir, tracker, requests, heart)
    except BaseException as error:
        status = report_failure(error, process, run_dir)
        stop()
        leave(status)
    if tracker is not None:
        tracker.close()
    leave(status)


def run(
    process: Process,
    plan: Plan,
    config: Config,
    run_dir: Path,
    tracker: Tracker | None,
    requests: Requests,
    heart: Heart,
) -> int:
    """Build this rank and train it to the end of the run, or until it must stop; the exit status."""
    device = process.device(plan.cluster.device.kind)
    process.join(plan, device)
    context = build_context(plan, device)
    requests.name_groups(context)
    seed_everything(config.train.seed, device)
    replica = build_replica(plan, config, context)
    data = open_data(config)
    notify = Notices(run_dir) if context.rank == WRITER else None
    start = resume(run_dir, config, replica.zero, data.fingerprint, notify)
    shift = start.samples - start.step * config.train.global_batch
    with ExitStack() as stack:
        batches = Batches(
            train=stack.enter_context(_loader(data.train, config, context, config.data.workers, shift)),
            validation=stack.enter_context(_loader(data.validation, config, context, 0)),
        )
        saver = stack.enter_context(
            Saver(run_dir, plan, config, context, data.fingerprint, notify, start.damaged)
        )
        observers: list[Observer] = []
        if context.rank == WRITER:
            observers.append(stack.enter_context(MetricsFile(run_dir, notify)))
            observers.extend([tracker] if tracker is not None else [])
        watch = RunWatch(run_dir, config, replica, heart, requests, start.step, JOIN_TIMEOUT_S)
        step = train(plan, config, replica, batches, observers, start.step, watch, saver)
    if watch.astray and context.rank == WRITER:
        newest = latest(run_dir / FOLDER)
        watch.leave_out(start.step if newest is None else newest.step)
    # Nobody leaves while another still reads what it sent.
    dist.barrier()
    heart.leave(step)
    if watch.astray:
        return GO_BACK
    return 0 if step == config.train.steps else REQUEUE


def _loader(
    sampler: Sampler, config: Config, context: ParallelContext, workers: int, shift: int = 0
) -> Loader:
    return Loader(sampler, config.train.global_batch, context.dp.rank, context.dp.size, workers, shift)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
