"""The clusters that measured runs name: the files of ``conf/cluster/``, read without Hydra."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrate import config as schema
from orchestrate.config import ClusterConfig, NodeGroupConfig
from orchestrate.errors import ConfigError
from orchestrate.resources import folder
from orchestrate.topology.cluster import Cluster, build_cluster


def known_clusters() -> list[str]:
    """Names of the files in ``conf/cluster/``."""
    return sorted(path.stem for path in (folder("conf") / "cluster").glob("*.yaml"))


def key_of(name: str) -> str:
    """The file's name for the cluster ``name`` of a table: ``dgx-h100`` is ``dgx_h100``."""
    return name.strip().replace("-", "_")


def read_cluster(key: str) -> ClusterConfig:
    """What ``conf/cluster/<key>.yaml`` says, its device filled in.

    Raises:
        ConfigError: a value of the file is missing or of the wrong type.
    """
    return schema.load_cluster(_read(folder("conf") / "cluster", key))


def _read(place: Path, key: str) -> dict[str, Any]:
    import yaml

    values: dict[str, Any] = yaml.safe_load((place / f"{key}.yaml").read_text(encoding="utf-8"))
    for entry in values.pop("defaults", []):
        # Of the files composed into a cluster only its device belongs to it; overrides of other
        # sections (`override /precision@…`) do not concern a measured run, which has its own.
        if isinstance(entry, dict) and "device" in entry:
            values["device"] = _read(place / "device", entry["device"])
    return values


@dataclass(frozen=True)
class Clusters:
    """Clusters by name and number of GPUs, each built once."""

    given: ClusterConfig | None = None
    """Composed from the command line: used by the rows that name it, in place of its file."""
    _configs: dict[str, ClusterConfig] = field(default_factory=dict)
    _built: dict[tuple[str, int], Cluster] = field(default_factory=dict)

    def names(self) -> list[str]:
        """Every name that a row may use."""
        return sorted({*known_clusters(), *([self.given.name] if self.given else [])})

    def config(self, name: str) -> ClusterConfig:
        """The cluster that a row calls ``name``.

        Raises:
            ConfigError: there is none of that name; the message has the closest one.
        """
        key = key_of(name)
        if key not in self._configs:
            if self.given is not None and key == key_of(self.given.name):
                self._configs[key] = self.given
            elif key in known_clusters():
                self._configs[key] = read_cluster(key)
            else:
                raise ConfigError(f"cluster={name}: {_closest(key, self.names())}")
        return self._configs[key]

    def cluster(self, name: str, gpus: int) -> Cluster:
        """``gpus`` devices of the cluster ``name``: whole nodes, the last one perhaps in part."""
        key = key_of(name), gpus
        if key not in self._built:
            self._built[key] = build_cluster(_sized(self.config(name), gpus))
        return self._built[key]


def _sized(config: ClusterConfig, gpus: int) -> ClusterConfig:
    """``config`` with as many nodes as ``gpus`` devices take."""
    per_node = min(config.gpus_per_node, gpus)
    nodes, rest = divmod(gpus, per_node)
    domain = config.nvlink_domain
    if domain is not None:
        # A smaller job has the nodes of a large domain that it fills; a part of a node keeps whole groups.
        domain = min(domain, nodes * per_node) if domain > per_node else math.gcd(domain, per_node)
    left = rest if domain is None or domain >= rest else math.gcd(domain, rest)
    partial = (NodeGroupConfig(nodes=1, gpus_per_node=rest, nvlink_domain=left),) if rest else ()
    return replace(
        config,
        nodes=nodes,
        gpus_per_node=per_node,
        nvlink_domain=domain,
        hosts=(),
        positions=(),
        groups=partial,
    )


def _closest(key: str, names: Iterable[str]) -> str:
    shown = [name.replace("_", "-") for name in names]
    close = difflib.get_close_matches(key.replace("_", "-"), shown, n=1, cutoff=0.5)
    return f"unknown, did you mean {close[0]}?" if close else f"unknown, known are {', '.join(shown)}"
