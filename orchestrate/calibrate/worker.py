"""One rank of a calibration: ``python -m orchestrate.calibrate.worker FOLDER``, started by a launcher."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
import yaml

from orchestrate import config as configs
from orchestrate.calibrate import cases, samples
from orchestrate.calibrate.clock import Clock
from orchestrate.calibrate.compute import operator, product, whole_pass
from orchestrate.calibrate.links import Links
from orchestrate.calibrate.progress import write_progress
from orchestrate.calibrate.samples import Case, Exchange, Samples
from orchestrate.config import Config, ZeroBackend
from orchestrate.mesh import ParallelContext, build_context
from orchestrate.parallel.zero import parameter_dtype
from orchestrate.plan import plan as plans
from orchestrate.plan.layout import ParallelDims
from orchestrate.plan.plan import Plan
from orchestrate.train.process import Process, leave, on_terminate, report_failure
from orchestrate.train.setup import seed_everything

WRITER = 0
"""The rank that keeps the samples."""
SAMPLES_FILE = "samples.json"
_LONGEST_EXCHANGE_S = 1.0
"""An exchange of a kind that took longer is not measured at greater sizes."""

Measured = TypeVar("Measured", bound=Case)


@dataclass
class _Progress:
    """How much has been measured, for whoever watches the folder."""

    folder: Path
    total: int
    shows: bool
    done: int = 0

    def next(self, label: str) -> None:
        if self.shows:
            write_progress(self.folder, self.done, self.total, label)
        self.done += 1


def measure(plan: Plan, config: Config, context: ParallelContext, folder: Path) -> Samples:
    """Measure every case of the plan's cluster; collective, and the same result on every rank."""
    device, dtype = context.device, parameter_dtype(plan, config.precision)
    cluster, kind = plan.cluster, config.precision.dtype
    reserved = _reserved(config, context)
    products = cases.products(plan.model, cluster.device, kind)
    operators = cases.operators(cluster.device)
    passes = cases.passes(plan.model, cluster.device, kind, cluster.nvlink_domain)
    cut = {tp: _cut(plan, tp, device) for tp in dict.fromkeys(case.tp for case in passes)}
    exchanges = cases.exchanges(cluster, plan.placement)
    links = Links(exchanges, device)
    clock = Clock(device, config.calibrate.seconds)
    total = len(products) + len(operators) + len(passes) + len(exchanges)
    progress = _Progress(folder, total, context.rank == WRITER)

    def timed(
        of: Iterable[Measured], action: Callable[[Measured], Callable[[], object] | None]
    ) -> list[Measured]:
        found = []
        for case in of:
            progress.next(_label(case))
            found.append(replace(case, seconds=clock.measure(action(case))))
        return found

    def exchanged() -> list[Exchange]:
        found: list[Exchange] = []
        slow: set[tuple[object, ...]] = set()
        for case in exchanges:
            progress.next(_label(case))
            if (series := (case.kind, case.link, case.groups)) in slow:
                continue
            seconds = clock.measure(links.action(case)) / (2 if case.kind == "send" else 1)
            found.append(replace(case, seconds=seconds))
            if seconds > _LONGEST_EXCHANGE_S:
                slow.add(series)
        return found

    timed_products = timed(products, lambda case: product(case, dtype, device))
    return Samples(
        products=tuple(timed_products),
        operators=tuple(timed(operators, lambda case: operator(case, dtype, device))),
        passes=tuple(timed(passes, lambda case: whole_pass(case, plan, cut[case.tp], dtype))),
        exchanges=tuple(exchanged()),
        reserved_bytes=reserved,
        multiprocessors=_multiprocessors(device),
        device=_name(device),
        crowding=_crowding(timed_products, clock, dtype, context),
    )


def _cut(plan: Plan, tp: int, device: torch.device) -> ParallelContext:
    """Every ``tp`` ranks in a row as a tensor-parallel group."""
    return build_context(replace(plan, dims=ParallelDims(tp=tp, dp=plan.dims.world // tp)), device)


def _label(case: Case) -> str:
    match case:
        case samples.Product(m, k, n):
            return f"product {m} x {k} x {n}"
        case samples.Operator(name, size):
            return f"{name} of {size / 1024:.0f} KiB"
        case samples.Pass():
            return f"GPT of width {case.hidden} on {case.tp} ranks, {case.micro_batch} x {case.seq} tokens"
        case samples.Exchange():
            return f"{case.kind} of {case.size / 1024:.3g} KiB over {case.link}, {len(case.groups[0])} ranks"


def _crowding(
    products: list[samples.Product], clock: Clock, dtype: torch.dtype, context: ParallelContext
) -> float:
    """How much longer a product takes while all ranks are busy than while one is."""
    if context.world.size == 1 or not products:
        return 1.0
    longest = max(products, key=lambda case: case.seconds)
    alone = clock.measure(product(longest, dtype, context.device) if context.rank == WRITER else None)
    return max(1.0, longest.seconds / alone)


def _reserved(config: Config, context: ParallelContext) -> int:
    """Bytes taken on this device before the first tensor, the largest over ranks."""
    if context.device.type == "cuda":
        free, total = torch.cuda.mem_get_info(context.device)
        mine = total - free - torch.cuda.memory_reserved(context.device)
    else:
        mine = _resident_after_imports(config)
    largest = torch.tensor([mine], dtype=torch.int64, device=context.device)
    if context.world.group is not None:
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return int(largest.item())


def _resident_after_imports(config: Config) -> int:
    """Bytes of this process with all that training loads: as `memory_kind` counts them on a CPU."""
    from orchestrate.train.memory import resident_bytes

    if config.zero.engine is ZeroBackend.deepspeed and config.zero.stage != 0:
        import deepspeed  # noqa: F401
    return resident_bytes()


def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def main(folder: Path) -> None:
    """Measure the cluster whose config and plan are in ``folder``, and end the process."""
    process = Process.from_environment()
    on_terminate(lambda: None)
    try:
        config = configs.load(yaml.safe_load((folder / "config.yaml").read_text()))
        plan = plans.load(folder / "plan.yaml")
        device = process.device(plan.cluster.device.kind)
        process.join(plan, device)
        context = build_context(plan, device)
        seed_everything(0, device)
        found = measure(plan, config, context, folder)
        if context.rank == WRITER:
            samples.save(found, folder / SAMPLES_FILE)
        # Nobody leaves while another still reads what it sent.
        dist.barrier()
    except BaseException as error:
        status = report_failure(error, process, folder)
        leave(status)
    leave(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
