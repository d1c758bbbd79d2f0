"""Refitting a cluster's profile to what was measured on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from orchestrate.calibrate.fit import Fit, Parameter, fit, mean_error
from orchestrate.calibrate.formulas import Formulas
from orchestrate.calibrate.samples import Exchange, Samples
from orchestrate.config import DeviceConfig, DeviceKind, LinkConfig

NOISE = 0.1
"""Relative standard deviation of one measurement: what repeats differ by while other processes run."""
KNOWN = 0.3
"""Standard deviation of the logarithm of a figure that was given before, where measurements alone leave it
open: what profiles of one kind of machine differ by."""
LEAST_SCATTER = 0.05
"""What single products and operators scatter around a profile's figure at the least, as a logarithm."""
_GIB = 2**30
_LEAST_SHARE, _MOST_LATENCY_US, _LEAST_LATENCY_US = 1e-3, 1e6, 1e-2


@dataclass(frozen=True)
class Change:
    """One figure of the profile, before and after."""

    key: str
    """As people type it: ``device.matmul_efficiency``."""
    before: float
    after: float
    source: str
    """What it was fitted to."""
    uncertainty: float | None = None
    """Relative standard error; None where it was read, not fitted."""


@dataclass(frozen=True)
class Quality:
    """How well the profile predicts one kind of measurement."""

    kind: str
    count: int
    before: float
    """Mean relative error with the profile as it was."""
    after: float
    median: float
    worst: float


@dataclass(frozen=True)
class Refit:
    """A refitted profile and how it came about."""

    device: DeviceConfig
    nvlink: LinkConfig
    network: LinkConfig
    changes: tuple[Change, ...]
    qualities: tuple[Quality, ...]
    notes: tuple[str, ...] = ()
    """What could not be measured, and why."""


def refit(formulas: Formulas, samples: Samples) -> Refit:
    """The profile of the formulas' cluster, refitted to ``samples``.

    On GPUs the peaks and bandwidths of the data sheet stay, unless they were exceeded, and the shares of
    them that are reached are fitted. A CPU process has no data sheet: its peak and its bandwidths are the
    best that was measured.
    """
    cluster = formulas.cluster
    steps = _Steps(formulas, samples)
    device = steps.read(steps.launches(steps.memory(steps.products(cluster.device))))
    nvlink = steps.sums(device, steps.link("nvlink", cluster.nvlink, cluster.network))
    network = steps.link("network", cluster.network, nvlink)
    return Refit(device, nvlink, network, tuple(steps.changes), tuple(steps.qualities), tuple(steps.notes))


