"""Puts all that was read together into one cluster file."""

from __future__ import annotations

import re
from dataclasses import replace

from orchestrate.errors import ConfigError
from orchestrate.topology.discover.cpu import Processor
from orchestrate.topology.discover.draft import MISSING, Draft, Section, Value
from orchestrate.topology.discover.inside import LATENCY, Inside, describe_device, look_inside
from orchestrate.topology.discover.outside import choose_hosts, network, place, rails
from orchestrate.topology.discover.reading import Reading


def merge(reading: Reading, name: str) -> Draft:
    """The cluster file called ``name`` of all that ``reading`` has.

    Raises:
        ConfigError: nothing that has devices, or sources that contradict each other.
    """
    draft = Draft()
    inside = look_inside(reading)
    hosts, gpus, note = choose_hosts(reading, inside)
    if inside is None and gpus is not None:
        inside = _of_slurm(gpus)
        if reading.host is not None:
            # A login node: its adapters are not those of the nodes that Slurm has.
            reading = replace(reading, adapters=())
    if inside is not None:
        _gpu_cluster(draft, reading, name, inside, hosts, note)
    elif (processor := reading.processor) is not None:
        reading = replace(reading, found=(*reading.found, "/proc"))
        _cpu_cluster(draft, processor, name, hosts or ([reading.host] if reading.host else []), note)
    else:
        raise ConfigError(
            "nothing that was read says what GPUs a node has: give the output of nvidia-smi topo -m as "
            "topology.smi, of scontrol show node as topology.nodes, or NCCL's file as topology.nccl"
        )
    draft.header.extend(_header(draft, reading))
    return draft


def safe_name(text: str) -> str:
    """``text`` as the name of a config file: letters, digits and underscores."""
    return re.sub(r"\W+", "_", text).strip("_").lower() or "discovered"


def _of_slurm(gpus: int) -> Inside:
    unread = "not read: nvidia-smi topo -m shows the NVLinks of a node"
    return Inside(
        devices=gpus,
        name=None,
        datasheet=None,
        domain=Value(MISSING, unread),
        link={"bandwidth_gbps": Value(MISSING, unread), "latency_us": Value(MISSING, LATENCY)},
        pcie=None,
    )


def _gpu_cluster(
    draft: Draft, reading: Reading, name: str, inside: Inside, hosts: list[str] | None, note: str
) -> None:
    if inside.datasheet is not None:
        device = inside.datasheet.device
        draft.defaults.append(Value(f"device: {device}", f"from the datasheet of {inside.name}"))
    nodes = len(hosts) if hosts else 1
    keys = draft.keys
    keys["name"] = Value(name)
    keys["nodes"] = Value(nodes, note or "the one that was read")
    keys["gpus_per_node"] = Value(inside.devices)
    if section := describe_device(inside, reading.gpus):
        keys["device"] = section
    keys["nvlink_domain"] = inside.domain
    keys["nvlink"] = inside.link
    keys["network"] = network(reading, inside, nodes)
    if (remark := rails(reading)) is not None:
        keys["rails"] = remark
    _hosts(keys, reading, hosts or ([reading.host] if reading.host else []))


def _cpu_cluster(draft: Draft, processor: Processor, name: str, hosts: list[str], note: str) -> None:
    if processor.bf16 is False:
        draft.defaults.append(
            Value("override /precision@_global_.precision: fp32", "the processor has no bf16 arithmetic")
        )
    cores = processor.cores
    memory = round(processor.memory_gib / cores, 2) if processor.memory_gib else MISSING
    unread = "not read; orchestrate calibrate measures it"
    draft.keys = {
        "name": Value(name),
        "nodes": Value(max(len(hosts), 1), note or "this machine"),
        "gpus_per_node": Value(cores, "processes, a core to each"),
        "device": {
            "name": Value(f"core of {processor.name}" if processor.name else "core"),
            "kind": Value("cpu"),
            "memory_gib": Value(memory, f"the machine's, shared by {cores} processes"),
            "memory_bandwidth_gbps": Value(MISSING, unread),
            "peak_tflops": Value(MISSING, f"{{fp32: …}}. {unread}"),
        },
        "nvlink": {
            "bandwidth_gbps": Value(MISSING, "between processes of the machine: " + unread),
            "latency_us": Value(MISSING, LATENCY),
        },
        "network": {
            "bandwidth_gbps": Value("${cluster.nvlink.bandwidth_gbps}", "one node: nothing crosses it"),
            "latency_us": Value("${cluster.nvlink.latency_us}"),
        },
    }
    if len(hosts) > 1:
        draft.keys["network"] = {
            "bandwidth_gbps": Value(MISSING, unread),
            "latency_us": Value(MISSING, LATENCY),
        }
    if hosts:
        draft.keys["hosts"] = Value(hosts)


def _hosts(keys: Section, reading: Reading, hosts: list[str]) -> None:
    if hosts:
        _, placed = place(reading, hosts) if len(hosts) > 1 else (None, {"hosts": Value(hosts)})
        keys.update(placed)


def _header(draft: Draft, reading: Reading) -> list[str]:
    lines = [f"Read by `orchestrate topology` from {', '.join(reading.found)}."]
    if missing := draft.missing():
        lines.append(
            f"{MISSING} stands for what was not read: planning stops there and names it, until it is filled "
            f"in here or given as cluster.{missing[0]}=…"
        )
    return lines
