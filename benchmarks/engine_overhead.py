"""What the Python of each ZeRO engine costs the host, in operators' worth of time.

    python benchmarks/engine_overhead.py

Trains a model so small that the host is all there is, on one rank, with few and with many layers and
micro-batches, and solves for what a further layer costs each micro-batch and each update. An operator is what
the planner counts as one: a layer's two passes without an engine are `LAYER_OPERATORS`. The figures of
`orchestrate/plan/time/engines.py` are from here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from itertools import product
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from orchestrate.config import DeviceConfig, DeviceKind, DType, ModelConfig, ZeroBackend
from orchestrate.plan.time.layer import layer_work
from orchestrate.plan.time.operators import processor
from orchestrate.plan.time.traits import TRAITS
from orchestrate.plan.toolkits import Toolkit

MODEL = ModelConfig(
    "host", layers=4, hidden=16, heads=2, ffn_hidden=16, vocab=32, seq=4, dropout=0.0, attention_dropout=0.0
)
LAYERS, MICRO_BATCHES = (4, 12), (1, 4)
STEPS = 40
ENGINES = [
    (ZeroBackend.deepspeed, 0),
    *product(ZeroBackend, (1, 2, 3)),
]
"""Stage 0 is the same whatever the engine."""


class Seconds(NamedTuple):
    """Of the fastest of `STEPS`."""

    passes: float
    update: float


def main() -> None:
    """Measure every engine and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        engine, *numbers = options.case.split(",")
        print(json.dumps(train(ZeroBackend(engine), *map(int, numbers))))
        return
    console = Console(stderr=True)
    found = {}
    with console.status("") as status:
        for engine, stage in ENGINES:
            status.update(f"{engine.value} {stage}")
            found[engine, stage] = {
                (layers, micro): measure(engine, stage, layers, micro)
                for layers, micro in product(LAYERS, MICRO_BATCHES)
            }
    Console().print(table(found))


def measure(engine: ZeroBackend, stage: int, layers: int, micro_batches: int) -> Seconds:
    """`train` in a process of its own: DeepSpeed keeps what it was told in its modules."""
    case = f"{engine.value},{stage},{layers},{micro_batches}"
    argv, environment = [sys.executable, __file__, "--case", case], {**os.environ, "LOCAL_RANK": "0"}
    ended = subprocess.run(argv, env=environment, stdout=subprocess.PIPE, check=True)
    return Seconds(*json.loads(ended.stdout.splitlines()[-1]))


def train(engine: ZeroBackend, stage: int, layers: int, micro_batches: int) -> Seconds:
    """Train on this process alone."""
    import torch
    import torch.distributed as dist

    from orchestrate.cli.compose import Source, jobs
    from orchestrate.cli.job import build
    from orchestrate.commands.planning import make_plan
    from orchestrate.data.loader import Batch
    from orchestrate.mesh import build_context
    from orchestrate.train.setup import build_replica, seed_everything

    overrides = ["cluster=local_cpu", "cluster.gpus_per_node=1", "model=gpt_tiny", "precision=fp32"]
    overrides += ["data=stdlib", f"train.global_batch={micro_batches}", "parallel.micro_batch=1"]
    overrides += [f"zero.engine={engine.value}", f"zero.stage={stage}", "parallel.dp=1"]
    config = build(Source(), jobs(Source(), overrides, multirun=False)[0])
    config = replace(config, model=replace(MODEL, layers=layers))
    plan, device = make_plan(config), torch.device("cpu")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    context = build_context(plan, device)
    seed_everything(config.train.seed, device)
    replica = build_replica(plan, config, context)
    passes, update = [], []
    for _ in range(STEPS):
        tokens = torch.randint(MODEL.vocab, (micro_batches, MODEL.seq + 1))
        batch = Batch(tokens, torch.arange(micro_batches))
        began = time.perf_counter()
        replica.pipeline.run(batch)
        between = time.perf_counter()
        replica.zero.step(1e-3)
        passes.append(between - began)
        update.append(time.perf_counter() - between)
    return Seconds(min(passes), min(update))


def table(found: dict[tuple[ZeroBackend, int], dict[tuple[int, int], Seconds]]) -> Table:
    """A row for each engine."""
    few, many = LAYERS
    plain = found[ENGINES[0]]
    operator = layer_seconds(plain) / layer_operators()
    shown = Table(title=f"in operators, each {operator * 1e6:.1f} us on this host")
    for column in ("engine", "a layer's passes", "a layer's update", "an update besides"):
        shown.add_column(column, justify="left" if column == "engine" else "right")
    for (engine, stage), times in found.items():
        passes = layer_seconds(times) - layer_seconds(plain)
        update = (times[many, 1].update - times[few, 1].update) / (many - few)
        rest = times[few, 1].update - few * update
        name = f"{engine.value} {stage}" if stage else "none"
        shown.add_row(name, *(f"{seconds / operator:.0f}" for seconds in (passes, update, rest)))
    return shown


def layer_seconds(times: dict[tuple[int, int], Seconds]) -> float:
    """What a further layer costs a further micro-batch."""
    (few, many), (once, more) = LAYERS, MICRO_BATCHES
    passes = {case: seconds.passes for case, seconds in times.items()}
    deep, shallow = passes[many, more] - passes[many, once], passes[few, more] - passes[few, once]
    return (deep - shallow) / (many - few) / (more - once)


def layer_operators() -> float:
    """Of both passes of a layer, as the planner counts them."""
    device = processor(DeviceConfig("host", DeviceKind.cpu, 1, 1, {DType.fp32: 1}), DType.fp32)
    work = layer_work(device, MODEL, TRAITS[Toolkit.orchestrate], 1, 1, 1, False)
    return work.forward.operators + work.backward.operators


if __name__ == "__main__":
    main()
