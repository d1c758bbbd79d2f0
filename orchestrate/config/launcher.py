"""The keys of ``launcher``: where the processes of a run start, and what a scheduler is asked for.

Part of `orchestrate.config`, from where the rest of the code takes it. Every key is told about in
docs/slurm.md as well.
"""

from __future__ import annotations

import dataclasses
from enum import Enum


class LauncherKind(str, Enum):
    local = "local"
    slurm = "slurm"
    torchrun = "torchrun"
    kubernetes = "kubernetes"


class ContainerRuntime(str, Enum):
    pyxis = "pyxis"
    apptainer = "apptainer"


class KubernetesResource(str, Enum):
    job = "job"
    pytorchjob = "pytorchjob"


@dataclasses.dataclass(frozen=True)
class KubernetesConfig:
    """What the manifest of launcher=kubernetes says beyond the plan; docs/slurm.md."""

    resource: KubernetesResource = KubernetesResource.job
    """An indexed Job of Kubernetes itself, or a PyTorchJob of the Kubeflow training operator."""
    namespace: str | None = None
    """Null: the one that kubectl is set to."""
    claim: str | None = None
    """The persistent volume claim that holds the run's folder, for all nodes to read and write."""
    mount: str = "/shared"
    """Where the pods see that claim."""
    gpu: str = "nvidia.com/gpu"
    """What the cluster calls a GPU."""
    shared_memory_gib: float = 16.0
    """Of /dev/shm, which processes of one node talk through; counts as the pod's memory."""
    service_account: str | None = None
    """Whose rights the pods have; null: the namespace's default."""
    secret: str | None = None
    """A Secret whose entries become variables of the pods, as WANDB_API_KEY."""
    node_selector: dict[str, str] = dataclasses.field(default_factory=dict)
    """Labels that the nodes must have."""
    port: int = 29400
    """Where the pods of a run meet."""
    retries: int = 3
    """How often a failed pod is started again."""


@dataclasses.dataclass(frozen=True)
class LauncherConfig:
    kind: LauncherKind = LauncherKind.local
    """What starts the processes; launcher=slurm sets it."""
    threads: int | None = None
    """CPU threads per rank; null: the machine's cores shared evenly, at least one."""
    grace_s: float = 60.0
    """Seconds that ranks which were asked to stop get to finish the step and save."""
    dry_run: bool = False
    """Print what would be submitted or started, and leave nothing behind."""
    wait: bool = False
    """Return only when the job has ended, with its exit code."""

    partition: str | None = None
    """Null: the site's default one."""
    account: str | None = None
    """Whom the time is charged to."""
    qos: str | None = None
    """Quality of service."""
    time: str | None = None
    """Time limit as hours:minutes:seconds or days-hours:minutes:seconds, in quotes where a YAML file holds
    it; null: the partition's own."""
    constraint: str | None = None
    """Features that the nodes must have, in Slurm's words, as in h100&nvlink."""
    reservation: str | None = None
    """One that somebody has made for you."""
    nodelist: str | None = None
    """Nodes that must be among those of the job, as in node3,node[07-09]."""
    exclude: str | None = None
    """Nodes that the job must not get, written alike."""
    exclusive: bool = True
    """Whether the job's nodes are its own, with all their memory; false: others may share them."""
    memory: str | None = None
    """Of a node, as in 900G; null: all of it where exclusive, otherwise the partition's own."""
    cpus_per_task: int | None = None
    """Processors to ask for per rank; null: all of a node where exclusive, otherwise Slurm's one."""
    request_gpus: bool | None = None
    """Whether to ask for --gpus-per-node; null: where the cluster's devices are GPUs. False for sites
    without that option; what they want instead goes into launcher.extra, as in ["--gres=gpu:h100:8"]."""
    switches: int | None = None
    """How many leaf switches the nodes may hang on; null: as many as the plan counted on, 0: any."""
    switches_wait: str | None = None
    """Longest wait for that, as in 2:00:00; null: the site's own limit (Slurm: 5 minutes)."""
    extra: tuple[str, ...] = ()
    """More options of sbatch, one #SBATCH line each, as in ["--mail-type=END"], and in place of those
    above where both say something."""

    signal_s: int = 120
    """Seconds before the time limit at which the job is told to save; Slurm may be up to 60 s early."""
    requeue: bool = True
    """Whether the job is put back in the queue when a node fails, it is preempted, or its time is up."""
    chain: int = 1
    """Jobs submitted at once for one run, each to begin when the one before has ended; 1: no chain."""
    spare_nodes: int = 0
    """Nodes asked for beyond the plan's, to take the place of those that fail the preflight or training."""
    replan: bool = False
    """Whether to plan anew for the nodes that Slurm gave, where no placement on them equals the plan's;
    false: stop, and show both maps."""
    preflight: bool = True
    """Whether every node is checked before training."""
    preflight_bandwidth: float = 0.5
    """Least share of the bandwidth in the cluster file that a link must reach in the preflight; 0: links
    are not measured."""
    preflight_disk_gib: float = 1.0
    """Least free space in the run's folder and in /tmp of every node."""
    preflight_clock_s: float = 5.0
    """Most that the clocks of two nodes may differ."""
    preflight_timeout_s: float = 180.0
    """Longest that the preflight may take; nodes that have not answered then are bad."""

    modules: tuple[str, ...] = ()
    """Environment modules to load, after module purge."""
    source: tuple[str, ...] = ()
    """Shell files to source before anything else, for what a site needs that no other key says."""
    venv: str | None = None
    """Folder of the virtual environment that the job runs in; null: the one that submits."""
    python: str | None = None
    """The interpreter; null: that of launcher.venv, or the one that submits."""
    env: dict[str, str] = dataclasses.field(default_factory=dict)
    """Variables that the job and its ranks get, as in launcher.env.NCCL_DEBUG=INFO. Secrets stay in the
    environment that submits, or in files of their own such as ~/.netrc."""
    interface: str | None = None
    """Network interface of NCCL and gloo and of the rendezvous, as in ib0; null: they find one."""
    cpu_bind: str | None = None
    """How srun binds ranks to processors, in its own words; null: each to those next to its device, none: not
    at all."""
    srun: tuple[str, ...] = ()
    """More options of the srun that starts the ranks."""
    container: str | None = None
    """Image that the ranks run in: for pyxis as in nvcr.io#nvidia/pytorch:25.01-py3 or a .sqsh file, for
    apptainer a .sif file or docker://…; null: no container."""
    container_runtime: ContainerRuntime = ContainerRuntime.pyxis
    """What starts the image: srun's plug-in pyxis (with enroot), or apptainer."""
    container_python: str = "python3"
    """The interpreter in the container."""
    container_mounts: tuple[str, ...] = ()
    """Folders that the container sees, as FROM or FROM:TO; the run's folder and the data's are always
    among them."""

    array: bool = True
    """With -m: whether runs of one size become one job array; false: a job each."""
    array_limit: int | None = None
    """Most runs of a job array that go at the same time; null: as many as there is room for."""

    rendezvous: str | None = None
    """torchrun: HOST:PORT of the first node; null: this machine alone."""
    kubernetes: KubernetesConfig = KubernetesConfig()
