"""The rules that a layout obeys, written once: a pinned choice that breaks one is the user's error,
a candidate of the search that does is rejected with the same words.

Each rule looks at what is chosen already and keeps silent about what is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from orchestrate.config import Config, DType, ZeroBackend
from orchestrate.plan.choice import Choice, Violation
from orchestrate.plan.numbers import divisors, nearest
from orchestrate.plan.pipeline.rules import (
    batch_divides,
    enough_layers,
    enough_micro_batches,
    schedule_suits,
    stage_layers_add_up,
)
from orchestrate.topology.cluster import Cluster


def first_violation(config: Config, cluster: Cluster, choice: Choice) -> Violation | None:
    """The first rule that ``choice`` breaks, if any."""
    return next(violations(config, cluster, choice), None)


def violations(config: Config, cluster: Cluster, choice: Choice) -> Iterator[Violation]:
    """Every rule that ``choice`` breaks."""
    for rule in _RULES:
        if (found := rule(config, cluster, choice)) is not None:
            yield found


def positive(_config: Config, _cluster: Cluster, choice: Choice) -> Violation | None:
    """Degrees, micro-batch and batch count something."""
    for name in ("tp", "cp", "pp", "dp", "vpp", "micro_batch"):
        value = getattr(choice, name)
        if value is not None and value < 1:
            return "not positive", f"parallel.{name}={value}: must be at least 1"
    if choice.global_batch < 1:
        return "not positive", f"train.global_batch={choice.global_batch}: must be at least 1"
    return None


def trains_whole_sequences(cp: int | None) -> str | None:
    """What forbids to train, though not to plan, with ``cp``: no model trains with it so far."""
    if cp in (1, None):
        return None
    return f"parallel.cp={cp}: context parallelism is not trained yet, use parallel.cp=1"


def fits_the_heads(config: Config, cluster: Cluster, choice: Choice) -> Violation | None:
    """tp cuts heads, key-value heads and feed-forward features evenly."""
    model, tp = config.model, choice.tp
    if tp is None:
        return None
    valid = _valid_tps(config, cluster)
    if model.heads % tp:
        offered = ", ".join(map(str, valid))
        return (
            "tp does not divide the heads",
            f"parallel.tp={tp} does not divide model.heads={model.heads}: nearest is "
            f"parallel.tp={nearest(tp, valid)} (possible: {offered})",
        )
    kv = model.key_value_heads
    if kv % tp and tp % kv:
        return (
            "tp does not suit the key-value heads",
            f"parallel.tp={tp} neither divides model.kv_heads={kv} nor is a multiple of it: nearest is "
            f"parallel.tp={nearest(tp, valid)}",
        )
    if model.ffn_hidden % tp:
        return (
            "tp does not divide ffn_hidden",
            f"parallel.tp={tp} does not divide model.ffn_hidden={model.ffn_hidden}: nearest is "
            f"parallel.tp={nearest(tp, valid)}",
        )
    if tp > model.vocab:
        return (
            "tp exceeds the vocabulary",
            f"parallel.tp={tp} is more than model.vocab={model.vocab}: nearest is "
            f"parallel.tp={nearest(tp, valid)}",
        )
    return None


def _valid_tps(config: Config, cluster: Cluster) -> list[int]:
    """Every tp that the model and the fast-link domain allow."""
    model = config.model
    kv, domain = model.key_value_heads, cluster.nvlink_domain
    anywhere = config.parallel.allow_tp_across_nodes
    return [
        d
        for d in divisors(model.heads)
        if model.ffn_hidden % d == 0
        and (kv % d == 0 or d % kv == 0)
        and d <= model.vocab
        and (anywhere or domain % d == 0)
    ]


def tp_inside_the_domain(config: Config, cluster: Cluster, choice: Choice) -> Violation | None:
    """A tensor-parallel group stays on the fast link unless told otherwise."""
    tp, domain = choice.tp, cluster.nvlink_domain
    if tp is None or config.parallel.allow_tp_across_nodes or domain % tp == 0:
        return None
    what = "is larger than" if tp > domain else "does not divide"
    valid = _valid_tps(config, cluster)
    return (
        "tp leaves the NVLink domain",
        f"parallel.tp={tp} {what} the NVLink domain of {domain} devices (cluster {cluster.name}): nearest is "
        f"parallel.tp={nearest(tp, valid)}, or allow it with parallel.allow_tp_across_nodes=true",
    )


def makes_up_the_devices(_config: Config, cluster: Cluster, choice: Choice) -> Violation | None:
    """The degrees multiply to the number of devices, or still can."""
    degrees = {axis: getattr(choice, axis) for axis in ("tp", "cp", "pp", "dp")}
    known = {axis: degree for axis, degree in degrees.items() if degree is not None}
    product, world = math.prod(known.values()), cluster.world
    if product == world if len(known) == len(degrees) else world % product == 0:
        return None
    whole = len(known) == len(degrees)
    shown = " x ".join(f"{axis} {degree}" for axis, degree in known.items() if axis != "cp" or degree > 1)
    devices = f"{cluster.shape} = {world} devices"
    if " x " in shown:
        shown = f"{shown} = {product}"
    detail = f"{shown} {'is not' if whole else 'does not divide'} the cluster's {devices}"
    return "degrees do not make up the devices", f"{detail}: {_mend_degrees(known, world, whole)}"


def _mend_degrees(known: dict[str, int], world: int, whole: bool) -> str:
    """The smallest change of one degree that makes the product right."""
    product = math.prod(known.values())
    options = []
    for axis in ("dp", "pp", "tp"):
        if axis not in known or world % (product // known[axis]):
            continue
        share = world // (product // known[axis])
        value = share if whole else nearest(known[axis], divisors(share))
        options.append((abs(math.log(value / known[axis])), f"nearest is parallel.{axis}={value}"))
    if options:
        return min(options, key=lambda option: option[0])[1]
    return f"each degree must divide {world}"


def zero_suits(config: Config, _cluster: Cluster, choice: Choice) -> Violation | None:
    """What DeepSpeed cannot do: its ZeRO-2 and 3 reduce inside its own backward, which no pipeline
    schedule calls, and its master weights are fp32."""
    stage, engine, pp = choice.zero_stage, choice.zero_engine, choice.pp
    if stage is None:
        return None
    if not 0 <= stage <= 3:
        return "no such ZeRO stage", f"zero.stage={stage}: choices are 0, 1, 2, 3"
    if stage >= 2 and engine is ZeroBackend.deepspeed and pp is not None and pp > 1:
        return (
            "DeepSpeed's ZeRO-2 and 3 cannot pipeline",
            f"zero.stage={stage} with zero.engine=deepspeed needs parallel.pp=1, but it is {pp}: "
            "use zero.engine=fsdp2, or zero.stage=1",
        )
    if stage >= 1 and engine is ZeroBackend.deepspeed and config.precision.dtype is DType.fp64:
        return (
            "DeepSpeed updates in fp32",
            f"precision.dtype=fp64 with zero.engine=deepspeed: its master weights are fp32; "
            f"use zero.engine=fsdp2, or zero.stage=0 instead of {stage}",
        )
    return None


def sequence_divides(config: Config, _cluster: Cluster, choice: Choice) -> Violation | None:
    """Context and sequence parallelism cut every sequence evenly; under a causal mask each context-parallel
    rank takes a slice from the front and one from the back, which evens out the work."""
    tp, cp, seq = choice.tp, choice.cp or 1, config.model.seq
    pieces = 2 * cp if cp > 1 else 1
    if seq % pieces:
        return (
            "cp does not divide the sequence",
            f"model.seq={seq} is not divisible by 2 x parallel.cp={cp}: nearest is "
            f"{_near_sequence(seq, pieces)}",
        )
    if not choice.sequence_parallel or tp is None or seq % (pieces * tp) == 0:
        return None
    shown = f"parallel.tp={tp}" if cp == 1 else f"parallel.tp={tp} x 2 x parallel.cp={cp}"
    return (
        "tp does not divide the sequence",
        f"model.seq={seq} is not divisible by {shown} under sequence parallelism: nearest is "
        f"{_near_sequence(seq, pieces * tp)}, or parallel.sequence_parallel=false",
    )


def _near_sequence(seq: int, unit: int) -> str:
    below, above = seq // unit * unit, -(-seq // unit) * unit
    return f"model.seq={below} or {above}" if below else f"model.seq={above}"


_RULES: tuple[Callable[[Config, Cluster, Choice], Violation | None], ...] = (
    positive,
    fits_the_heads,
    tp_inside_the_domain,
    makes_up_the_devices,
    schedule_suits,
    enough_layers,
    stage_layers_add_up,
    zero_suits,
    sequence_divides,
    batch_divides,
    enough_micro_batches,
)
