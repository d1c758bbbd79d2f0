"""A refitted profile as a file that ``--config-dir`` finds, and as a table."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from orchestrate.calibrate.findings import Change, Quality
from orchestrate.calibrate.learn import Learnt
from orchestrate.calibrate.profile import Refit
from orchestrate.config import ClusterConfig, DeviceKind, DType, LinkConfig, dump
from orchestrate.errors import ConfigError
from orchestrate.plan.shown.search_tables import table

if TYPE_CHECKING:
    from rich.table import Table


def refitted(config: ClusterConfig, refit: Refit, name: str) -> ClusterConfig:
    """``config`` with the figures of ``refit``, rounded to what a measurement is worth."""
    device = refit.device
    return replace(
        config,
        name=name,
        device=replace(
            device,
            peak_tflops={dtype: _rounded(peak) for dtype, peak in device.peak_tflops.items()},
            matmul_efficiency=_rounded(device.matmul_efficiency),
            memory_bandwidth_gbps=_rounded(device.memory_bandwidth_gbps),
            memory_efficiency=_rounded(device.memory_efficiency),
            launch_us=_rounded(device.launch_us),
            step_us=_rounded(device.step_us),
            crowding=_rounded(device.crowding),
            reserved_gib=_rounded(device.reserved_gib),
        ),
        nvlink=_rounded_link(refit.nvlink),
        network=_rounded_link(refit.network),
    )


def _rounded_link(link: LinkConfig) -> LinkConfig:
    return replace(
        link,
        bandwidth_gbps=_rounded(link.bandwidth_gbps),
        latency_us=_rounded(link.latency_us),
        efficiency=_rounded(link.efficiency),
        in_switch_gbps=None if link.in_switch_gbps is None else _rounded(link.in_switch_gbps),
    )


def write(config: ClusterConfig, refit: Refit, dtype: DType, folder: Path, origin: Sequence[str]) -> Path:
    """Write ``<folder>/cluster/<config.name>.yaml``, whole or not at all; its path.

    Args:
        origin: lines that say when and how it was made; they become comments.

    Raises:
        ConfigError: the file cannot be written.
    """
    path = folder / "cluster" / f"{config.name}.yaml"
    lines = [f"# {line}".rstrip() for line in (*origin, *_notes(refit))]
    values = dump(config)
    if config.device.kind is DeviceKind.cpu:
        # As the presets of CPUs do: the figures hold for this precision alone.
        override = {"override /precision@_global_.precision": dtype.value}
        values = {"defaults": [override, "_self_"], **values}
    lines.append(yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=110))
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text("\n".join(lines), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise ConfigError(f"calibrate.out={folder}: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return path


def _notes(refit: Refit) -> Iterator[str]:
    yield "Predicted against measured, relative error:"
    for quality in refit.qualities:
        yield (
            f"  {quality.kind}, {quality.count}: median {quality.median:.1%}, mean {quality.after:.1%}, "
            f"largest {quality.worst:.1%} (mean before: {quality.before:.1%})"
        )
    yield "Before and after, with the standard error of the fit:"
    for change in refit.changes:
        figures = f"{_figure(change.before)} -> {_figure(change.after)}{_error(change)}"
        yield f"  {change.key}: {figures}, from {change.source}"
    yield from refit.notes


def change_table(changes: Sequence[Change]) -> Table:
    """What changed in the profile."""
    made = table(
        "cluster", "before", "after", "± (fit)", "from", right=(1, 2, 3), title="The cluster's profile"
    )
    made.columns[0].no_wrap = True  # people copy the keys
    for change in changes:
        made.add_row(
            change.key,
            _figure(change.before),
            _figure(change.after),
            _error(change).removeprefix(" ± "),
            change.source,
        )
    return made


def quality_table(qualities: Sequence[Quality]) -> Table:
    """How far predictions lie from the measurements, before and after."""
    columns = ("measured", "number", "mean before", "mean after", "median", "largest")
    made = table(*columns, right=(1, 2, 3, 4, 5), title="Predicted against measured, relative error")
    for quality in qualities:
        shares = (quality.before, quality.after, quality.median, quality.worst)
        made.add_row(quality.kind, str(quality.count), *(f"{share:.1%}" for share in shares))
    return made


def run_table(learnt: Learnt) -> Table:
    """Step times of the runs, measured and predicted."""
    columns = ("run", "measured", "before", "after", "left out")
    made = table(*columns, right=(1, 2, 3, 4), title="Step time, s")
    for index, name in enumerate(learnt.names):
        apart = learnt.left_out_s[index] if learnt.left_out_s else None
        figures = (learnt.measured_s[index], learnt.before_s[index], learnt.after_s[index], apart)
        made.add_row(name, *("" if figure is None else _figure(figure) for figure in figures))
    return made


def _error(change: Change) -> str:
    if change.uncertainty is None:
        return ""
    return f" ± {change.uncertainty:.0%}" if change.uncertainty < 10 else " ± unknown"


def _figure(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _rounded(value: float) -> float:
    """Four significant digits: no measurement here is better."""
    return float(f"{value:.4g}")