class _Steps:
    """The parts of a refit, one after another, and what each changed."""

    def __init__(self, formulas: Formulas, samples: Samples) -> None:
        self._formulas, self._samples = formulas, samples
        self.changes: list[Change] = []
        self.qualities: list[Quality] = []
        self.notes: list[str] = []
        self._scatter = {"matmul": KNOWN, "memory": KNOWN}

    def products(self, device: DeviceConfig) -> DeviceConfig:
        """Peak and efficiency of matrix products."""
        cases, formulas, dtype = self._samples.products, self._formulas, self._formulas.dtype
        if not cases:
            self.notes.append("no matrix product is quick enough to be measured")
            return device
        best = max(2.0 * case.m * case.k * case.n / case.seconds for case in cases) / 1e12
        listed = device.peak_tflops[dtype]
        peak = best if device.kind is DeviceKind.cpu else max(listed, best)
        begun = replace(
            device,
            peak_tflops={**device.peak_tflops, dtype: peak},
            multiprocessors=self._samples.multiprocessors,
        )

        def at(values: Mapping[str, float]) -> DeviceConfig:
            return replace(begun, matmul_efficiency=values["efficiency"])

        def predict(values: Mapping[str, float]) -> list[float]:
            return [formulas.product(at(values), case, values["start"]) for case in cases]

        found = self._fit(predict, cases, [_share("efficiency", device.matmul_efficiency), _start(device)])
        self._record(f"device.peak_tflops.{dtype.value}", listed, peak, "the fastest product")
        self._record(
            "device.multiprocessors", device.multiprocessors, begun.multiprocessors, "the device itself"
        )
        self._record(
            "device.matmul_efficiency",
            device.matmul_efficiency,
            found.values["efficiency"],
            "matrix products",
            found.uncertainty["efficiency"],
        )
        self._scatter["matmul"] = max(LEAST_SCATTER, found.scatter)
        before = [formulas.product(device, case) for case in cases]
        self._rate("matrix products", before, cases, found.after)
        return at(found.values)

    def memory(self, device: DeviceConfig) -> DeviceConfig:
        """Bandwidth of the memory and the share of it that operators reach."""
        cases, formulas = self._samples.operators, self._formulas
        if not cases:
            self.notes.append("no operator between the products was measured")
            return device
        best = max(case.size / case.seconds for case in cases) / 1e9
        listed = device.memory_bandwidth_gbps
        bandwidth = best if device.kind is DeviceKind.cpu else max(listed, best)
        begun = replace(device, memory_bandwidth_gbps=bandwidth)

        def at(values: Mapping[str, float]) -> DeviceConfig:
            return replace(begun, memory_efficiency=values["efficiency"])

        def predict(values: Mapping[str, float]) -> list[float]:
            return [formulas.operator(at(values), case, values["start"]) for case in cases]

        found = self._fit(predict, cases, [_share("efficiency", device.memory_efficiency), _start(device)])
        self._record("device.memory_bandwidth_gbps", listed, bandwidth, "the fastest operator")
        self._record(
            "device.memory_efficiency",
            device.memory_efficiency,
            found.values["efficiency"],
            "operators between products",
            found.uncertainty["efficiency"],
        )
        self._scatter["memory"] = max(LEAST_SCATTER, found.scatter)
        before = [formulas.operator(device, case) for case in cases]
        self._rate("operators", before, cases, found.after)
        return at(found.values)

    def launches(self, device: DeviceConfig) -> DeviceConfig:
        """The time from one operator to the next, from whole passes: with the host's part of autograd and
        of the modules, as in training. The device's speed gives as much as single operators differ by."""
        cases, formulas = [case for case in self._samples.passes if case.tp == 1], self._formulas
        nvlink = formulas.cluster.nvlink
        if not cases:
            self.notes.append("no pass of a small GPT is quick enough to be measured")
            return device

        def at(values: Mapping[str, float]) -> DeviceConfig:
            return replace(
                device,
                launch_us=values["launch"],
                matmul_efficiency=values["matmul"],
                memory_efficiency=values["memory"],
            )

        def predict(values: Mapping[str, float]) -> list[float]:
            return [formulas.whole_pass(at(values), nvlink, case) for case in cases]

        parameters = [
            _latency("launch", device.launch_us),
            _share("matmul", device.matmul_efficiency, self._scatter["matmul"]),
            _share("memory", device.memory_efficiency, self._scatter["memory"]),
        ]
        found = self._fit(predict, cases, parameters)
        refitted = at(found.values)
        for key, name in (
            ("launch_us", "launch"),
            ("matmul_efficiency", "matmul"),
            ("memory_efficiency", "memory"),
        ):
            before = getattr(self._formulas.cluster.device, key)
            self._record(
                f"device.{key}",
                before,
                getattr(refitted, key),
                "passes of a small GPT",
                found.uncertainty[name],
            )
        before = [formulas.whole_pass(formulas.cluster.device, nvlink, case) for case in cases]
        self._rate("forward and backward of a small GPT", before, cases, found.after)
        return refitted

    def read(self, device: DeviceConfig) -> DeviceConfig:
        """What needs no fit: the memory that a process takes before its first tensor, and how much faster it
        is alone."""
        after = self._samples.reserved_bytes / _GIB
        self._record(
            "device.reserved_gib", device.reserved_gib, after, "a process with all that training loads"
        )
        crowding = max(1.0, self._samples.crowding)
        self._record("device.crowding", device.crowding, crowding, "a product by one rank alone")
        return replace(device, reserved_gib=after, crowding=crowding)

    def link(self, name: str, link: LinkConfig, other: LinkConfig) -> LinkConfig:
        """Bandwidth and latency of the link ``name``; ``other`` is the one that its groups may also use."""
        cases = [case for case in self._samples.exchanges if case.link == name]
        if not cases:
            where = "a domain has one device" if name == "nvlink" else "all devices are in one domain"
            self.notes.append(f"{name} was not measured and stays as it was: {where}")
            return link
        formulas = self._formulas
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
            _latency("latency", link.latency_us),
            _positive("reached", link.bandwidth_gbps * link.efficiency),
        ]
        if link.in_switch_gbps is not None:
            parameters.append(_positive("in_switch", link.in_switch_gbps))
        found = self._fit(predict, cases, parameters)
        self._scatter[name] = max(LEAST_SCATTER, found.scatter)
        reached, listed = found.values["reached"], link.bandwidth_gbps
        if formulas.cluster.device.kind is DeviceKind.cpu:
            listed = max((case.size / case.seconds / 1e9 for case in cases if case.kind == "send"), default=0)
        bandwidth = max(listed, reached)
        refitted = replace(at(found.values), bandwidth_gbps=bandwidth, efficiency=reached / bandwidth)
        source = f"exchanges over {name}"
        record = partial(self._record, source=source)
        record(f"{name}.bandwidth_gbps", link.bandwidth_gbps, bandwidth)
        before, doubt = link.efficiency, found.uncertainty["reached"]
        record(f"{name}.efficiency", before, refitted.efficiency, uncertainty=doubt)
        doubt = found.uncertainty["latency"]
        record(f"{name}.latency_us", link.latency_us, refitted.latency_us, uncertainty=doubt)
        if link.in_switch_gbps is not None and refitted.in_switch_gbps is not None:
            doubt = found.uncertainty["in_switch"]
            record(f"{name}.in_switch_gbps", link.in_switch_gbps, refitted.in_switch_gbps, uncertainty=doubt)
        self._rate(source, [seconds(link, case) for case in cases], cases, found.after)
        return refitted

    def sums(self, device: DeviceConfig, link: LinkConfig) -> LinkConfig:
        """Latency and bandwidth of the fast link in the midst of computation, from passes that are cut over
        tensor-parallel ranks; both give as much as exchanges by themselves differ by."""
        cases, formulas = [case for case in self._samples.passes if case.tp > 1], self._formulas
        if not cases:
            return link

        def at(values: Mapping[str, float]) -> LinkConfig:
            reached = values["reached"]
            bandwidth = max(link.bandwidth_gbps, reached)
            latency, efficiency = values["latency"], reached / bandwidth
            return replace(link, latency_us=latency, bandwidth_gbps=bandwidth, efficiency=efficiency)

        def predict(values: Mapping[str, float]) -> list[float]:
            return [formulas.whole_pass(device, at(values), case) for case in cases]

        parameters = [
            _latency("latency", link.latency_us, self._scatter["nvlink"]),
            _positive("reached", link.bandwidth_gbps * link.efficiency, self._scatter["nvlink"]),
        ]
        found = self._fit(predict, cases, parameters)
        refitted, source, before = at(found.values), "tensor-parallel passes", formulas.cluster.nvlink
        record = partial(self._record, source=source)
        record("nvlink.bandwidth_gbps", before.bandwidth_gbps, refitted.bandwidth_gbps)
        doubt = found.uncertainty["reached"]
        record("nvlink.efficiency", before.efficiency, refitted.efficiency, uncertainty=doubt)
        doubt = found.uncertainty["latency"]
        record("nvlink.latency_us", before.latency_us, refitted.latency_us, uncertainty=doubt)
        old = [formulas.whole_pass(formulas.cluster.device, before, case) for case in cases]
        self._rate("tensor-parallel passes of a small GPT", old, cases, found.after)
        return refitted

    def _fit(
        self, predict: Callable[[Mapping[str, float]], list[float]], cases: Sequence[Any], of: list[Parameter]
    ) -> Fit:
        return fit(predict, [case.seconds for case in cases], of, NOISE)

    def _record(
        self, key: str, before: float, after: float, source: str, uncertainty: float | None = None
    ) -> None:
        self.changes = [change for change in self.changes if change.key != key]
        self.changes.append(Change(key, before, after, source, uncertainty))

    def _rate(self, kind: str, before: Sequence[float], cases: Sequence[Any], after: Sequence[float]) -> None:
        old = [math.log(value / case.seconds) for value, case in zip(before, cases, strict=True)]
        sizes = [abs(math.expm1(residual)) for residual in after]
        median = sorted(sizes)[len(sizes) // 2]
        self.qualities.append(
            Quality(kind, len(cases), mean_error(old), mean_error(after), median, max(sizes))
        )


def _share(name: str, start: float, spread: float = math.inf) -> Parameter:
    """A share of a whole: at most 1."""
    return Parameter(name, min(max(start, _LEAST_SHARE), 1.0), _LEAST_SHARE, 1.0, spread)


def _latency(name: str, start: float, spread: float = math.inf) -> Parameter:
    """Microseconds."""
    low, high = _LEAST_LATENCY_US, _MOST_LATENCY_US
    return Parameter(name, min(max(start, low), high), low, high, spread)


def _positive(name: str, start: float, spread: float = math.inf) -> Parameter:
    return Parameter(name, start, start * 1e-4, start * 1e4, spread)


def _start(device: DeviceConfig) -> Parameter:
    """Microseconds to start one bare operator: told apart from its work, and of no use beyond that, because
    training starts operators through modules and autograd."""
    return _latency("start", device.launch_us)
