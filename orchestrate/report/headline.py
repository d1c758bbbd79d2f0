"""What the plan is and what it promises, in a few numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from orchestrate.config import DType, Recompute
from orchestrate.plan.parameters import count_parameters
from orchestrate.plan.plan import Plan
from orchestrate.plan.search.candidate import running_out
from orchestrate.plan.shown.figures import budget, plan_figures
from orchestrate.plan.units import count, gib, seconds
from orchestrate.report.text import flops, percent, plural


@dataclass(frozen=True)
class Tile:
    name: str
    value: str
    detail: str
    alarm: bool = False


def title(plan: Plan) -> str:
    """Model, its size, and where it is to be trained."""
    size = count(count_parameters(plan.model).total)
    return f"{plan.model.name} ({size} parameters) on {plan.cluster.name}"


def layout(plan: Plan) -> str:
    """The degrees, and the machines they are spread over."""
    dims, cluster = plan.dims, plan.cluster
    degrees = [("TP", dims.tp), ("CP", dims.cp), ("PP", dims.pp), ("DP", dims.dp)]
    shown = " × ".join(f"{name} {degree}" for name, degree in degrees if degree > 1 or name != "CP")
    kinds = Counter((node.devices, cluster.config_of(node).name) for node in cluster.nodes)
    nodes = " and ".join(
        f"{plural(nodes, 'node')} of {devices} × {name}" for (devices, name), nodes in kinds.items()
    )
    return f"{shown} on {nodes}"


def tiles(plan: Plan, dtype: DType, tolerated_risk: float) -> list[Tile]:
    """Step time, speed, MFU, memory and the risk of running out of it; those that were predicted."""
    found = []
    if plan.time.terms:
        of, world = plan_figures(plan, dtype), plan.cluster.world
        each = of.mfu * plan.cluster.device.peak_tflops[dtype] * 1e12
        speed = of.tokens_per_s
        found += [
            Tile("Step", seconds(plan.time.step), f"{plan.global_batch:,} × {plan.model.seq:,} tokens"),
            Tile("Tokens per second", count(speed), f"{count(speed / world)} per device"),
            Tile("MFU", percent(of.mfu), f"{flops(each)} per device, {dtype.value}"),
        ]
    if plan.memory:
        worst = max(plan.memory, key=lambda estimate: estimate.total / estimate.capacity)
        rank, risk = plan.memory.index(worst), running_out(plan.memory)
        found += [
            Tile(
                "Memory",
                f"{gib(worst.total)} GiB",
                f"of {gib(worst.capacity)} GiB, on stage {rank}",
                not worst.fits,
            ),
            Tile(
                "Risk of running out",
                percent(risk),
                f"standard error {percent(worst.spread)}",
                risk > tolerated_risk,
            ),
        ]
    return found


def facts(plan: Plan) -> list[tuple[str, str]]:
    """The rest of what the plan decides."""
    dims = plan.dims
    rows = [
        (
            "micro-batch",
            f"{plural(plan.micro_batch, 'sequence')}, {plan.micro_batches:,} per replica and step",
        ),
    ]
    if dims.pp > 1:
        virtual = f", {dims.vpp} virtual stages per rank" if dims.vpp > 1 else ""
        rows.append(("schedule", plan.schedule.value + virtual))
        sizes = Counter(len(stage) for stage in plan.stages)
        rows.append(
            ("layers", ", ".join(f"{plural(times, 'stage')} of {size}" for size, times in sizes.items()))
        )
    if dims.tp > 1:
        rows.append(("sequence parallel", "yes" if plan.sequence_parallel else "no"))
    engine = f" ({plan.zero_engine.value})" if plan.zero_stage else ""
    rows.append(("ZeRO stage", f"{plan.zero_stage}{engine}"))
    some = plan.recompute_mode is Recompute.full and plan.recompute.layers is not None
    rows.append(
        (
            "recompute",
            plan.recompute_mode.value + (f", {plan.recompute.layers} layers of a stage" if some else ""),
        )
    )
    return rows


def shares(plan: Plan, dtype: DType, tokens: float | None) -> list[tuple[str, str]]:
    """What else people compare runs by, and with ``tokens`` to train on the days and the costs."""
    if not plan.time.terms:
        return []
    of = plan_figures(plan, dtype)
    rows = [
        ("HFU", percent(of.hfu)),
        ("communication / computation", percent(of.communication_to_computation)),
        ("shard efficiency", percent(of.shard_efficiency)),
    ]
    if tokens is not None:
        whole = budget(plan, tokens)
        rows.append((f"{count(tokens)} tokens", f"{whole.days:,.{0 if whole.days >= 100 else 1}f} days"))
        if whole.cost is not None:
            rows.append(("price", f"{whole.cost:,.0f}"))
    return rows


def turned_down(plan: Plan) -> list[tuple[str, int, str]]:
    """Reasons, how many layouts each turned down, and an example; the commonest first."""
    examples: dict[str, str] = {}
    counted = Counter[str]()
    for rejection in plan.rejected:  # the search lists them best first
        examples.setdefault(rejection.reason, f"{rejection.layout}: {rejection.detail}")
        counted[rejection.reason] += rejection.layouts
    return [(reason, layouts, examples[reason]) for reason, layouts in counted.most_common()]
