"""The batch scripts that are kept as files, so that a change of what is submitted shows in a review; ``make
golden`` writes them anew."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve().parent

COMMON = (
    "launcher=slurm",
    "launcher.dry_run=true",
    "launcher.python=/opt/orchestrate/bin/python",
    "tracking=off",
)


def layout(**degrees: int) -> tuple[str, ...]:
    """Pinned, so that a script does not change with what the planner thinks best."""
    return tuple(f"parallel.{axis}={degree}" for axis, degree in degrees.items())


SCRIPTS: dict[str, tuple[str, ...]] = {
    # What nobody set: the fewest lines.
    "two_node_cpu": ("experiment=quickstart", "run.dir=/shared/runs/quickstart"),
    # A job array.
    "two_node_cpu_sweep": (
        "-m",
        "experiment=quickstart",
        "run.dir=/shared/runs/sweep",
        "optim.lr=1e-3,2e-3,4e-3",
        "launcher.partition=short",
        "launcher.time=0:30:00",
        "launcher.array_limit=2",
    ),
    # A container, a chain of jobs, spare nodes.
    "dgx_h100": (
        "cluster=dgx_h100",
        *layout(tp=8, pp=1, dp=16),
        "cluster.nodes=16",
        "model=llama3_8b",
        "train.global_batch=512",
        "run.dir=/lustre/runs/llama 8b",
        "launcher.partition=batch",
        "launcher.time=4:00:00",
        "launcher.chain=5",
        "launcher.spare_nodes=1",
        "launcher.container=nvcr.io#nvidia/pytorch:25.01-py3",
        "launcher.env.NCCL_DEBUG=WARN",
    ),
    # A network whose leaf switches matter, a reservation, named nodes.
    "dgx_h100_oversubscribed": (
        "cluster=dgx_h100_oversubscribed",
        *layout(tp=8, pp=2, dp=32),
        "model=llama3_70b",
        "train.global_batch=1024",
        "run.dir=/lustre/runs/llama70b",
        "launcher.reservation=big",
        "launcher.exclude=node[003-004],node017",
        "launcher.switches_wait=2:00:00",
        "launcher.signal_s=300",
    ),
    # Modules, an account, a constraint, and GPUs asked for in the site's own way.
    "jean_zay_a100": (
        "cluster=jean_zay_a100",
        *layout(tp=8, pp=1, dp=4),
        "cluster.nodes=4",
        "model=llama3_8b",
        "train.global_batch=256",
        "run.dir=/lustre/work/runs/llama8b",
        "launcher.account=abc@a100",
        "launcher.constraint=a100&nvlink",
        "launcher.qos=qos_gpu_a100-t3",
        "launcher.time=20:00:00",
        "launcher.cpus_per_task=8",
        "launcher.request_gpus=false",
        "launcher.source=[/etc/profile.d/modules.sh]",
        "launcher.modules=[cuda/12.8,nccl/2.25]",
        "launcher.venv=/lustre/work/venv",
        "launcher.python=null",
        'launcher.extra=["--gres=gpu:8","--hint=nomultithread","--mail-type=END"]',
    ),
    # Nodes that are shared with others, an interface of its own, no requeueing.
    "perlmutter_a100": (
        "cluster=perlmutter_a100",
        *layout(tp=4, pp=1, dp=8),
        "cluster.nodes=8",
        "model=gpt3_1p3b",
        "train.global_batch=512",
        "run.dir=/pscratch/runs/gpt",
        "launcher.account=m1234_g",
        "launcher.constraint=gpu&hbm40g",
        "launcher.qos=regular",
        "launcher.time=1-00:00:00",
        "launcher.exclusive=false",
        "launcher.memory=200G",
        "launcher.interface=hsn0",
        "launcher.requeue=false",
        'launcher.extra=["--comment=what we\'d like, \\"quoted\\"  # and not a comment"]',
    ),
    # Four GPUs a node, and NVLink across nodes.
    "gb200_nvl72": (
        "cluster=gb200_nvl72",
        *layout(tp=4, pp=2, dp=9),
        "model=llama3_70b",
        "train.global_batch=576",
        "run.dir=/shared/runs/llama70b",
        "launcher.partition=gb200",
    ),
}
"""What is typed after ``orchestrate submit`` and `COMMON`, by the file that holds what comes out."""


def golden(name: str) -> Path:
    """The file that keeps the script ``name``."""
    return HERE / f"{name}.sbatch"
