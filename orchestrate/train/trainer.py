"""The training loop: step, evaluate now and then, and hand each record to whoever watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from orchestrate.config import Config, DeviceKind
from orchestrate.data.loader import Batch, Loader
from orchestrate.mesh import ParallelContext
from orchestrate.parallel.zero.base import Update
from orchestrate.plan.flops import model_flops
from orchestrate.plan.memory.published import allocated
from orchestrate.plan.plan import Plan
from orchestrate.train.checkpoint.asynchronous import Saver
from orchestrate.train.lr import learning_rate
from orchestrate.train.memory import memory_kind, peak_bytes
from orchestrate.train.metrics import StepRecord, perplexity
from orchestrate.train.resilience.stragglers import straggler
from orchestrate.train.resilience.watch import Unwatched, Watch
from orchestrate.train.setup import Replica

Observer = Callable[[StepRecord], None]
"""Is handed each record, on the one rank that keeps records."""

MIB = 2**20


@dataclass(frozen=True)
class Batches:
    """This replica's share of each global batch."""

    train: Loader
    validation: Loader


def train(
    plan: Plan,
    config: Config,
    replica: Replica,
    batches: Batches,
    observers: Sequence[Observer] = (),
    start_step: int = 0,
    watch: Watch | None = None,
    saver: Saver | None = None,
) -> int:
    """Train from update ``start_step + 1`` to ``config.train.steps``; the same call on every rank.

    Every record that is due goes to ``observers``; only the caller on the rank that keeps records
    passes any. ``watch`` surrounds every step, and may end the run early. ``saver`` saves
    the checkpoints that are due, and one where the run ends early.

    Returns:
        The last step made: ``config.train.steps`` unless ``watch`` asked to stop.
    """
    steps, context = config.train.steps, replica.context
    stopwatch, watch = _Stopwatch(context.device), watch or Unwatched()
    skipped = 0
    for step in range(start_step + 1, steps + 1):
        rate = learning_rate(config.optim, step, steps)
        watch.begin(step)
        batch = _on_device(batches.train.batch(watch.batch_of(step)), context.device)
        with stopwatch.computing():
            loss = replica.pipeline.run(batch)
        update = replica.zero.step(rate)
        stop = watch.end(step, batch, rate, update)
        stopwatch.steps += 1
        skipped += update.skipped

        evaluates = _evaluates(config, step)
        if evaluates or stop or step == steps or step % config.train.log_every == 0:
            shared = _share(context, loss, stopwatch.lap(), stopwatch.busy_s(), stopwatch.paused_s)
            val_loss = evaluate(config, replica, batches.validation) if evaluates else None
            samples = batches.train.position(watch.batch_of(step) + 1)
            record = _record(plan, config, context, step, samples, rate, update, skipped, shared, val_loss)
            for observe in observers:
                observe(record)
            skipped = 0
            if watch.logged(step, shared.loss):
                return step
            stopwatch.restart()
        if saver is not None and (stop or saver.due(step, steps)):
            # After the record: a run that goes on from here has one of every step.
            stopwatch.pause(saver.save(step, batches.train.position(watch.batch_of(step) + 1), replica.zero))
        if stop:
            return step
    return steps


def evaluate(config: Config, replica: Replica, validation: Loader) -> float:
    """Mean loss over the first ``train.eval_batches`` global batches of the validation split.

    The same samples every time and in every layout. The same number on every rank.
    """
    context = replica.context
    total = torch.zeros((), dtype=torch.float64, device=context.device)
    for step in range(config.train.eval_batches):
        total += replica.pipeline.evaluate(_on_device(validation.batch(step), context.device)).double()
    return _share(context, total / config.train.eval_batches, 0.0, 0.0, 0.0).loss


def _evaluates(config: Config, step: int) -> bool:
    every = config.train.eval_every
    due = step == config.train.steps or (every > 0 and step % every == 0)
    return due and config.train.eval_batches > 0


def _on_device(batch: Batch, device: torch.device) -> Batch:
    return Batch(batch.tokens.to(device, non_blocking=True), batch.samples.to(device, non_blocking=True))


