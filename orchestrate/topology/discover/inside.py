"""The inside of a node, as a cluster file describes it: devices, NVLink domains and the link in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from orchestrate.errors import ConfigError
from orchestrate.topology.discover.catalogue import DATASHEETS, Datasheet
from orchestrate.topology.discover.draft import MISSING, Remark, Section, Value
from orchestrate.topology.discover.facts import Gpu
from orchestrate.topology.discover.reading import Reading

LATENCY = "not read; orchestrate calibrate measures it"


@dataclass(frozen=True)
class Inside:
    """What one node turned out to be."""

    devices: int
    name: str | None
    """Of the GPUs, as the driver spells it."""
    datasheet: Datasheet | None
    domain: Value
    link: Section
    pcie: float | None
    """GB/s in one direction over a GPU's slot."""


def look_inside(reading: Reading) -> Inside | None:
    """The GPUs of the node that was read; None where no source has any.

    Raises:
        ConfigError: sources that disagree on how many GPUs there are, or GPUs that differ in kind.
    """
    counts = {
        "nvidia-smi topo": reading.matrix.gpus if reading.matrix else 0,
        "nvidia-smi --query-gpu": len(reading.gpus),
        "NCCL's topology": len(reading.system.gpus) if reading.system else 0,
    }
    told = {source: count for source, count in counts.items() if count}
    if not told:
        return None
    if len(set(told.values())) > 1:
        raise ConfigError(
            "the sources are not of one node: "
            + ", ".join(f"{source} has {count} GPUs" for source, count in told.items())
        )
    gpus = reading.gpus or (reading.system.gpus if reading.system else ())
    name, count = _one_name(gpus), next(iter(told.values()))
    datasheet = DATASHEETS.get(name or "")
    slots = [gpu.pcie_gbps for gpu in (*reading.gpus, *(reading.system.gpus if reading.system else ()))]
    pcie = min((slot for slot in slots if slot is not None), default=None)
    domain, link = _domain(reading, count, datasheet, pcie)
    return Inside(count, name, datasheet, domain, link, pcie)


def _one_name(gpus: Sequence[Gpu]) -> str | None:
    names = {gpu.name for gpu in gpus}
    if len(names) > 1:
        raise ConfigError(
            f"one node has {' and '.join(sorted(map(str, names)))}: a cluster file describes nodes whose "
            "GPUs are alike"
        )
    return next(iter(names), None)


def describe_device(inside: Inside, gpus: Sequence[Gpu]) -> Section:
    """The ``device`` section: all of it, or what was read of it on top of the datasheet."""
    sizes = [gpu.memory_gib for gpu in gpus if gpu.memory_gib is not None]
    memory = round(min(sizes), 2) if sizes else None
    if inside.datasheet is not None:
        return {"memory_gib": Value(memory, "nvidia-smi")} if memory else {}
    what = f"no datasheet of {inside.name} at hand" if inside.name else "without the GPU's name, not known"
    return {
        "name": Value(inside.name or MISSING, "nvidia-smi" if inside.name else "not read"),
        "kind": Value("cuda"),
        "memory_gib": Value(memory or MISSING, "nvidia-smi" if memory else "not read"),
        "memory_bandwidth_gbps": Value(MISSING, f"{what}; orchestrate calibrate measures it"),
        "peak_tflops": Value(MISSING, f"{what}; as {{bf16: 312, fp32: 19.5}}, dense TFLOP/s"),
    }


def _domain(
    reading: Reading, count: int, datasheet: Datasheet | None, pcie: float | None
) -> tuple[Value, Section]:
    """The NVLink domain, and the link inside it."""
    wiring = reading.wiring
    if wiring is None or wiring.nvlinks is None:
        unread = "NVLinks not read: nvidia-smi topo -m shows them"
        return Value(MISSING, unread), _link(MISSING, unread)
    block = _block(wiring.nvlinks)
    if block == 1:
        return Value(count, _why_pcie(wiring.nvlinks)), _pcie(pcie)
    size = Value(block, "consecutive GPUs that all have NVLinks to each other")
    if datasheet is not None and datasheet.rack:
        size = Value(
            MISSING,
            f"at least {block}. NVLink may reach the whole rack: the GPUs of one ClusterUUID and CliqueId, "
            "which nvidia-smi -q shows",
        )
    return size, _nvlink(reading, wiring.nvlinks, block, datasheet)


