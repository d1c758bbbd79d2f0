"""What to say where the rules leave no layout at all: which of them would have to give, and by how much."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from orchestrate.plan.choice import Choice
from orchestrate.plan.numbers import divisors
from orchestrate.plan.search.branch_and_bound import Search
from orchestrate.plan.search.rules import violations
from orchestrate.plan.search.space import Space

_BATCH, _LAYERS = "the batch does not divide", "fewer layers than stages"


def no_layout_suits(tried: Search) -> str:
    """Why ``tried`` found nothing that obeys the rules, in one line.

    Where the batch or the number of layers alone stands between degrees and the rules, the smallest such
    change is named; else the commonest reason.
    """
    cluster, tally = tried.space.cluster, tried.tally
    told = f"no layout suits the {cluster.world} devices of {cluster.name}"
    nearest = min(_one_change_away(tried.space), default=None)
    if nearest is not None:
        _factor, layout, reason, detail = nearest
        return f"{told}: nearest comes {layout}, but {reason}: {detail}"
    first = tally.rejections()[0]
    return (
        f"{told}; {first.layouts} of {tally.total} were turned down because {first.reason}, such as "
        f"{first.layout}: {first.detail}"
    )


def _one_change_away(space: Space) -> Iterator[tuple[float, str, str, str]]:
    """Degrees that only the batch or the number of layers forbids: how many times as many sequences or
    layers it would take, the degrees, the rule and its sentence."""
    for choice in _all_degrees(space):
        broken = list(violations(space.config, space.cluster, choice))
        if len(broken) != 1:
            continue
        (reason, detail) = broken[0]
        if reason == _BATCH:
            batch, unit = choice.global_batch, (choice.dp or 1) * (choice.micro_batch or 1)
            yield -(-batch // unit) * unit / batch, str(choice), reason, detail
        elif reason == _LAYERS:
            stages = (choice.pp or 1) * (choice.vpp or 1)
            yield stages / space.config.model.layers, str(choice), reason, detail


def _all_degrees(space: Space) -> Iterator[Choice]:
    """Every way to cut the devices in keeping with what is pinned, whether it obeys the rules or not; cp
    is 1 where it is open."""
    start, world = space.start, space.cluster.world
    cp = start.cp or 1
    for tp in divisors(world) if start.tp is None else [start.tp]:
        for pp in divisors(world // tp) if start.pp is None else [start.pp]:
            dp, rest = divmod(world, tp * cp * pp)
            if not rest and start.dp in (None, dp):
                yield replace(start, tp=tp, cp=cp, pp=pp, dp=dp)
