"""What a finished run comes to, for the person at the terminal; in the parent process, no torch here."""

from __future__ import annotations

import shlex
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from orchestrate.config import Config, TrackingMode
from orchestrate.plan.plan import Plan
from orchestrate.train.metrics import StepRecord, perplexity, read_records
from orchestrate.train.plot import plot
from orchestrate.train.progress import clock, seconds, short

WIDTH = 80
_NAME = 18
"""Columns of the names on the left."""
_SMOOTHED = 10


def show(
    plan: Plan, config: Config, run_dir: Path, console: Console, overrides: Sequence[str] | None = None
) -> None:
    """Print the summary of the run in ``run_dir``, started here with ``overrides``; None: elsewhere."""
    unicode = (console.encoding or "").lower().startswith("utf")
    text = render(plan, config, run_dir, overrides, ascii_only=not unicode)
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def render(
    plan: Plan,
    config: Config,
    run_dir: Path,
    overrides: Sequence[str] | None = None,
    *,
    ascii_only: bool = False,
) -> str:
    """The summary as plain text, lines of at most 80 columns but for paths and commands."""
    records = read_records(run_dir)
    if not records:
        return f"No step was recorded.\n\n{_line('run folder', str(run_dir))}"
    parts = [
        _curve(records, ascii_only),
        "\n".join(_results(plan, config, records)),
        "\n".join(_comparison(plan, records)),
        "\n".join(_next_steps(config, run_dir, overrides)),
    ]
    text = "\n\n".join(part for part in parts if part)
    return text.translate(_TO_ASCII) if ascii_only else text


_TO_ASCII = str.maketrans({"·": ",", "→": ">"})


def step_time(records: Sequence[StepRecord]) -> float:
    """The run's step time, seconds: median, the first record left out where there are others,
    since it holds what happens once (allocation, compilation, first connections)."""
    return statistics.median(record.step_time_s for record in (records[1:] or records))


def _curve(records: Sequence[StepRecord], ascii_only: bool) -> str:
    train = [(float(r.step), r.loss) for r in records]
    validation = [(float(r.step), r.val_loss) for r in records if r.val_loss is not None]
    drawn = plot(train, validation, width=WIDTH - 2, ascii_only=ascii_only)
    if not drawn:
        return ""
    key = "loss, nats per token: line train" + (", o validation" if validation else "")
    return f"{key}\n{drawn}"


def _results(plan: Plan, config: Config, records: Sequence[StepRecord]) -> list[str]:
    first, last = records[0], records[-1]
    spent = last.time - first.time + first.step_time_s * first.step
    speed = plan.global_batch * plan.model.seq / step_time(records)
    steps = max(last.step, config.train.steps)  # fewer may be asked for than were made
    lines = [
        _line("steps", f"{last.step} of {steps} in {clock(spent)} · {short(last.tokens)} tokens"),
        _line("train loss", _fall(records)),
    ]
    validations = [r for r in records if r.val_loss is not None]
    if validations:
        begin, end = validations[0].val_loss, validations[-1].val_loss
        assert begin is not None
        assert end is not None
        change = f"{begin:.3f} → {end:.3f}" if len(validations) > 1 else f"{end:.3f}"
        lines.append(_line("validation loss", f"{change} · perplexity {perplexity(end):.4g}"))
    mfu = last.mfu * last.step_time_s / step_time(records)
    per_device = short(speed / plan.dims.world)
    lines.append(_line("speed", f"{short(speed)} tokens/s · {per_device} per device · MFU {mfu:.1%}"))
    stood_still = sum(r.checkpoint_s or 0.0 for r in records)
    if stood_still:
        lines.append(_line("checkpoints", f"training stood still for {stood_still / spent:.2%} of the time"))
    skipped = sum(r.skipped for r in records)
    if skipped:
        lines.append(
            _line("skipped updates", f"{skipped} (gradient overflow, last loss scale {last.loss_scale:g})")
        )
    lines += _slowest(plan, records)
    return lines


def _slowest(plan: Plan, records: Sequence[StepRecord]) -> list[str]:
    """The rank that was named a straggler in most records, if it was in more than half of them."""
    counted = records[1:] or records
    named = Counter(record.straggler for record in counted if record.straggler is not None)
    if not named:
        return []
    ((rank, times),) = named.most_common(1)
    if 2 * times <= len(counted) or rank >= plan.dims.world:
        return []
    shares = [r.straggler_share for r in counted if r.straggler == rank and r.straggler_share is not None]
    device = plan.placement.devices[rank]
    where = f"rank {rank} on {device.host} device {device.index}"
    return [_line("straggler", f"{where} · costs {statistics.median(shares):.0%} of the step time")]


def _fall(records: Sequence[StepRecord]) -> str:
    """From the first loss to the last, which is smoothed where the run is long enough to do so."""
    tail = records[-_SMOOTHED:] if len(records) >= 4 * _SMOOTHED else records[-1:]
    end = statistics.fmean(record.loss for record in tail)
    note = f" (mean of the last {_SMOOTHED} records)" if len(tail) > 1 else ""
    return f"{records[0].loss:.3f} → {end:.3f}{note}"


def _comparison(plan: Plan, records: Sequence[StepRecord]) -> list[str]:
    """Measured beside predicted: step time, and memory by pipeline stage."""
    last = records[-1]
    rows = [_compare("step time", step_time(records), last.predicted_step_time_s, seconds)]
    for stage in range(plan.dims.pp):
        ranks = [r for r in range(plan.dims.world) if plan.dims.coordinates(r).pp == stage]
        measured = max(last.memory_mib[r] for r in ranks)
        predicted = None if last.predicted_memory_mib is None else last.predicted_memory_mib[ranks[0]]
        rows.append(_compare(f"memory, stage {stage}", measured, predicted, _mib))
    kind = {
        "process_resident": "memory: the largest process of a stage, Python and its libraries included",
        "cuda_allocated": "memory: the largest device of a stage, tensors alone",
    }[last.memory_kind]
    head = f"  {'':{_NAME}}{'measured':>12}{'predicted':>12}{'measured is':>14}"
    return [head, *rows, f"  {kind}"]


def _compare(name: str, measured: float, predicted: float | None, form: object) -> str:
    assert callable(form)
    if predicted is None or predicted <= 0:
        return f"  {name:{_NAME}}{form(measured):>12}{'-':>12}"
    return f"  {name:{_NAME}}{form(measured):>12}{form(predicted):>12}{_difference(measured / predicted):>14}"


def _difference(ratio: float) -> str:
    if ratio >= 2 or ratio <= 0.5:
        return f"{ratio:.2g} x"
    percent = round((ratio - 1) * 100)
    return f"{percent:+d} %" if percent else "equal"


def _mib(value: float) -> str:
    return f"{value:.0f} MiB" if value < 10_000 else f"{value / 1024:.1f} GiB"


def _next_steps(config: Config, run_dir: Path, overrides: Sequence[str] | None) -> list[str]:
    lines = [_line("run folder", str(run_dir))]
    if overrides is not None:
        layout = [o for o in overrides if not o.lstrip("+").startswith("run.")]
        lines += [
            "  does this layout train like one process would?",
            f"    {shlex.join(['orchestrate', 'verify', *layout])}",
        ]
    if config.tracking.mode is TrackingMode.offline:
        lines += [
            "  send the record of this run to wandb:",
            f"    wandb sync {run_dir / 'wandb'}/offline-run-*",
        ]
    return lines


def _line(name: str, value: str) -> str:
    return f"  {name:{_NAME}}{value}"
