"""The manifest of a run for Kubernetes: an indexed Job, or a PyTorchJob of the Kubeflow training operator.

It is rendered and checked, and handed to nobody: ``kubectl apply`` does that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from launchers import torchrun
from launchers.ranks import devices_per_node, nodes_of
from launchers.text import Written, template
from orchestrate.config import Config, DeviceKind, KubernetesResource
from orchestrate.errors import ConfigError
from orchestrate.plan.plan import Plan

MANIFEST_FILE = "kubernetes.yaml"
TEMPLATE = "kubernetes.yaml.j2"
_LONGEST = 50
"""Of a name: what the pods add to it must fit into the 63 characters of a host name."""
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", re.ASCII)


def render(config: Config, plan: Plan, run_dir: Path, code: Path | None, name: str) -> str:
    """The manifest that trains ``plan`` with one pod per node, as YAML.

    Args:
        name: of the job, in any characters.

    Raises:
        ConfigError: a key that is missing, or that Kubernetes would refuse.
    """
    for problem in problems(config, run_dir):
        raise ConfigError(problem)
    wanted = config.launcher.kubernetes
    nodes, processes = nodes_of(plan), devices_per_node(plan)
    job = _name(name)
    labels = {"app.kubernetes.io/name": "orchestrate", "app.kubernetes.io/instance": job}
    metadata: dict[str, Any] = {"name": job, "labels": labels}
    if wanted.namespace is not None:
        metadata["namespace"] = wanted.namespace
    return template(Path(__file__).parent / "templates" / TEMPLATE, _json, inside=_inside).render(
        about=(
            f"Trains {name} on {nodes} nodes of {processes} devices.",
            "Written by orchestrate submit, and yours to edit: kubectl apply takes it as it is.",
        ),
        resource=wanted.resource.value,
        name=job,
        metadata=metadata,
        labels=labels,
        nodes=nodes,
        processes=str(processes),
        replicas={"Master": 1, **({"Worker": nodes - 1} if nodes > 1 else {})},
        failures=wanted.retries * nodes,
        command=_command(config, run_dir, nodes, processes, job),
        variables={key: _literal(value) for key, value in torchrun.variables(config, code).items()},
        secret=wanted.secret,
        image=config.launcher.container,
        limits={wanted.gpu: processes} if plan.cluster.device.kind is DeviceKind.cuda else {},
        service_account=wanted.service_account,
        node_selector=wanted.node_selector,
        claim=wanted.claim,
        mount=wanted.mount,
        shared_memory=f"{round(wanted.shared_memory_gib * 1024)}Mi",
    )


def _command(config: Config, run_dir: Path, nodes: int, processes: int, job: str) -> list[str]:
    """What a pod runs. The operator of a PyTorchJob tells torchrun in variables what a Job has to."""
    wanted = config.launcher.kubernetes
    meeting = [
        f"--nnodes={nodes}",
        f"--nproc-per-node={processes}",
        "--node-rank=$(JOB_COMPLETION_INDEX)",
        f"--master-addr={job}-0.{job}",
        f"--master-port={wanted.port}",
    ]
    return [
        *(_literal(config.launcher.container_python), "-m", "torch.distributed.run"),
        *(meeting if wanted.resource is KubernetesResource.job else ()),
        *("-m", torchrun.WORKER, _literal(str(run_dir))),
    ]


def problems(config: Config, run_dir: Path) -> Iterator[str]:
    """One line for every key that is missing, or that Kubernetes would refuse."""
    wanted = config.launcher.kubernetes
    if config.launcher.container is None:
        yield "launcher=kubernetes needs an image: set launcher.container"
    if wanted.claim is None:
        yield "launcher=kubernetes needs the claim that holds the run's folder: set launcher.kubernetes.claim"
    for key in ("namespace", "claim", "service_account", "secret"):
        value = getattr(wanted, key)
        if value is not None and not (_NAME.fullmatch(value) and len(value) <= 63):
            yield f"launcher.kubernetes.{key}={value}: a name takes lower-case letters, digits and -"
    if not PurePosixPath(wanted.mount).is_absolute():
        yield f"launcher.kubernetes.mount={wanted.mount}: must begin with /"
    elif PurePosixPath(wanted.mount) not in PurePosixPath(run_dir).parents:
        yield (
            f"run.dir={run_dir} is not below launcher.kubernetes.mount={wanted.mount}: the pods see the claim"
            " there, and it must be mounted alike where this is typed"
        )
    if not 0 < wanted.port < 65536:
        yield f"launcher.kubernetes.port={wanted.port}: must be 1 to 65535"
    if wanted.retries < 0:
        yield f"launcher.kubernetes.retries={wanted.retries}: must be at least 0"
    if not wanted.shared_memory_gib > 0:
        yield f"launcher.kubernetes.shared_memory_gib={wanted.shared_memory_gib:g}: must be above 0"


def _name(text: str) -> str:
    """``text`` as a name of Kubernetes's: too long, it loses its beginning, for the end tells runs apart."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[-_LONGEST:].strip("-")
    return plain if plain[:1].isalpha() else f"run-{plain}"


def _literal(text: str) -> str:
    """``text`` where Kubernetes would put in variables for ``$(NAME)``."""
    return text.replace("$(", "$$(")


def _json(value: object) -> str:
    return value if isinstance(value, Written) else json.dumps(value)


def _inside(block: str, columns: int) -> Written:
    """Lines of YAML, ``columns`` further in but for the first."""
    return Written(block.strip().replace("\n", "\n" + " " * columns))