def _block(nvlinks: Sequence[Sequence[int]]) -> int:
    """The largest number of consecutive GPUs, even over the node, that are all linked to each other."""
    count = len(nvlinks)

    def linked(size: int) -> bool:
        return all(
            nvlinks[a][b]
            for first in range(0, count, size)
            for a, b in combinations(range(first, first + size), 2)
        )

    return max(size for size in range(1, count + 1) if count % size == 0 and linked(size))


def _why_pcie(nvlinks: Sequence[Sequence[int]]) -> str:
    """Why the domain is the node, over PCIe; where other numbers would make NVLink usable, which."""
    note = "no NVLink: the GPUs of a node reach each other over PCIe" if len(nvlinks) > 1 else ""
    left, order = list(range(len(nvlinks))), list[list[int]]()
    while left:
        group = [gpu for gpu in left if gpu == left[0] or nvlinks[left[0]][gpu]]
        order.append(group)
        left = [gpu for gpu in left if gpu not in group]
    if max(map(len, order)) > 1:
        note = (
            "over PCIe. NVLink joins GPUs that are no neighbours by number: "
            + ", ".join("-".join(map(str, group)) for group in order)
            + ". To use it, start with CUDA_VISIBLE_DEVICES="
            + ",".join(str(gpu) for group in order for gpu in group)
            + f" and set this to {min(map(len, order))} and nvlink to that link"
        )
    return note


def _pcie(gbps: float | None) -> Section:
    note = (
        "GB/s one way over a GPU's slot; GPUs behind one PCIe switch share its uplink" if gbps else "not read"
    )
    return _link(round(gbps, 1) if gbps else MISSING, note)


def _nvlink(
    reading: Reading, nvlinks: Sequence[Sequence[int]], block: int, datasheet: Datasheet | None
) -> Section:
    rates = [rate for gpu in reading.links for rate in gpu]
    links = _links_used(nvlinks, block, reading, datasheet)
    if datasheet is not None:
        rate, origin = datasheet.link_gbps, f"GB/s each, from the datasheet of {_name(reading)}"
    elif rates:
        rate, origin = min(rates), "GB/s each, the signalling rate that nvidia-smi shows"
    else:
        rate, origin = 0.0, ""
    if not links or not rate:
        what = f"{links} NVLinks, but not" if links else "not read: not how many NVLinks a GPU has, and not"
        return _link(MISSING, f"{what} what one carries; nvidia-smi nvlink --status shows it")
    return {
        **_link(links * rate, f"{links} NVLinks of {rate:g} {origin}"),
        "in_switch_gbps": Remark("not read; whether NVSwitches sum (NVLink SHARP) shows in NCCL_DEBUG=INFO"),
    }


def _links_used(
    nvlinks: Sequence[Sequence[int]], block: int, reading: Reading, datasheet: Datasheet | None
) -> int | None:
    """NVLinks of a GPU that lead into its domain, of the GPU that has the fewest; None: cannot be told.

    Behind a switch the one bundle serves every peer; without one each peer has a bundle of its own. The
    matrix shows both alike, but a GPU cannot have more links than it was made with.
    """
    switched = reading.system.wiring.switched if reading.system else None
    bundle = min(nvlinks[a][b] for a, b in _pairs(len(nvlinks), block))
    together = min(
        sum(nvlinks[gpu][peer] for peer in range(gpu - gpu % block, gpu - gpu % block + block))
        for gpu in range(len(nvlinks))
    )
    if bundle == together or switched is not None:
        return bundle if switched else together
    if datasheet is None and not reading.links:
        return None
    most = datasheet.links if datasheet else max(map(len, reading.links))
    return together if together <= most else bundle


def _pairs(count: int, block: int) -> list[tuple[int, int]]:
    return [pair for first in range(0, count, block) for pair in combinations(range(first, first + block), 2)]


def _name(reading: Reading) -> str | None:
    return _one_name(reading.gpus or (reading.system.gpus if reading.system else ()))


def _link(bandwidth: object, note: str) -> Section:
    return {"bandwidth_gbps": Value(bandwidth, note), "latency_us": Value(MISSING, LATENCY)}
