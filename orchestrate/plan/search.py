"""From a config to a plan: every layout that the open choices allow, each rejected with its reason or
kept with its predicted step time; the fastest one wins."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from orchestrate.config import Config, Recompute
from orchestrate.errors import ConfigError
from orchestrate.plan.choice import Choice, pinned
from orchestrate.plan.given import read_plan
from orchestrate.plan.memory import GIB
from orchestrate.plan.placement import place, require_tp_inside_domains
from orchestrate.plan.plan import Plan, Rejection
from orchestrate.plan.rules import first_violation
from orchestrate.plan.space import Candidate, Space
from orchestrate.topology.cluster import Cluster, build_cluster, resized


def search(config: Config) -> Plan:
    """The fastest layout that ``config`` allows and the cluster's memory holds.

    Choices left open (``auto``) are searched, pinned ones are kept. With ``plan.file`` the plan is
    read instead, and checked against the cluster and the model.

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
    space = Space(config, cluster)
    candidates = list(space.candidates(start))
    if not candidates:
        raise ConfigError(_none_valid(cluster, space.rejected))
    if not any(candidate.fits for candidate in candidates):
        raise ConfigError(_none_fits(config, cluster, start, candidates))
    best, *others = sorted(candidates, key=_preference)
    rejected = [*(_turned_down(other, best) for other in others), *space.rejected]
    return _plan(config, cluster, best, tuple(rejected))


def _preference(candidate: Candidate) -> tuple[float, ...]:
    """First what fits, then what leaves headroom, then the fastest, then the least cut up. What does not
    fit comes last, the leanest first."""
    layout, dims = candidate.layout, candidate.layout.dims
    if not candidate.fits:
        return 1, candidate.peak.total
    return 0, candidate.tight, candidate.time.step, dims.pp, dims.tp, -layout.micro_batch


def _turned_down(candidate: Candidate, best: Candidate) -> Rejection:
    layout, peak = str(candidate.choice), candidate.peak
    if not candidate.fits:
        stage = candidate.memory.index(peak)
        return Rejection(
            layout,
            "does not fit the memory",
            f"stage {stage} needs {peak.total / GIB:.1f} GiB of {peak.capacity / GIB:.1f} GiB",
        )
    if candidate.tight and not best.tight:
        share = peak.total / peak.capacity
        return Rejection(
            layout, "too close to the memory", f"needs {share:.1%} of {peak.capacity / GIB:.1f} GiB"
        )
    step, least = candidate.time.step, best.time.step
    return Rejection(layout, "slower", f"{step:.3g} s a step, {step / least - 1:.1%} over the chosen one")


def _none_valid(cluster: Cluster, rejected: list[Rejection]) -> str:
    reason, times = Counter(r.reason for r in rejected).most_common(1)[0]
    example = next(r for r in rejected if r.reason == reason)
    return (
        f"no layout suits the {cluster.world} devices of {cluster.name}; {times} of {len(rejected)} were "
        f"turned down because {reason}, such as {example.layout}: {example.detail}"
    )


def _none_fits(config: Config, cluster: Cluster, start: Choice, candidates: list[Candidate]) -> str:
    leanest = min(candidates, key=lambda candidate: candidate.peak.total)
    peak = leanest.peak
    return (
        f"model {config.model.name} does not fit on {cluster.world} x {cluster.device.name}: the leanest "
        f"layout ({leanest.choice}) needs {peak.total / GIB:.1f} GiB of {peak.capacity / GIB:.1f} GiB per "
        f"device; {_least_nodes(config, start)}"
    )


def _least_nodes(config: Config, start: Choice) -> str:
    """What number of nodes would hold the model, with the same pinned choices; dp may grow where open."""
    lean = replace(start, micro_batch=start.micro_batch or 1, recompute=start.recompute or Recompute.full)
    nodes = config.cluster.nodes
    for more in [*range(nodes + 1, nodes + 9), *(nodes * 2**power for power in range(4, 13))]:
        cluster = build_cluster(resized(config.cluster, more))
        if first_violation(config, cluster, lean) is not None:
            continue
        if any(candidate.fits for candidate in Space(config, cluster).candidates(lean)):
            return f"cluster.nodes={more} would hold it"
    needed = "more memory per device, or fewer pinned choices"
    return f"no number of such nodes up to {nodes * 4096} would hold it: it takes {needed}"


def _plan(config: Config, cluster: Cluster, best: Candidate, rejected: tuple[Rejection, ...]) -> Plan:
    layout = best.layout
    placement = place(cluster, layout.dims)
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
    )
