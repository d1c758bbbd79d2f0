"""``orchestrate calibrate``: measure the cluster on its own ranks, or learn from its runs. No torch here."""

from __future__ import annotations

import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml
from rich.console import Console

from launchers import local
from launchers.attempt import MISTAKE, attempt
from launchers.ranks import Launcher, Start
from launchers.slurm.allocation import read_allocation
from launchers.slurm.launcher import Slurm
from launchers.slurm.placing import place_on
from orchestrate.calibrate import record, samples
from orchestrate.calibrate.formulas import Formulas
from orchestrate.calibrate.learn import learn
from orchestrate.calibrate.profile import Refit, refit
from orchestrate.calibrate.progress import Progress
from orchestrate.calibrate.runs import read_runs
from orchestrate.checks import check_parts
from orchestrate.config import Config, LauncherKind, Recompute, RecomputeConfig, Schedule, ZeroBackend, dump
from orchestrate.errors import ConfigError
from orchestrate.plan import plan as plans
from orchestrate.plan.layout import ParallelDims
from orchestrate.plan.placement.place import place
from orchestrate.plan.plan import Plan, StageLayers
from orchestrate.topology.cluster import build_cluster

WORKER = "orchestrate.calibrate.worker"
SAMPLES_FILE = "samples.json"


def run(config: Config, overrides: Sequence[str]) -> int:
    """Refit the profile of the config's cluster and write it.

    Returns:
        0, or what the launcher returned: 1 when a rank failed, 128 plus the signal when interrupted;
        then nothing was written.
    """
    check(config)
    console = Console()
    if config.calibrate.runs:
        found = _learn(config, console)
        source = f"from {len(config.calibrate.runs)} training runs: {', '.join(config.calibrate.runs)}"
    else:
        plan, launch = _started_by(config, measuring_plan(config))
        status, measured = measure(plan, config, console, launch)
        if measured is None:
            return status
        formulas = Formulas(plan.cluster, plan.placement, config.model, config.precision.dtype)
        found = refit(formulas, measured)
        source = f"measured on {plan.dims.world} ranks ({measured.device}) in {config.precision.dtype.value}"
    _write(config, found, source, overrides, console)
    return 0


def check(config: Config) -> None:
    """Raise ConfigError for what cannot be calibrated."""
    if config.cluster.groups:
        raise ConfigError(
            f"cluster={config.cluster.name} has nodes of {len(config.cluster.groups) + 1} kinds: calibrate "
            "each as a cluster of its own, with cluster.groups=[]"
        )
    check_parts(config)
    if not 0 < config.calibrate.seconds <= 60:
        raise ConfigError(f"calibrate.seconds={config.calibrate.seconds:g}: must be above 0 and at most 60")


def measuring_plan(config: Config) -> Plan:
    """A plan that puts one rank on every device, in order; nothing of it is trained."""
    cluster = build_cluster(config.cluster)
    dims = ParallelDims(dp=cluster.world)
    return Plan(
        cluster=cluster,
        model=config.model,
        dims=dims,
        placement=place(cluster, dims),
        stages=(StageLayers(0, config.model.layers),),
        schedule=Schedule.one_f_one_b,
        micro_batch=1,
        global_batch=cluster.world,
        sequence_parallel=False,
        zero_stage=0,
        zero_engine=ZeroBackend.deepspeed,
        recompute=RecomputeConfig(Recompute.none),
    )


def _started_by(config: Config, plan: Plan) -> tuple[Plan, Callable[..., int]]:
    """What starts the ranks, and ``plan`` on the devices there: those of the Slurm job that this runs in with
    launcher=slurm, otherwise this machine's.

    Raises:
        ConfigError: this is no job, or one of other nodes than the cluster's.
    """
    if config.launcher.kind is not LauncherKind.slurm:
        return plan, local.launch
    allocation = read_allocation(config.cluster.device.kind)
    launcher: Launcher = Slurm(allocation)

    def launch(plan: Plan, config: Config, folder: Path, *, module: str, on_tick: Callable[[], None]) -> int:
        ended = attempt(launcher, Start(plan, config, folder, module), on_tick)
        if ended.failure is not None:
            local.show(ended.failure)
        return ended.status

    return place_on(plan, config, allocation).plan, launch


def measure(
    plan: Plan, config: Config, console: Console, launch: Callable[..., int] = local.launch
) -> tuple[int, samples.Samples | None]:
    """Run the workers; the launcher's exit status and what they measured, None where they did not finish.

    Args:
        launch: starts the processes, as `launchers.local.launch` does.

    Raises:
        ConfigError: the machine cannot stand for the cluster.
    """
    # With Slurm all nodes have to see it, as they see where the profile goes.
    shared = Path(config.calibrate.out).expanduser() if config.launcher.kind is LauncherKind.slurm else None
    if shared is not None:
        shared.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="orchestrate-calibrate-", dir=shared))
    status = 128
    try:
        (folder / "config.yaml").write_text(yaml.safe_dump(dump(config), sort_keys=False), encoding="utf-8")
        plans.save(plan, folder / "plan.yaml")
        with Progress(folder, plan.dims.world, console) as progress:
            status = launch(plan, config, folder, module=WORKER, on_tick=progress.tick)
        return status, None if status else samples.load(folder / SAMPLES_FILE)
    finally:
        # After a failure of a rank the folder stays: the message names a log in it.
        if status in (0, MISTAKE) or status >= 128:
            shutil.rmtree(folder, ignore_errors=True)


def _learn(config: Config, console: Console) -> Refit:
    """The profile refitted to ``calibrate.runs``, shown run by run."""
    runs = read_runs(config.calibrate.runs, config.cluster)
    with console.status("reading runs") as status:
        learnt = learn(config.cluster, runs, status.update)
    console.print(record.run_table(learnt))
    return learnt.refit


def _write(config: Config, found: Refit, source: str, overrides: Sequence[str], console: Console) -> None:
    console.print(record.change_table(found.changes))
    console.print(record.quality_table(found.qualities))
    for note in found.notes:
        console.print(note, highlight=False, soft_wrap=True)
    name = config.calibrate.name or f"{config.cluster.name.removesuffix('_calibrated')}_calibrated"
    cluster = record.refitted(config.cluster, found, name)
    folder = Path(config.calibrate.out).expanduser()
    origin = (
        f"{time.strftime('%Y-%m-%d %H:%M %z')}, {shlex.join(['orchestrate', 'calibrate', *overrides])}",
        source,
    )
    path = record.write(cluster, found, config.precision.dtype, folder, origin)
    console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    console.print(
        f"to use it: orchestrate plan --config-dir {shlex.quote(str(folder))} cluster={name}",
        highlight=False,
        soft_wrap=True,
    )
