"""The rules of stages, schedules and batches; see `orchestrate.plan.search.rules`."""

from __future__ import annotations

from orchestrate.config import Config, Schedule
from orchestrate.plan.choice import Choice, Violation
from orchestrate.plan.numbers import divisors
from orchestrate.plan.pipeline.schedule import interleaved_rounds
from orchestrate.topology.cluster import Cluster


def enough_layers(config: Config, cluster: Cluster, choice: Choice) -> Violation | None:
    """Every virtual stage gets a layer."""
    layers, pp = config.model.layers, choice.pp
    if pp is None:
        return None
    vpp = choice.vpp or 1
    if pp * vpp > layers:
        stages = (
            f"parallel.pp={pp} x vpp={vpp} = {pp * vpp} stages" if vpp > 1 else f"parallel.pp={pp} stages"
        )
        possible = [d for d in divisors(cluster.world) if d * vpp <= layers]
        mend = f"parallel.pp={max(possible)}" if possible else f"parallel.vpp={max(1, layers // pp)}"
        return (
            "fewer layers than stages",
            f"model.layers={layers} cannot fill {stages}: nearest is {mend}",
        )
    return None


def stage_layers_add_up(config: Config, _cluster: Cluster, choice: Choice) -> Violation | None:
    """Pinned stage sizes hold every layer once, in as many stages as there are."""
    sizes = config.parallel.stage_layers
    if sizes is None:
        return None
    listed = f"parallel.stage_layers={list(sizes)}"
    if min(sizes, default=0) < 1:
        return "stage_layers do not suit", f"{listed}: every stage needs at least 1 layer"
    if sum(sizes) != config.model.layers:
        return (
            "stage_layers do not suit",
            f"{listed} add up to {sum(sizes)}, but model.layers={config.model.layers}",
        )
    stages = choice.virtual_stages
    if stages is not None and len(sizes) != stages:
        return (
            "stage_layers do not suit",
            f"{listed} names {len(sizes)} stages, but pp {choice.pp} x vpp {choice.vpp} = {stages}",
        )
    return None


def schedule_suits(_config: Config, _cluster: Cluster, choice: Choice) -> Violation | None:
    """Schedule, stages and virtual stages go together."""
    schedule, pp, vpp = choice.schedule, choice.pp, choice.vpp
    looped = (Schedule.interleaved, Schedule.zbv)
    if schedule in looped and pp == 1:
        return (
            "the schedule needs a pipeline",
            f"parallel.schedule={schedule.value} needs parallel.pp of at least 2, but it is 1: "
            "use parallel.schedule=1f1b",
        )
    if schedule is Schedule.zbv and vpp not in (None, 2):
        return (
            "vpp does not suit the schedule",
            f"parallel.schedule=zbv needs parallel.vpp=2, but it is {vpp}",
        )
    if schedule is Schedule.interleaved and vpp == 1:
        return (
            "vpp does not suit the schedule",
            "parallel.schedule=interleaved needs parallel.vpp of at least 2, but it is 1: "
            "nearest is parallel.vpp=2",
        )
    if vpp is not None and vpp > 1:
        if pp == 1:
            return (
                "vpp does not suit the schedule",
                f"parallel.vpp={vpp} needs parallel.pp of at least 2, but it is 1: use parallel.vpp=1",
            )
        if schedule is not None and schedule not in looped:
            return (
                "vpp does not suit the schedule",
                f"parallel.vpp={vpp} needs parallel.schedule=interleaved (or zbv with vpp 2), "
                f"but it is {schedule.value}",
            )
    return None


def batch_divides(_config: Config, _cluster: Cluster, choice: Choice) -> Violation | None:
    """Replicas and micro-batches cut the batch evenly."""
    batch, dp, micro = choice.global_batch, choice.dp, choice.micro_batch
    if dp is None and micro is None:
        return None
    unit = (dp or 1) * (micro or 1)
    if batch % unit == 0:
        return None
    shown = " x ".join(f"{k} {v}" for k, v in (("dp", dp), ("micro_batch", micro)) if v is not None)
    shown = f"{shown} = {unit}" if dp is not None and micro is not None else shown
    below, above = batch // unit * unit, -(-batch // unit) * unit
    nearby = f"{below} or {above}" if below else str(above)
    return (
        "the batch does not divide",
        f"train.global_batch={batch} is not divisible by {shown}: nearest is train.global_batch={nearby}",
    )


def enough_micro_batches(_config: Config, _cluster: Cluster, choice: Choice) -> Violation | None:
    """As torch's schedules ask (torch 2.13, ``Schedule1F1B`` and ``ScheduleInterleaved1F1B``)."""
    m, pp, schedule = choice.micro_batches, choice.pp, choice.schedule
    if m is None or pp is None or pp == 1 or schedule is None:
        return None
    assert choice.dp is not None
    assert choice.micro_batch is not None
    unit = choice.dp * choice.micro_batch
    if schedule is Schedule.one_f_one_b and m < pp:
        return (
            "too few micro-batches",
            f"parallel.schedule=1f1b needs at least pp {pp} micro-batches per replica, but global_batch "
            f"{choice.global_batch} / (dp {choice.dp} x micro_batch {choice.micro_batch}) = {m}: nearest is "
            f"train.global_batch={pp * unit}, or parallel.schedule=gpipe",
        )
    if schedule is Schedule.interleaved and m % (rounds := interleaved_rounds(m, pp)):
        below, above = m // rounds * rounds, -(-m // pp) * pp
        return (
            "micro-batches do not make whole rounds",
            f"parallel.schedule=interleaved runs {m} micro-batches on pp {pp} in {rounds} rounds, which must "
            f"divide them: nearest is train.global_batch={below * unit} or {above * unit}",
        )
    return None
