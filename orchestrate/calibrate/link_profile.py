"""Refitting a link's bandwidth and latency: to exchanges by themselves, and in the midst of computation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from orchestrate.calibrate.findings import Findings, fitted, latency, positive, scatter
from orchestrate.calibrate.fit import Fit
from orchestrate.calibrate.formulas import Formulas
from orchestrate.calibrate.samples import Exchange, Pass
from orchestrate.config import DeviceConfig, DeviceKind, LinkConfig


def fit_exchanges(
    formulas: Formulas,
    all_cases: Sequence[Exchange],
    name: str,
    link: LinkConfig,
    other: LinkConfig,
    to: Findings,
) -> tuple[LinkConfig, float]:
    """The link ``name``, and what exchanges scatter around it; ``other`` is the one that its groups may also
    use."""
    cases = [case for case in all_cases if case.link == name]
    if not cases:
        where = "a domain has one device" if name == "nvlink" else "all devices are in one domain"
        to.notes.append(f"{name} was not measured and stays as it was: {where}")
        return link, 0.0
    spans = {(case.groups, case.kind): formulas.span(case) for case in cases}

    def at(values: Mapping[str, float]) -> LinkConfig:
        # The formulas know the product alone.
        return replace(
            link,
            latency_us=values["latency"],
            bandwidth_gbps=values["reached"],
            efficiency=1.0,
            in_switch_gbps=values.get("in_switch"),
        )

    def seconds(candidate: LinkConfig, case: Exchange) -> float:
        both = (candidate, other) if name == "nvlink" else (other, candidate)
        return formulas.exchange(*both, case, spans[case.groups, case.kind])

    def predict(values: Mapping[str, float]) -> list[float]:
        candidate = at(values)
        return [seconds(candidate, case) for case in cases]

    parameters = [
        latency("latency", link.latency_us),
        positive("reached", link.bandwidth_gbps * link.efficiency),
    ]
    if link.in_switch_gbps is not None:
        parameters.append(positive("in_switch", link.in_switch_gbps))
    found = fitted(predict, cases, parameters)
    reached, listed = found.values["reached"], link.bandwidth_gbps
    if formulas.cluster.device.kind is DeviceKind.cpu:
        listed = max((case.size / case.seconds / 1e9 for case in cases if case.kind == "send"), default=0)
    bandwidth = max(listed, reached)
    refitted = replace(at(found.values), bandwidth_gbps=bandwidth, efficiency=reached / bandwidth)
    source = f"exchanges over {name}"
    _record(to, name, link, refitted, source, found)
    to.rate(source, [seconds(link, case) for case in cases], cases, found.after)
    return refitted, scatter(found)


def fit_sums(
    formulas: Formulas,
    all_cases: Sequence[Pass],
    device: DeviceConfig,
    link: LinkConfig,
    spread: float,
    to: Findings,
) -> LinkConfig:
    """The fast link as passes find it that are cut over tensor-parallel ranks: ``link``, whose latency gives
    as much as exchanges by themselves scatter (``spread``). Waiting for whoever comes last to a sum costs as
    much however large it is."""
    cases = [case for case in all_cases if case.tp > 1]
    if not cases:
        return link

    def at(values: Mapping[str, float]) -> LinkConfig:
        return replace(link, latency_us=values["latency"])

    def predict(values: Mapping[str, float]) -> list[float]:
        return [formulas.whole_pass(device, at(values), case) for case in cases]

    found = fitted(predict, cases, [latency("latency", link.latency_us, spread)])
    refitted, before = at(found.values), formulas.cluster
    kind, doubt = "tensor-parallel passes", found.uncertainty["latency"]
    to.record("nvlink.latency_us", before.nvlink.latency_us, refitted.latency_us, kind, doubt)
    to.rate(kind, [formulas.whole_pass(before.device, before.nvlink, c) for c in cases], cases, found.after)
    return refitted


def _record(to: Findings, name: str, before: LinkConfig, after: LinkConfig, source: str, found: Fit) -> None:
    told = found.uncertainty
    to.record(f"{name}.bandwidth_gbps", before.bandwidth_gbps, after.bandwidth_gbps, source)
    to.record(f"{name}.efficiency", before.efficiency, after.efficiency, source, told["reached"])
    to.record(f"{name}.latency_us", before.latency_us, after.latency_us, source, told["latency"])
    if "in_switch" in told and before.in_switch_gbps is not None and after.in_switch_gbps is not None:
        key = f"{name}.in_switch_gbps"
        to.record(key, before.in_switch_gbps, after.in_switch_gbps, source, told["in_switch"])
