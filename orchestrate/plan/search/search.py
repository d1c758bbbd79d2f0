"""From a config to a plan: of every layout that the open choices allow, the fastest that fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from orchestrate.config import Config, DeviceKind
from orchestrate.errors import ConfigError
from orchestrate.plan.choice import Choice, pinned
from orchestrate.plan.placement.arrangement import Arrangement
from orchestrate.plan.placement.place import require_tp_inside_domains
from orchestrate.plan.plan import Alternative, MemoryEstimate, Plan, Rejection
from orchestrate.plan.search.bounds import Bounds, least_state
from orchestrate.plan.search.branch_and_bound import Report, Search
from orchestrate.plan.search.candidate import Candidate, Models, running_out
from orchestrate.plan.search.explain import explain
from orchestrate.plan.search.given import read_plan
from orchestrate.plan.search.no_layout import no_layout_suits
from orchestrate.plan.search.rules import first_violation
from orchestrate.plan.search.space import Space
from orchestrate.plan.search.tally import Tally
from orchestrate.plan.units import GIB, gib
from orchestrate.topology.cluster import Cluster, build_cluster, resized


def search(config: Config, report: Report | None = None) -> Plan:
    """The fastest layout that ``config`` allows and the cluster's memory holds.

    Layouts are compared with their axes in one order, the default or the pinned one. Of the plan.top
    fastest each is then tried in the other orders of axes and nodes, and the fastest is the plan.

    Choices left open (``auto``) are searched, pinned ones are kept. With ``plan.file`` the plan is
    read instead, and checked against the cluster and the model. ``report`` hears how far the search is.

    Raises:
        ConfigError: pinned choices contradict one another or the cluster, no layout obeys the rules,
            or none fits the memory (with the least that would hold it).
    """
    cluster = build_cluster(config.cluster)
    if config.plan.file is not None:
        return read_plan(config, cluster, Path(config.plan.file))
    start = pinned(config, cluster.world)
    if (violation := first_violation(config, cluster, start)) is not None:
        raise ConfigError(violation[1])
    tried = prepare(config, cluster, start, report)
    found = tried.fastest(config.plan.top)
    if not found:
        # Nothing is as safe as asked for: the fastest that fits at all.
        tried = prepare(config, cluster, start, report, risk=1.0)
        found = tried.fastest(config.plan.top)
    if not found:
        raise ConfigError(_nothing_found(config, tried))
    arranged = [tried.models.arranged(candidate) for candidate in found]
    arranged.sort(key=lambda one: one[0].preference)
    candidates = [candidate for candidate, _arrangement in arranged]
    explanation = explain(tried.models, candidates[0], arranged[0][1].reach, candidates[1:], config.plan.risk)
    plan = _plan(config, cluster, arranged, tried.tally.rejections())
    return replace(plan, explanation=explanation)


def prepare(
    config: Config,
    cluster: Cluster,
    start: Choice,
    report: Report | None = None,
    risk: float | None = None,
) -> Search:
    """A search of the layouts of ``config`` that agree with ``start``; ``risk`` in place of plan.risk."""
    tally = Tally()
    space, models = Space(config, cluster, start, tally), Models(config, cluster)
    allowed = config.plan.risk if risk is None else risk
    return Search(space, models, Bounds(space, models), tally, allowed, report)


def _nothing_found(config: Config, tried: Search) -> str:
    cluster = tried.space.cluster
    leanest = tried.leanest()
    if leanest is None:
        return no_layout_suits(tried)
    layout, fullest = leanest
    return (
        f"model {config.model.name} does not fit on {cluster.world} x {cluster.device.name}: the leanest "
        f"layout ({layout}) needs {gib(fullest.total)} GiB of {gib(fullest.capacity)} GiB per "
        f"device; {_least_nodes(config)}{_gpus(cluster)}"
    )


def _gpus(cluster: Cluster) -> str:
    """What somebody forgot who planned a large model on the CPUs that are the default."""
    return (
        ""
        if cluster.device.kind is DeviceKind.cuda
        else "; for GPUs choose their cluster, as cluster=dgx_h100"
    )


def _least_nodes(config: Config) -> str:
    """What number of nodes would hold the model, with the same pinned choices."""
    nodes = config.cluster.nodes
    sizes = [*range(nodes + 1, nodes + 9), *(nodes * 2**power for power in range(4, 13))]
    capacity = build_cluster(config.cluster).device.memory_gib * GIB

    def safe(fullest: MemoryEstimate) -> bool:
        return running_out((fullest,)) <= config.plan.risk

    for more in sizes:
        if least_state(config, devices_of(config, more)) > capacity:
            continue
        cluster = build_cluster(resized(config.cluster, more))
        start = pinned(config, cluster.world)
        if first_violation(config, cluster, start) is not None:
            continue
        leanest = prepare(config, cluster, start).leanest(safe)
        if leanest is not None and safe(leanest[1]):
            beside = " (with cluster.groups as they are)" if config.cluster.groups else ""
            return f"cluster.nodes={more} would hold it{beside}"
    needed = "more memory per device, or fewer pinned choices"
    return f"no number of such nodes up to {sizes[-1]} would hold it: it takes {needed}"


def devices_of(config: Config, nodes: int) -> int:
    """Devices of the cluster of ``config`` with ``nodes`` nodes of its own."""
    each = config.cluster.gpus_per_node
    return nodes * each + sum(group.nodes * (group.gpus_per_node or each) for group in config.cluster.groups)


def _plan(
    config: Config,
    cluster: Cluster,
    found: list[tuple[Candidate, Arrangement]],
    rejected: tuple[Rejection, ...],
) -> Plan:
    (best, arrangement), *others = found
    layout = best.layout
    placement = arrangement.placement(cluster)
    if not config.parallel.allow_tp_across_nodes:
        require_tp_inside_domains(cluster, layout.dims, placement)
    return Plan(
        cluster=cluster,
        model=config.model,
        dims=layout.dims,
        placement=placement,
        stages=best.stages,
        schedule=layout.schedule,
        micro_batch=layout.micro_batch,
        global_batch=layout.global_batch,
        sequence_parallel=layout.sequence_parallel,
        zero_stage=layout.zero_stage,
        zero_engine=layout.zero_engine,
        recompute=layout.recompute,
        tp_across_domains=config.parallel.allow_tp_across_nodes,
        memory=best.memory,
        time=best.time,
        rejected=rejected,
        alternatives=tuple(Alternative(o.layout, o.stages, o.memory, o.time) for o, _arrangement in others),
    )
