"""Refitting a cluster's profile to what was measured on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from orchestrate.calibrate.findings import Change, Findings, Quality, fitted, latency, scatter, share
from orchestrate.calibrate.fit import Parameter
from orchestrate.calibrate.formulas import Formulas
from orchestrate.calibrate.link_profile import fit_exchanges, fit_sums
from orchestrate.calibrate.samples import Samples
from orchestrate.config import DeviceConfig, DeviceKind, LinkConfig
from orchestrate.plan.units import GIB

KNOWN = 0.3
"""Standard deviation of the logarithm of a figure that was given before, where measurements alone leave it
open: what profiles of one kind of machine differ by."""


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
    cluster, found, exchanges = formulas.cluster, Findings(), samples.exchanges
    steps = _Steps(formulas, samples, found)
    device = steps.read(steps.launches(steps.memory(steps.products(cluster.device))))
    nvlink, spread = fit_exchanges(formulas, exchanges, "nvlink", cluster.nvlink, cluster.network, found)
    nvlink = fit_sums(formulas, samples.passes, device, nvlink, spread, found)
    network, _ = fit_exchanges(formulas, exchanges, "network", cluster.network, nvlink, found)
    return Refit(device, nvlink, network, tuple(found.changes), tuple(found.qualities), tuple(found.notes))


class _Steps:
    """The parts of a device's refit, one after another; what each changed goes ``to`` the findings."""

    def __init__(self, formulas: Formulas, samples: Samples, to: Findings) -> None:
        self._formulas, self._samples, self._to = formulas, samples, to
        self._scatter = {"matmul": KNOWN, "memory": KNOWN}

    def products(self, device: DeviceConfig) -> DeviceConfig:
        """Peak and efficiency of matrix products."""
        cases, formulas, dtype = self._samples.products, self._formulas, self._formulas.dtype
        if not cases:
            self._to.notes.append("no matrix product is quick enough to be measured")
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

        found = fitted(predict, cases, [share("efficiency", device.matmul_efficiency), _start(device)])
        self._to.record(f"device.peak_tflops.{dtype.value}", listed, peak, "the fastest product")
        self._to.record(
            "device.multiprocessors", device.multiprocessors, begun.multiprocessors, "the device itself"
        )
        self._to.record(
            "device.matmul_efficiency",
            device.matmul_efficiency,
            found.values["efficiency"],
            "matrix products",
            found.uncertainty["efficiency"],
        )
        self._scatter["matmul"] = scatter(found)
        before = [formulas.product(device, case) for case in cases]
        self._to.rate("matrix products", before, cases, found.after)
        return at(found.values)

    def memory(self, device: DeviceConfig) -> DeviceConfig:
        """Bandwidth of the memory and the share of it that operators reach."""
        cases, formulas = self._samples.operators, self._formulas
        if not cases:
            self._to.notes.append("no operator between the products was measured")
            return device
        best = max(case.size / case.seconds for case in cases) / 1e9
        listed = device.memory_bandwidth_gbps
        bandwidth = best if device.kind is DeviceKind.cpu else max(listed, best)
        begun = replace(device, memory_bandwidth_gbps=bandwidth)

        def at(values: Mapping[str, float]) -> DeviceConfig:
            return replace(begun, memory_efficiency=values["efficiency"])

        def predict(values: Mapping[str, float]) -> list[float]:
            return [formulas.operator(at(values), case, values["start"]) for case in cases]

        found = fitted(predict, cases, [share("efficiency", device.memory_efficiency), _start(device)])
        self._to.record("device.memory_bandwidth_gbps", listed, bandwidth, "the fastest operator")
        self._to.record(
            "device.memory_efficiency",
            device.memory_efficiency,
            found.values["efficiency"],
            "operators between products",
            found.uncertainty["efficiency"],
        )
        self._scatter["memory"] = scatter(found)
        before = [formulas.operator(device, case) for case in cases]
        self._to.rate("operators", before, cases, found.after)
        return at(found.values)

    def launches(self, device: DeviceConfig) -> DeviceConfig:
        """The time from one operator to the next, from whole passes: with the host's part of autograd and
        of the modules, as in training. The device's speed gives as much as single operators differ by."""
        cases, formulas = [case for case in self._samples.passes if case.tp == 1], self._formulas
        nvlink = formulas.cluster.nvlink
        if not cases:
            self._to.notes.append("no pass of a small GPT is quick enough to be measured")
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
            latency("launch", device.launch_us),
            share("matmul", device.matmul_efficiency, self._scatter["matmul"]),
            share("memory", device.memory_efficiency, self._scatter["memory"]),
        ]
        found = fitted(predict, cases, parameters)
        refitted = at(found.values)
        for key, name in (
            ("launch_us", "launch"),
            ("matmul_efficiency", "matmul"),
            ("memory_efficiency", "memory"),
        ):
            before = getattr(self._formulas.cluster.device, key)
            self._to.record(
                f"device.{key}",
                before,
                getattr(refitted, key),
                "passes of a small GPT",
                found.uncertainty[name],
            )
        before = [formulas.whole_pass(formulas.cluster.device, nvlink, case) for case in cases]
        self._to.rate("forward and backward of a small GPT", before, cases, found.after)
        return refitted

    def read(self, device: DeviceConfig) -> DeviceConfig:
        """What needs no fit: the memory that a process takes before its first tensor, and how much faster it
        is alone."""
        after = self._samples.reserved_bytes / GIB
        self._to.record(
            "device.reserved_gib", device.reserved_gib, after, "a process with all that training loads"
        )
        crowding = max(1.0, self._samples.crowding)
        self._to.record("device.crowding", device.crowding, crowding, "a product by one rank alone")
        return replace(device, reserved_gib=after, crowding=crowding)


def _start(device: DeviceConfig) -> Parameter:
    """Microseconds to start one bare operator: told apart from its work, and of no use beyond that, because
    training starts operators through modules and autograd."""
    return latency("start", device.launch_us)
