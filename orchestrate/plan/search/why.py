"""Why not another layout: what it would cost, or which rule forbids it."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace
from typing import Any

from orchestrate.config import Config, Recompute, Schedule, ZeroBackend
from orchestrate.errors import ConfigError
from orchestrate.plan.choice import Choice, derived, fixed
from orchestrate.plan.layout import AXES
from orchestrate.plan.plan import Plan
from orchestrate.plan.search.branch_and_bound import Report, Search
from orchestrate.plan.search.candidate import Candidate
from orchestrate.plan.search.explain import compare
from orchestrate.plan.search.rules import first_violation
from orchestrate.plan.search.search import prepare
from orchestrate.plan.units import gib
from orchestrate.topology.cluster import Cluster

_NUMBERS = {
    "tp": "tp",
    "cp": "cp",
    "pp": "pp",
    "dp": "dp",
    "vpp": "vpp",
    "mb": "micro_batch",
    "micro_batch": "micro_batch",
    "zero": "zero_stage",
    "recompute_layers": "recompute_layers",
}
_WORDS = (*_NUMBERS, "schedule", "recompute", "sp", "sequence_parallel")
_GIVE_WAY = ("dp", "pp", "tp")
"""Degrees that change where another one is asked for, the first first; cp only where it is asked for."""
_DOMAIN = "tp leaves the NVLink domain"


@dataclass(frozen=True)
class Verdict:
    """On the layouts that were asked about: what they would cost, or what forbids them."""

    asked: str
    sentences: tuple[str, ...]
    best: Candidate | None = None
    """The fastest of them that fits; None where a rule forbids them or none fits."""


def why(config: Config, cluster: Cluster, plan: Plan, asked: str, report: Report | None = None) -> Verdict:
    """What the best layout that agrees with ``asked``, such as ``tp=16,recompute=full``, costs beside
    ``plan``. What ``asked`` leaves open is searched, but for what ``config`` pins.

    Raises:
        ConfigError: ``asked`` does not name a choice, or gives it an impossible value.
    """
    choice = derived(wanted(fixed(config), asked), cluster.world)
    violation = first_violation(config, cluster, choice)
    if violation is None:
        return _searched(prepare(config, cluster, choice, report), plan, asked)
    forbidden = f"{asked} is ruled out: {violation[1]}."
    if violation[0] != _DOMAIN:
        return Verdict(asked, (forbidden,))
    anywhere = replace(config, parallel=replace(config.parallel, allow_tp_across_nodes=True))
    if (other := first_violation(anywhere, cluster, choice)) is not None:
        return Verdict(asked, (forbidden, f"Nor would it do across domains: {other[1]}."))
    told = _searched(prepare(anywhere, cluster, choice, report), plan, asked)
    return replace(told, sentences=(forbidden, "If it were allowed:", *told.sentences))


def wanted(start: Choice, asked: str) -> Choice:
    """``start`` with what ``asked`` fixes. Where that changes a degree, another one has to give way, even
    if it is pinned: dp, or the next that ``asked`` does not name.

    Raises:
        ConfigError: as `why`.
    """
    values: dict[str, Any] = {}
    for part in filter(None, re.split(r"[,\s]+", asked)):
        values |= _read(part)
    if not values:
        raise ConfigError(
            "plan.why is empty: name a choice, such as plan.why=tp=16 or plan.why=pp=1,recompute=full"
        )
    if "=" not in asked and "zero_stage" in values:
        # A whole name from the tables: it would say sp.
        values.setdefault("sequence_parallel", False)
    if "recompute" in values and "recompute_layers" not in values:
        values["recompute_layers"] = None
    if any(getattr(start, axis) not in (None, value) for axis, value in values.items() if axis in AXES):
        values |= next(({axis: None} for axis in _GIVE_WAY if axis not in values), {})
    return replace(start, **values)


def _read(part: str) -> dict[str, Any]:
    """One choice: ``tp=16``, or as the tables write it, ``tp16``, ``sp``, ``zbv``, ``recompute-full-2``."""
    name, equals, value = part.partition("=")
    if not equals:
        name, value = _split(part)
    name = name.strip().removeprefix("parallel.").removesuffix(".stage").removesuffix(".mode")
    if name in ("sp", "sequence_parallel"):
        return {"sequence_parallel": _one_of(part, value or "true", {"true": True, "false": False})}
    if name == "schedule":
        return {"schedule": _one_of(part, value, {s.value: s for s in Schedule})}
    if name == "recompute":
        mode, _, layers = value.partition("-")
        chosen: dict[str, Any] = {"recompute": _one_of(part, mode, {mode.value: mode for mode in Recompute})}
        return chosen | ({"recompute_layers": _number(part, layers)} if layers else {})
    if name == "zero":
        stage, _, engine = value.partition("-")
        chosen = {"zero_stage": _number(part, stage)}
        engines = {engine.value: engine for engine in ZeroBackend}
        return chosen | ({"zero_engine": _one_of(part, engine, engines)} if engine else {})
    if name not in _NUMBERS:
        close = difflib.get_close_matches(name, _WORDS, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]}?" if close else f"choices: {', '.join(_WORDS)}"
        raise ConfigError(f"plan.why: there is no choice {name!r} in {part!r}: {hint}")
    return {_NUMBERS[name]: _number(part, value)}


def _split(part: str) -> tuple[str, str]:
    if part in {schedule.value for schedule in Schedule}:
        return "schedule", part
    found = re.fullmatch(r"([a-z_]+?)-?(\d+(?:-\w+)?|none|selective|full(?:-\d+)?)?", part)
    return (found[1], found[2] or "") if found else (part, "")


def _number(part: str, value: str) -> int:
    if not value.isdigit():
        raise ConfigError(f"plan.why: {part!r} needs a whole number, such as {part.partition('=')[0]}=2")
    return int(value)


def _one_of(part: str, value: str, choices: dict[str, Any]) -> Any:
    if value not in choices:
        close = difflib.get_close_matches(value, choices, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]}?" if close else f"choices: {', '.join(choices)}"
        raise ConfigError(f"plan.why: {value!r} in {part!r}: {hint}")
    return choices[value]


def _searched(search: Search, plan: Plan, asked: str) -> Verdict:
    found = search.fastest(1)
    chosen = Candidate(plan.layout, plan.stages, plan.memory, plan.time)
    if found:
        best = search.models.arranged(found[0])[0]
        if best.layout == plan.layout:
            return Verdict(asked, (f"{asked} is what the plan does ({plan.layout}).",), best)
        named = "That layout" if asked == str(best.layout) else f"The best layout with {asked}"
        return Verdict(asked, (compare(named, best, chosen),), best)
    leanest = search.leanest()
    if leanest is None:
        turned_down = search.tally.rejections()
        example = turned_down[0]
        return Verdict(
            asked, (f"No layout with {asked} obeys the rules, such as {example.layout}: {example.detail}.",)
        )
    layout, fullest = leanest
    needs = f"even the leanest ({layout}) needs {gib(fullest.total)} of {gib(fullest.capacity)} GiB"
    if fullest.fits:
        chance = fullest.probability_of_running_out
        needs += f", and runs out with a probability of {chance:.0%}"
    return Verdict(asked, (f"No layout with {asked} fits the memory: {needs}.",))
