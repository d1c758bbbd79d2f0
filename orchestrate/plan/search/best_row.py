"""Whether one config fits at all, and its best plan in a row of figures."""

from __future__ import annotations

from dataclasses import dataclass, replace

from orchestrate.config import Config
from orchestrate.plan.choice import pinned
from orchestrate.plan.flops import model_flops
from orchestrate.plan.parameters import count_parameters
from orchestrate.plan.search.branch_and_bound import Report
from orchestrate.plan.search.candidate import Candidate, running_out
from orchestrate.plan.search.rules import first_violation
from orchestrate.plan.search.search import prepare
from orchestrate.plan.units import GIB
from orchestrate.topology.cluster import build_cluster


@dataclass(frozen=True)
class Row:
    """The best plan for one size of what was asked about."""

    nodes: int
    devices: int
    layers: int
    parameters: int
    sequence: int
    layout: str | None
    """None where nothing fits or obeys the rules."""
    step_s: float | None = None
    tokens_per_s: float | None = None
    mfu: float | None = None
    efficiency: float | None = None
    """Tokens per second and device, over those of the first row that has any."""
    memory_gib: float | None = None
    risk: float | None = None
    """Probability of running out of memory."""


def fits(config: Config) -> bool:
    """Whether any layout that ``config`` allows is safe in memory."""
    cluster = build_cluster(config.cluster)
    start = pinned(config, cluster.world)
    if first_violation(config, cluster, start) is not None:
        return False
    search = prepare(config, cluster, start)
    leanest = search.leanest(lambda fullest: running_out((fullest,)) <= search.risk)
    return leanest is not None and running_out((leanest[1],)) <= search.risk


def best_row(config: Config, report: Report | None = None) -> Row:
    """The fastest safe plan of ``config``, in a row; without a layout where there is none."""
    cluster, model = build_cluster(config.cluster), config.model
    row = Row(
        nodes=len(cluster.nodes),
        devices=cluster.world,
        layers=model.layers,
        parameters=count_parameters(model).total,
        sequence=model.seq,
        layout=None,
    )
    start = pinned(config, cluster.world)
    if first_violation(config, cluster, start) is not None:
        return row
    search = prepare(config, cluster, start, report)
    found = search.fastest(1)
    if not found:
        return row
    best: Candidate = search.models.arranged(found[0])[0]
    tokens = config.train.global_batch * model.seq
    peak = cluster.device.peak_tflops[config.precision.dtype] * 1e12 * cluster.world
    return replace(
        row,
        layout=str(best.layout),
        step_s=best.time.step,
        tokens_per_s=tokens / best.time.step,
        mfu=model_flops(model, tokens) / best.time.step / peak,
        memory_gib=best.peak.total / GIB,
        risk=running_out(best.memory),
    )
