"""Reports for the tests of the page, from layouts that are given rather than searched for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from orchestrate.config import Recompute, RecomputeConfig, Schedule, ZeroBackend
from orchestrate.plan.choice import Layout
from orchestrate.plan.layout import ParallelDims
from orchestrate.plan.memory.model import MemoryModel
from orchestrate.plan.pipeline.stages import split_layers
from orchestrate.plan.placement.place import place, reach
from orchestrate.plan.plan import Plan, Rejection
from orchestrate.plan.time.step import CostModel
from orchestrate.report import Option, Report, ScalingPoint, drawing
from orchestrate.topology.cluster import build_cluster
from tests.unit.plan_cases import make_config


def make_plan(
    cluster: str,
    model: str,
    dims: ParallelDims,
    global_batch: int,
    *,
    schedule: Schedule = Schedule.one_f_one_b,
    **overrides: Any,
) -> Plan:
    """The plan of exactly this layout, predicted."""
    config = make_config(cluster, model, **overrides)
    built = build_cluster(config.cluster)
    layout = Layout(
        dims=dims,
        micro_batch=1,
        global_batch=global_batch,
        schedule=schedule,
        sequence_parallel=dims.tp > 1,
        zero_stage=1,
        zero_engine=ZeroBackend.deepspeed,
        recompute=RecomputeConfig(Recompute.none),
    )
    stages = split_layers(config.model.layers, dims.pp * dims.vpp, 1.0, 0.1, 0.6)
    placement = place(built, dims)
    dtype = config.precision.dtype
    spans = {axis: reach(built, placement, dims.groups(axis)) for axis in dims.order}
    return Plan(
        cluster=built,
        model=config.model,
        dims=dims,
        placement=placement,
        stages=stages,
        schedule=schedule,
        micro_batch=1,
        global_batch=global_batch,
        sequence_parallel=layout.sequence_parallel,
        zero_stage=1,
        zero_engine=ZeroBackend.deepspeed,
        recompute=layout.recompute,
        memory=tuple(MemoryModel(built, config.model, dtype, layout, stages).estimate()),
        time=CostModel(built, config.model, dtype, layout, spans).estimate(stages),
        rejected=(
            Rejection("tp8 pp1 dp2 mb1", "does not fit the memory", "stage 0 needs 300 GiB of 80 GiB", 386),
            Rejection("tp2 pp8 dp1 mb1", "slower", "1.20 s a step, 3.1% over the chosen one", 72),
        ),
    )


def make_report(plan: Plan, **inputs: Any) -> Report:
    """Every section of the page for ``plan``."""
    dtype = make_config().precision.dtype
    slower = replace(plan.time, terms={name: 1.1 * time for name, time in plan.time.terms.items()})
    speed = plan.global_batch * plan.model.seq / plan.time.step
    nodes, devices = len(plan.cluster.nodes), plan.dims.world
    report = Report(
        plan=plan,
        dtype=dtype,
        why=("Matrix products take most of the step.", "The runner-up loses to its bubble."),
        pipeline=drawing(plan, dtype),
        options=(Option("tp4 pp8 dp4 1f1b mb1", plan.time), Option("tp8 pp8 dp2 1f1b mb1", slower)),
        scaling=tuple(
            ScalingPoint(nodes * times, devices * times, speed * times * share, share, "tp4 pp8")
            for times, share in ((1, 1.0), (2, 0.98), (4, 0.93), (8, 0.81))
        ),
    )
    return replace(report, **inputs)
