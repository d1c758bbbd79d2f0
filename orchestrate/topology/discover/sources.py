"""Where a reading comes from: the commands and files of this machine, or outputs that somebody saved."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from orchestrate.config import TopologyConfig
from orchestrate.errors import ConfigError
from orchestrate.topology.discover import infiniband, nccl_xml, nvidia_smi, slurm
from orchestrate.topology.discover.cpu import read_processor
from orchestrate.topology.discover.facts import Adapter
from orchestrate.topology.discover.hostlist import expand
from orchestrate.topology.discover.reading import Reading

T = TypeVar("T")

SECONDS = 30
"""A command that has not answered by then is given up; nvidia-smi takes seconds to wake eight GPUs."""

NCCL_FILE = "/var/run/nvidia-topologyd/virtualTopology.xml"
"""Where NCCL itself looks for a topology, unless NCCL_TOPO_FILE names another."""


@dataclass
class _Sources:
    """Reads one source after the other, and notes which had something."""

    live: bool
    found: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def output(self, key: str, file: str | None, command: str, parse: Callable[[str, str], T]) -> T | None:
        """What ``parse`` makes of the saved ``file``, or of what ``command`` prints on this machine."""
        if file is not None:
            return self._parsed(_read(f"topology.{key}={file}", Path(file)), f"topology.{key}={file}", parse)
        if not self.live:
            return None
        text = self._run(command)
        return None if text is None else self._parsed(text, f"`{command}`", parse)

    def _parsed(self, text: str, source: str, parse: Callable[[str, str], T]) -> T:
        result = parse(text, source)
        self.found.append(source)
        return result

    def _run(self, command: str) -> str | None:
        program, *arguments = command.split()
        try:
            done = subprocess.run(
                [program, *arguments], capture_output=True, text=True, timeout=SECONDS, check=False
            )
        except FileNotFoundError:
            if (line := f"{program}: not on this machine") not in self.missing:
                self.missing.append(line)
            return None
        except subprocess.TimeoutExpired:
            self.missing.append(f"`{command}`: no answer after {SECONDS} s")
            return None
        if done.returncode or not _has_content(done.stdout):
            said = (done.stderr.strip() or done.stdout.strip() or "printed nothing").splitlines()[0]
            self.missing.append(f"`{command}`: {said}")
            return None
        return done.stdout

    def nccl(self, file: str | None) -> nccl_xml.System | None:
        """NCCL's topology: what the key names, else what NCCL would read itself."""
        if file is None and self.live:
            place = Path(os.environ.get("NCCL_TOPO_FILE", NCCL_FILE))
            if not place.is_file():
                self.missing.append(f"NCCL's topology: neither NCCL_TOPO_FILE nor {NCCL_FILE} is there")
                return None
            return self._parsed(_read("NCCL's topology", place), str(place), nccl_xml.parse_system)
        if file is None:
            return None
        source = f"topology.nccl={file}"
        return self._parsed(_read(source, Path(file)), source, nccl_xml.parse_system)

    def sysfs(self, folder: str | None) -> tuple[Adapter, ...]:
        if folder is not None and not Path(folder, "class").is_dir():
            raise ConfigError(f"topology.sysfs={folder}: no folder class/ in it, as /sys has")
        if folder is None and not self.live:
            return ()
        root = Path(folder or "/sys")
        adapters = infiniband.read_adapters(root)
        if adapters:
            self.found.append(f"{root}/class/infiniband")
        else:
            self.missing.append(f"{root}/class/infiniband: no adapter")
        return adapters


def _has_content(text: str) -> bool:
    """`scontrol` and `nvidia-smi` also say in words that there is nothing, and succeed."""
    nothing = ("no topology information", "no devices were found")
    return bool(text.strip()) and not text.strip().lower().startswith(nothing)


def _read(source: str, file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{source}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{source}: not a text file") from None


def is_live(config: TopologyConfig) -> bool:
    """Whether this machine is read: only as asked, where outputs of another one may be given."""
    files = (config.smi, config.gpus, config.nvlinks, config.nccl, config.slurm, config.nodes, config.sysfs)
    return not any(files) if config.live is None else config.live


def read_sources(config: TopologyConfig) -> Reading:
    """Everything that ``config`` names and, where it says so, that this machine has.

    Raises:
        ConfigError: a file that is not there, or a source that cannot be understood.
    """
    live = is_live(config)
    sources = _Sources(live)
    query = f"nvidia-smi --query-gpu={','.join(nvidia_smi.QUERY)} --format=csv"
    return Reading(
        matrix=sources.output("smi", config.smi, "nvidia-smi topo -m", nvidia_smi.parse_matrix),
        gpus=sources.output("gpus", config.gpus, query, nvidia_smi.parse_gpus) or (),
        links=sources.output("nvlinks", config.nvlinks, "nvidia-smi nvlink --status", nvidia_smi.parse_links)
        or (),
        system=sources.nccl(config.nccl),
        adapters=sources.sysfs(config.sysfs),
        switches=sources.output("slurm", config.slurm, "scontrol show topology", slurm.parse_topology),
        nodes=sources.output("nodes", config.nodes, "scontrol -o show node", slurm.parse_nodes),
        processor=read_processor() if live else None,
        host=socket.gethostname().split(".")[0] if live else None,
        wanted=expand(config.hosts) if config.hosts else (),
        found=tuple(sources.found),
        missing=tuple(sources.missing),
    )
