"""Refitting a cluster's profile to finished training runs, and how well that predicts the ones left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from orchestrate.calibrate.findings import Change, Quality
from orchestrate.calibrate.fit import Fit, Parameter, fit, mean_error
from orchestrate.calibrate.profile import KNOWN, Refit
from orchestrate.calibrate.runs import Run, estimate_memory, estimate_time
from orchestrate.config import ClusterConfig, DeviceKind, LinkConfig
from orchestrate.errors import ConfigError
from orchestrate.plan.units import GIB

NOISE = 0.05
"""Relative standard deviation of a step's time between runs of one layout."""
UNKNOWN = 1.0
"""Standard deviation of the logarithm of the time of a step that no operator explains: it is not measured
by itself, and as often three times a hundredth of a step as a third of it."""
FEWEST_TO_LEAVE_ONE_OUT = 3


@dataclass(frozen=True)
class Learnt:
    """A profile refitted to runs."""

    refit: Refit
    names: tuple[str, ...]
    measured_s: tuple[float, ...]
    before_s: tuple[float, ...]
    """Predicted step times with the profile as it was."""
    after_s: tuple[float, ...]
    left_out_s: tuple[float, ...]
    """Of each run, predicted with the profile refitted to the others; empty where there are too few."""


def learn(
    profile: ClusterConfig, runs: Sequence[Run], tick: Callable[[str], None] = lambda _: None
) -> Learnt:
    """Refit ``profile`` to ``runs``: the device's speeds and its time to start an operator, bandwidth and
    latency of the links that they use, and the memory taken before the first tensor.

    Every figure is held near what it was, as figures of a profile are known, so that a few runs move only
    what they tell something about.

    Args:
        tick: told what is being done, before it is.

    Raises:
        ConfigError: there are no runs.
    """
    if not runs:
        raise ConfigError("calibrate.runs=[]: name at least one finished run's folder")
    factors = _factors(profile, runs)
    measured = [run.step_s for run in runs]

    def fitted(of: Sequence[Run]) -> Fit:
        def predict(values: Mapping[str, float]) -> list[float]:
            candidate = _at(profile, values)
            return [estimate_time(run, candidate).step for run in of]

        return fit(predict, [run.step_s for run in of], factors, NOISE)

    tick(f"fitting {len(factors)} figures to {len(runs)} runs")
    found = fitted(runs)
    left_out = []
    for index, run in enumerate(runs if len(runs) >= FEWEST_TO_LEAVE_ONE_OUT else ()):
        tick(f"leaving out run {index + 1} of {len(runs)}")
        others = fitted([*runs[:index], *runs[index + 1 :]])
        left_out.append(estimate_time(run, _at(profile, others.values)).step)
    changed = _at(profile, found.values)
    reserved, memory = _memory(changed, runs)
    device = changed.device if reserved is None else replace(changed.device, reserved_gib=reserved)
    source = f"{len(runs)} run{'s' if len(runs) > 1 else ''}"
    changes = [
        Change(name, _figure(profile, name), value, source, found.uncertainty[name])
        for name, value in found.values.items()
    ]
    notes = []
    if reserved is None:
        notes.append("device.reserved_gib stays: on GPUs the runs' memory is that of tensors alone")
    else:
        before = profile.device.reserved_gib
        changes.append(Change("device.reserved_gib", before, reserved, f"memory of {source}"))
    qualities = [_quality("step time", measured, found.before, found.after), *memory]
    if left_out:
        apart = [math.log(p / m) for p, m in zip(left_out, measured, strict=True)]
        qualities.append(_quality("step time of a run left out", measured, found.before, apart))
        if mean_error(apart) > mean_error(found.before):
            notes.append(
                "runs that were left out are predicted worse than with the profile before: do not trust this "
                "one before there are more runs, or steadier ones"
            )
    return Learnt(
        Refit(device, changed.nvlink, changed.network, tuple(changes), tuple(qualities), tuple(notes)),
        names=tuple(run.name for run in runs),
        measured_s=tuple(measured),
        before_s=tuple(m * math.exp(r) for m, r in zip(measured, found.before, strict=True)),
        after_s=tuple(m * math.exp(r) for m, r in zip(measured, found.after, strict=True)),
        left_out_s=tuple(left_out),
    )


