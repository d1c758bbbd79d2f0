"""What a development cluster is: its name, its nodes and their sizes; and where everything of it lies."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

FOLDERS = Path("/run/devcluster")
LOGIN = "login"
"""The node, beside the numbered ones, on which the controller runs and people type. It holds the switch."""
_NAME = re.compile(r"[a-z][a-z0-9]{0,15}")
_MOST_NODES = 64


class Mistake(Exception):
    """Something the user can put right: one line, exit code 2."""


@dataclass(frozen=True)
class Spec:
    """A cluster as `up` was asked for it."""

    name: str = "dev"
    nodes: int = 4
    gpus: int = 8
    """Per node: pretended ones, which Slurm counts and hands out and nothing can compute on."""
    cpus: int = 8
    """Per node, as Slurm counts them; together they may be more than the machine has."""
    memory_mib: int = 4000
    """Per node, as Slurm counts it."""
    leaves: int = 1
    """Leaf switches in topology.conf, each with an equal share of the nodes, below one spine."""
    slurm: bool = True
    """False: nodes and their network alone."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise Mistake(f"--name={self.name}: must be at most 16 lower-case letters and digits, as dev2")
        for option, value in (("nodes", self.nodes), ("cpus", self.cpus), ("memory", self.memory_mib)):
            if value < 1:
                raise Mistake(f"--{option}={value}: must be at least 1")
        if self.nodes > _MOST_NODES:
            raise Mistake(f"--nodes={self.nodes}: one machine stands for at most {_MOST_NODES}")
        if self.gpus < 0:
            raise Mistake(f"--gpus={self.gpus}: must be at least 0")
        if not 1 <= self.leaves <= self.nodes:
            raise Mistake(f"--leaves={self.leaves}: must be from 1 to the number of nodes, {self.nodes}")

    @property
    def folder(self) -> Path:
        return FOLDERS / self.name

    @property
    def login(self) -> str:
        return f"{self.name}-{LOGIN}"

    @property
    def hosts(self) -> tuple[str, ...]:
        """Host names of the nodes, which are also the names of their network namespaces."""
        return tuple(f"{self.name}-{i + 1}" for i in range(self.nodes))

    def address(self, host: str) -> str:
        """IPv4 address of ``host``. Clusters may share them: no network of one reaches another's."""
        return f"10.77.0.{254 if host == self.login else self.hosts.index(host) + 1}"

    def leaf(self, index: int) -> tuple[str, ...]:
        """The nodes below leaf switch ``index``, counted from 0."""
        return self.hosts[index * self.nodes // self.leaves : (index + 1) * self.nodes // self.leaves]

    def checked_host(self, host: str) -> str:
        """``host``, where there is such a node."""
        if host not in (*self.hosts, self.login):
            raise Mistake(f"{host}: no such node: choose of {', '.join(self.hosts)} (and {self.login})")
        return host

    def write(self) -> None:
        """Keep it in the cluster's folder."""
        (self.folder / "spec.json").write_text(json.dumps(asdict(self)) + "\n")

    @classmethod
    def read(cls, name: str) -> Spec:
        """The spec of the cluster ``name``, which is up.

        Raises:
            Mistake: there is none.
        """
        try:
            return cls(**json.loads((cls(name).folder / "spec.json").read_text()))
        except FileNotFoundError:
            raise Mistake(f"no cluster {name} is up: `devcluster up --name {name}` starts it") from None