class _Stopwatch:
    """Seconds per step, with what is neither step nor data (evaluation, records) left out."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.steps = 0
        self.restart()

    def pause(self, seconds: float) -> None:
        """Take note that training stood still for so long, for a checkpoint."""
        self.paused_s += seconds
        self._started += seconds

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Around the forward and backward passes of a step, the parts that a slow GPU takes longer for."""
        if self._device.type != "cuda":
            yield
            return
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        yield
        end.record()
        self._passes.append((begin, end))

    def busy_s(self) -> float:
        """Mean seconds per step that this rank worked since the last restart; after `lap`.

        On a CPU the processor time of the training thread: it waits for others asleep. On a GPU, where
        waiting looks like work, the time from the first to the last kernel of the passes.
        """
        if self._device.type != "cuda":
            return (time.thread_time() - self._worked) / self.steps
        milliseconds = sum(float(begin.elapsed_time(end)) for begin, end in self._passes)
        return milliseconds / 1e3 / self.steps

    def restart(self) -> None:
        self.steps = 0
        self._passes: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._worked = time.thread_time()
        self.paused_s = 0.0
        self._started = time.perf_counter()

    def lap(self) -> float:
        """Mean seconds per step since the last restart, all queued work included."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return (time.perf_counter() - self._started) / self.steps


@dataclass(frozen=True)
class _Shared:
    """What every rank knows after the one small exchange of a logged step."""

    loss: float
    step_time_s: float
    busy_s: tuple[float, ...]
    checkpoint_s: float
    memory_mib: tuple[float, ...]


def _share(
    context: ParallelContext, loss: torch.Tensor, step_time_s: float, busy_s: float, checkpoint_s: float
) -> _Shared:
    """Bring each rank's loss, times and peak memory together: one all-reduce of a small table."""
    table = torch.zeros(context.dims.world, 5, dtype=torch.float64)
    table[context.rank] = torch.tensor(
        [loss.item(), step_time_s, busy_s, checkpoint_s, peak_bytes(context.device) / MIB],
        dtype=torch.float64,
    )
    table = table.to(context.device)
    if context.world.group is not None:
        dist.all_reduce(table, group=context.world.group)
    losses, times, busy, waits, memory = table.cpu().unbind(1)
    # Ranks without the last stage count zero; those with it are one per tp, cp and dp coordinate.
    holders = context.dims.tp * context.dims.cp * context.dims.dp
    return _Shared(
        losses.sum().item() / holders,
        times.max().item(),
        tuple(busy.tolist()),
        waits.max().item(),
        tuple(memory.tolist()),
    )


def _record(
    plan: Plan,
    config: Config,
    context: ParallelContext,
    step: int,
    samples: int,
    rate: float,
    update: Update,
    skipped: int,
    shared: _Shared,
    val_loss: float | None,
) -> StepRecord:
    world = plan.dims.world
    tokens_per_step = plan.global_batch * plan.model.seq
    peak = world * plan.cluster.device.peak_tflops[config.precision.dtype] * 1e12
    flops = model_flops(plan.model, tokens_per_step)
    slow = straggler(shared.busy_s, context.dims, shared.step_time_s)
    return StepRecord(
        step=step,
        time=time.time(),
        loss=shared.loss,
        perplexity=perplexity(shared.loss),
        lr=rate,
        grad_norm=update.grad_norm,
        loss_scale=update.loss_scale,
        skipped=skipped,
        step_time_s=shared.step_time_s,
        tokens_per_s=tokens_per_step / shared.step_time_s,
        tokens_per_s_per_device=tokens_per_step / shared.step_time_s / world,
        mfu=flops / (peak * shared.step_time_s),
        samples=samples,
        tokens=samples * plan.model.seq,
        checkpoint_s=shared.checkpoint_s,
        busy_s=shared.busy_s,
        straggler=None if slow is None else slow.rank,
        straggler_share=None if slow is None else slow.share,
        memory_kind=memory_kind(context.device),
        memory_mib=shared.memory_mib,
        memory_mib_max=max(shared.memory_mib),
        val_loss=val_loss,
        val_perplexity=None if val_loss is None else perplexity(val_loss),
        predicted_step_time_s=plan.time.step if plan.time.terms else None,
        predicted_memory_mib=_predicted_memory(plan),
    )


def _predicted_memory(plan: Plan) -> tuple[float, ...] | None:
    if not plan.memory:
        return None
    # What is measured is all of a process on a CPU, but tensors alone on a CUDA device.
    whole = plan.cluster.device.kind is DeviceKind.cpu
    stages = [(stage.total if whole else allocated(stage)) / MIB for stage in plan.memory]
    return tuple(stages[plan.dims.coordinates(rank).pp] for rank in range(plan.dims.world))