def _factors(profile: ClusterConfig, runs: Sequence[Run]) -> list[Parameter]:
    device = profile.device
    factors = [
        Parameter("device.matmul_efficiency", device.matmul_efficiency, 0.01, 1.0, KNOWN),
        Parameter("device.memory_efficiency", device.memory_efficiency, 0.01, 1.0, KNOWN),
        Parameter("device.launch_us", *_range(max(device.launch_us, 0.01)), KNOWN),
    ]
    quickest_us = 1e6 * min(run.step_s for run in runs)
    start = min(max(device.step_us, 0.01 * quickest_us), quickest_us)
    factors.append(Parameter("device.step_us", start, min(1.0, start), quickest_us, UNKNOWN))
    for name, link in (("nvlink", profile.nvlink), ("network", profile.network)):
        if not any(_uses(run, name) for run in runs):
            continue
        factors.append(Parameter(f"{name}.latency_us", *_range(max(link.latency_us, 0.01)), KNOWN))
        if device.kind is DeviceKind.cpu:
            factors.append(Parameter(f"{name}.bandwidth_gbps", *_range(link.bandwidth_gbps), KNOWN))
        else:
            factors.append(Parameter(f"{name}.efficiency", link.efficiency, 0.01, 1.0, KNOWN))
    return factors


def _range(start: float) -> tuple[float, float, float]:
    return start, start / 100, start * 100


def _uses(run: Run, link: str) -> bool:
    """Whether ranks of ``run`` talk over ``link``."""
    cluster, devices = run.plan.cluster, run.plan.placement.devices
    domains = {cluster.domain_of(device) for device in devices}
    return len(devices) > len(domains) if link == "nvlink" else len(domains) > 1


def _at(profile: ClusterConfig, values: Mapping[str, float]) -> ClusterConfig:
    """``profile`` with the figures ``values``, by their keys."""

    def link(name: str, of: LinkConfig) -> LinkConfig:
        return replace(
            of,
            latency_us=values.get(f"{name}.latency_us", of.latency_us),
            bandwidth_gbps=values.get(f"{name}.bandwidth_gbps", of.bandwidth_gbps),
            efficiency=values.get(f"{name}.efficiency", of.efficiency),
        )

    device = replace(
        profile.device,
        matmul_efficiency=values["device.matmul_efficiency"],
        memory_efficiency=values["device.memory_efficiency"],
        launch_us=values["device.launch_us"],
        step_us=values["device.step_us"],
    )
    nvlink, network = link("nvlink", profile.nvlink), link("network", profile.network)
    return replace(profile, device=device, nvlink=nvlink, network=network)


def _figure(profile: ClusterConfig, key: str) -> float:
    """The figure of ``profile`` that has the key ``key``."""
    section, name = key.split(".")
    return float(getattr(getattr(profile, section), name))


def _memory(profile: ClusterConfig, runs: Sequence[Run]) -> tuple[float | None, list[Quality]]:
    """GiB taken before the first tensor, None where the runs do not count them; and how well memory is
    predicted then, over the ranks of all runs."""
    measured, predicted, without = [], [], []
    counts_reserved = all(run.memory_kind == "process_resident" for run in runs)
    for run in runs:
        stages = estimate_memory(run, profile)
        for rank, value in enumerate(run.memory):
            estimate = stages[run.plan.dims.coordinates(rank).pp]
            reserved = estimate.terms.get("reserved", 0.0)
            measured.append(value)
            without.append(estimate.total - reserved)
            predicted.append(estimate.total if counts_reserved else estimate.total - reserved)
    kind = "memory of a rank" if counts_reserved else "memory of a rank's tensors"
    before = [math.log(p / m) for p, m in zip(predicted, measured, strict=True)]
    if not counts_reserved:
        return None, [_quality(kind, measured, before, before)]
    reserved = max(0.0, median(m - w for m, w in zip(measured, without, strict=True)))
    after = [math.log((w + reserved) / m) for w, m in zip(without, measured, strict=True)]
    return reserved / GIB, [_quality(kind, measured, before, after)]


def _quality(
    kind: str, measured: Sequence[float], before: Sequence[float], after: Sequence[float]
) -> Quality:
    sizes = [abs(math.expm1(residual)) for residual in after]
    return Quality(kind, len(measured), mean_error(before), mean_error(after), median(sizes), max(sizes))
