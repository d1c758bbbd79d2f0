"""Why this plan: in sentences, each with the numbers that it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from orchestrate.config import Recompute, RecomputeConfig, Schedule
from orchestrate.plan.choice import Layout
from orchestrate.plan.placement.reach import Reach
from orchestrate.plan.plan import MemoryEstimate, TimeEstimate
from orchestrate.plan.search.candidate import Candidate, Models, peak, running_out
from orchestrate.plan.units import chance, gib, seconds

WORTH_A_WORD = 0.005
"""Terms below this share of the step are not mentioned."""
SAME = 5e-4
"""Steps that differ by less, relative to one another, take as long."""


def explain(
    models: Models, best: Candidate, reach: Mapping[str, Reach], others: list[Candidate], risk: float
) -> tuple[str, ...]:
    """What limits ``best``, what it pays for fitting the memory, and what the first of ``others`` loses.
    Where ``best`` is placed, its axes span ``reach``."""
    sentences = [limit(best, reach), *_memory(models, best, risk)]
    if others:
        sentences.append(compare("The runner-up", others[0], best))
        slower = next((other for other in others if _apart(other, best)), None)
        if slower is not None and slower is not others[0]:
            sentences.append(compare("The first that is slower", slower, best))
    return tuple(sentences)


def _apart(other: Candidate, best: Candidate) -> bool:
    return other.time.step > (1 + SAME) * best.time.step


def limit(best: Candidate, reach: Mapping[str, Reach]) -> str:
    """Where the step goes; the axes span ``reach``."""
    time, layout = best.time, best.layout
    computing = time.terms.get("compute", 0.0) / time.step
    losses = sorted(
        ((name, spent) for name, spent in time.terms.items() if name != "compute"),
        key=lambda term: -term[1],
    )
    losses = [(name, spent) for name, spent in losses if spent >= WORTH_A_WORD * time.step]
    told = f"A step takes {seconds(time.step)}, of which {computing:.0%} is the model's own compute. "
    if not losses:
        return told + "Nothing else limits it."
    first, *rest = (f"{_loss(name, layout, reach)} ({spent / time.step:.1%})" for name, spent in losses[:3])
    told += f"{'Next comes' if computing >= 0.5 else 'What limits it is'} {first}"
    return told + (f"; then {', and '.join(rest)}." if rest else ".")


def _loss(name: str, layout: Layout, reach: Mapping[str, Reach]) -> str:
    dims, m = layout.dims, layout.micro_batches
    inside = {
        axis: "inside a fast-link domain" if reach[axis].local else "over the network" for axis in reach
    }
    match name:
        case "bubble":
            return f"the pipeline's bubble: {dims.pp} stages fill and drain around {m} micro-batches"
        case "tp communication":
            return f"tensor-parallel communication between {dims.tp} devices {inside['tp']}"
        case "cp communication":
            return f"keys and values handed around {dims.cp} devices {inside['cp']}"
        case "pp communication":
            return f"handing activations and their gradients from stage to stage {inside['pp']}"
        case "dp communication" if dims.dp == 1:
            return "summing the gradients of tied embeddings between the first stage and the last"
        case "dp communication":
            return f"what is not hidden of averaging gradients over {dims.dp} replicas {inside['dp']}"
        case "recompute":
            return "computing activations again"
        case "optimizer":
            return "the optimizer's update"
        case _:
            return "what every step costs whatever its size"


def _memory(models: Models, best: Candidate, risk: float) -> Iterator[str]:
    fullest, stages = best.peak, len(best.memory)
    most = sorted(fullest.terms.items(), key=lambda term: -term[1])[:2]
    parts = " and ".join(f"{name} ({gib(size)} GiB)" for name, size in most)
    whose = f"Stage {best.memory.index(fullest)} is the fullest: it" if stages > 1 else "Every device"
    danger = running_out(best.memory)
    told = f"{whose} holds {_of(fullest)}, most of it {parts}"
    yield f"{told}; the probability of running out is {chance(danger)}."
    if danger > risk:
        yield (
            f"No layout stays below plan.risk={risk:g}: this is the fastest that fits at all, and wants a "
            "trial before it is counted on."
        )
    again = best.time.terms.get("recompute", 0.0)
    if again > 0:
        layout = replace(best.layout, recompute=RecomputeConfig(Recompute.none))
        without = models.memory(layout)
        share = f"Recomputation takes {again / best.time.step:.1%} of the step"
        if running_out(without) > risk:
            yield f"{share}, and is what memory costs: without it a stage would hold {_of(peak(without))}."
        else:
            yield f"{share}; the layout would fit without it ({_of(peak(without))})."


def compare(name: str, other: Candidate, best: Candidate) -> str:
    """What ``other`` wins and loses against ``best``."""
    slower = other.time.step / best.time.step - 1
    told = f"{name} ({other.layout}) takes {seconds(other.time.step)}, {_difference(slower)}"
    changes = _changes(other.time, best.time)
    loses = [f"{seconds(size)} more {term}" for term, size in changes if size > 0]
    saves = [f"{seconds(-size)} of {term}" for term, size in changes if size < 0]
    differs = _differences(other.layout, best.layout)
    told += f": with {differs} it" if differs else ": it"
    if not loses and not saves:
        return told + " spends its time alike."
    lost = f" needs {' and '.join(loses[:2])}" if loses else ""
    saved = f" saves {' and '.join(saves[:2])}" if saves else ""
    return told + (f"{saved}, but{lost}." if lost and saved else f"{lost or saved}.")


def _difference(slower: float) -> str:
    if abs(slower) < SAME:
        return "as long"
    return f"{abs(slower):.1%} {'longer' if slower > 0 else 'less'}"


def _changes(other: TimeEstimate, best: TimeEstimate) -> list[tuple[str, float]]:
    """By term, the seconds that ``other`` takes more; the largest first, without those hardly changed."""
    names = dict.fromkeys((*best.terms, *other.terms))
    changes = [(name, other.terms.get(name, 0.0) - best.terms.get(name, 0.0)) for name in names]
    most = max(abs(size) for _name, size in changes)
    large = [(name, size) for name, size in changes if abs(size) > 0.05 * most and size]
    return sorted(large, key=lambda change: -abs(change[1]))


def _differences(other: Layout, best: Layout) -> str:
    """Which choices differ, as in ``tp 8 instead of 4``."""
    parts = []
    for axis in ("tp", "cp", "pp", "dp"):
        if other.dims.degree(axis) != best.dims.degree(axis):
            parts.append(f"{axis} {other.dims.degree(axis)} instead of {best.dims.degree(axis)}")
    if _pipeline(other) != _pipeline(best) and other.dims.pp > 1 and best.dims.pp > 1:
        parts.append(f"{_pipeline(other)} instead of {_pipeline(best)}")
    if other.micro_batch != best.micro_batch:
        parts.append(f"micro-batches of {other.micro_batch} instead of {best.micro_batch}")
    if other.sequence_parallel != best.sequence_parallel and other.dims.tp > 1 and best.dims.tp > 1:
        parts.append(f"{'with' if other.sequence_parallel else 'without'} sequence parallelism")
    if other.zero_stage != best.zero_stage:
        parts.append(f"ZeRO {other.zero_stage} instead of {best.zero_stage}")
    if other.recompute != best.recompute:
        parts.append(f"recompute {_recomputing(other)} instead of {_recomputing(best)}")
    if other.dims.order != best.dims.order:
        parts.append("another order of the axes")
    return ", ".join(parts)


def _pipeline(layout: Layout) -> str:
    virtual = layout.schedule is Schedule.interleaved
    return layout.schedule.value + (f" with {layout.dims.vpp} virtual stages" if virtual else "")


def _recomputing(layout: Layout) -> str:
    assert layout.recompute.mode is not None
    layers = layout.recompute.layers
    return layout.recompute.mode.value + ("" if layers is None else f" for {layers} of a stage's layers")


def _of(estimate: MemoryEstimate) -> str:
    return f"{gib(estimate.total)} of {gib(estimate.capacity)} GiB"
