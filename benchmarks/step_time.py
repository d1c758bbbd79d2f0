"""Time, traffic and memory of one training step, as one JSON line.

    python benchmarks/step_time.py --tp 2 --pp 2 --dp 2 --steps 10

A GPT-2-like model on fixed random tokens, the whole of the toolkit's own step: pipeline, gradient
reduction, clipping off, AdamW. Run as root on Linux, the ranks live in a private network namespace,
so that the bytes counted on its loopback are theirs alone; elsewhere the bytes are null.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ISOLATED = "STEP_TIME_ISOLATED"


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, default, text in (
        ("tp", 1, "tensor-parallel degree"),
        ("pp", 1, "pipeline stages"),
        ("dp", 1, "replicas"),
        ("vpp", 0, "virtual stages per rank; 0: what the schedule wants"),
        ("steps", 10, "steps measured"),
        ("warmup", 3, "steps before"),
        ("layers", 8, "transformer layers"),
        ("hidden", 256, "hidden size"),
        ("heads", 8, "attention heads"),
        ("seq", 256, "tokens per sequence"),
        ("vocab", 8192, "vocabulary"),
        ("mbs", 2, "sequences per micro-batch"),
        ("n-micro", 8, "micro-batches per replica"),
        ("threads", 1, "CPU threads per rank"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} (default {default})")
    parser.add_argument("--zero", type=int, default=0, choices=range(4), help="ZeRO stage (default 0)")
    parser.add_argument("--engine", default="deepspeed", choices=["deepspeed", "fsdp2"])
    parser.add_argument("--schedule", default="1f1b", choices=["gpipe", "1f1b", "interleaved", "zbv"])
    parser.add_argument("--recompute", default="none", choices=["none", "selective", "full"])
    parser.add_argument("--sp", action="store_true", help="sequence parallelism")
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "bf16"])
    return parser.parse_args(argv)


def isolate() -> None:
    """Go on in a network namespace of our own, where this process may make one."""
    if os.environ.get(ISOLATED) or sys.platform != "linux" or os.geteuid() != 0:
        return
    script = 'ip link set lo up; exec "$0" "$@"'
    os.environ[ISOLATED] = "1"
    os.execvp("unshare", ["unshare", "-n", "sh", "-c", script, sys.executable, *sys.argv])


def launch(args: argparse.Namespace) -> int:
    """Plan, start the ranks, print what rank 0 wrote."""
    import yaml

    from launchers.local import launch as start
    from orchestrate import config as configs
    from orchestrate.checks import check
    from orchestrate.plan import plan as plans
    from orchestrate.plan.search.search import search

    config = configs.load(_config(args))
    check(config)
    plan = search(config)
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder)
        (run_dir / "config.yaml").write_text(yaml.safe_dump(configs.dump(config)))
        plans.save(plan, run_dir / "plan.yaml")
        arguments = [str(args.warmup), str(args.steps)]
        status = start(plan, config, run_dir, module=Path(__file__).stem, arguments=arguments)
        if status == 0:
            print((run_dir / "result.json").read_text(), flush=True)
    return status


def _config(args: argparse.Namespace) -> dict[str, Any]:
    # The links' figures steer no choice here: every degree is pinned.
    link = {"bandwidth_gbps": 1.0, "latency_us": 100.0}
    return {
        "cluster": {
            "name": "benchmark",
            "nodes": 1,
            "gpus_per_node": args.tp * args.pp * args.dp,
            "device": {
                "name": "cpu",
                "kind": "cpu",
                "memory_gib": 64,
                "memory_bandwidth_gbps": 10,
                "peak_tflops": {"fp32": 0.1, "bf16": 0.1},
            },
            "nvlink": link,
            "network": link,
        },
        "model": {
            "name": "benchmark",
            "layers": args.layers,
            "hidden": args.hidden,
            "heads": args.heads,
            "ffn_hidden": 4 * args.hidden,
            "vocab": args.vocab,
            "seq": args.seq,
            "tied_embeddings": False,
        },
        "data": {"source": {"kind": "stdlib"}},
        "parallel": {
            "tp": args.tp,
            "pp": args.pp,
            "dp": args.dp,
            "vpp": args.vpp or "auto",
            "micro_batch": args.mbs,
            "schedule": args.schedule,
            "sequence_parallel": args.sp,
        },
        "zero": {"stage": args.zero, "engine": args.engine},
        "recompute": {"mode": args.recompute},
        "precision": {"dtype": args.dtype},
        "optim": {"lr": 1e-3, "weight_decay": 0.01, "betas": [0.9, 0.999]},
        "train": {"global_batch": args.dp * args.n_micro * args.mbs, "clip": 0.0},
        "launcher": {"threads": args.threads},
        "tracking": {"mode": "off"},
    }


def work(run_dir: Path, warmup: int, steps: int) -> None:
    """One rank: train ``warmup + steps`` steps; logical rank 0 writes the result."""
    import torch
    import torch.distributed as dist
    import yaml

    from orchestrate import config as configs
    from orchestrate.data.loader import Batch
    from orchestrate.mesh import build_context
    from orchestrate.plan import plan as plans
    from orchestrate.train.process import Process
    from orchestrate.train.setup import build_replica

    config = configs.load(yaml.safe_load((run_dir / "config.yaml").read_text()))
    plan = plans.load(run_dir / "plan.yaml")
    process = Process.from_environment()
    device = process.device(plan.cluster.device.kind)
    process.join(plan, device)
    context = build_context(plan, device)
    replica = build_replica(plan, config, context)
    samples = plan.global_batch // plan.dims.dp
    generator = torch.Generator().manual_seed(1234 + context.dp.rank)
    tokens = torch.randint(0, plan.model.vocab, (samples, plan.model.seq + 1), generator=generator)
    first = context.dp.rank * samples
    batch = Batch(tokens, torch.arange(first, first + samples))

    times, losses = [], []
    sent_before, cpu_before = 0, 0.0
    for step in range(warmup + steps):
        if step == warmup:
            dist.barrier()
            _forget_peak()
            sent_before, cpu_before = _sent(), _cpu()
            dist.barrier()
        started = time.perf_counter()
        loss = replica.pipeline.run(batch)
        replica.zero.step(config.optim.lr)
        dist.barrier()
        if step >= warmup:
            times.append(time.perf_counter() - started)
        losses.append(loss.item())
    mine = {
        "sent": _sent() - sent_before,
        "cpu": (_cpu() - cpu_before) / steps,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "step_peak": _peak(),
        "losses": losses,
        "parameters": sum(p.numel() for stage in replica.stages for p in stage.parameters()),
    }
    everyone: list[dict[str, Any]] = [{} for _ in range(plan.dims.world)]
    dist.all_gather_object(everyone, mine)
    if context.rank == 0:
        # Ranks without the last stage report a loss of zero.
        holders = plan.dims.tp * plan.dims.dp
        mean = [round(sum(rank["losses"][i] for rank in everyone) / holders, 4) for i in range(len(losses))]
        median = statistics.median(times)
        tokens_per_step = plan.global_batch * plan.model.seq
        result = {
            "bench": f"orchestrate-z{plan.zero_stage}-{plan.schedule.value}",
            "tp": plan.dims.tp,
            "pp": plan.dims.pp,
            "dp": plan.dims.dp,
            "dtype": config.precision.dtype.value,
            "world": plan.dims.world,
            "median_s": round(median, 4),
            "min_s": round(min(times), 4),
            "max_s": round(max(times), 4),
            "tokens_per_step": tokens_per_step,
            "tok_s": round(tokens_per_step / median, 1),
            "cpu_s_per_step_all_ranks": round(sum(rank["cpu"] for rank in everyone), 3),
            "lo_mib_per_step": round(mine["sent"] / steps / 2**20, 2) if os.environ.get(ISOLATED) else None,
            "peak_rss_mib": [round(rank["peak"]) for rank in everyone],
            "step_rss_mib": [round(rank["step_peak"]) for rank in everyone],
            "losses": mean[:4] + mean[-1:],
            "nparams": [rank["parameters"] for rank in everyone],
            "steps": steps,
            "torch": torch.__version__,
        }
        (run_dir / "result.json").write_text(json.dumps(result))
    dist.barrier()


def _cpu() -> float:
    spent = os.times()
    return spent.user + spent.system


def _sent() -> int:
    """Bytes sent on this network namespace's loopback so far."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "lo":
            return int(counters.split()[8])
    return 0


def _forget_peak() -> None:
    # Writing 5 resets the kernel's high-water mark of this process's resident memory.
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak() -> float:
    """High-water mark of resident memory, MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    if "ORCHESTRATE_HOST" in os.environ:
        work(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    else:
        options = parse(sys.argv[1:])
        isolate()
        sys.exit(launch(options))
