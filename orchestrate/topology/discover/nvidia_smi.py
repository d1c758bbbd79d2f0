"""What `nvidia-smi` prints: the topology matrix, the list of GPUs and the state of their NVLinks."""

from __future__ import annotations

import csv
import re

from orchestrate.errors import ConfigError
from orchestrate.topology.discover.facts import Distance, Gpu, Wiring, pcie_gbps

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_GPU = re.compile(r"GPU\d+")
_NVLINKS = re.compile(r"NV(\d+)")
_PATHS = {
    "PIX": Distance.pix,
    "PXB": Distance.pxb,
    "PHB": Distance.phb,
    "NODE": Distance.node,
    "SYS": Distance.sys,
    "SOC": Distance.sys,  # what SYS was called before driver 384
    "PSB": Distance.pix,  # two GPUs of one board
}
_TRANSFERS = {1: 2.5, 2: 5.0, 3: 8.0, 4: 16.0, 5: 32.0, 6: 64.0}
"""GT/s per lane by PCIe generation."""


def parse_matrix(text: str, source: str) -> Wiring:
    """The wiring that `nvidia-smi topo -m` shows; ``source`` names it in errors.

    Raises:
        ConfigError: no matrix, a row that is missing or cut, a cell that is no path, or two halves of the
            matrix that disagree.
    """
    lines = [line for line in _ANSI.sub("", text).splitlines() if line.strip()]
    columns = _columns(lines, source)
    gpus = [name for name in columns if _GPU.fullmatch(name)]
    rows = {tokens[0]: tokens[1:] for tokens in map(str.split, lines) if _is_row(tokens)}
    cells = [_cells(name, columns, rows, source) for name in gpus]
    nvlinks = tuple(
        tuple(_links(row[column]) for column, name in enumerate(columns) if name in gpus) for row in cells
    )
    if any(nvlinks[a][b] != nvlinks[b][a] for a in range(len(gpus)) for b in range(a)):
        raise ConfigError(f"{source}: the NVLinks above and below the diagonal differ: not one whole output")
    legend = dict(re.findall(r"^\s*(NIC\d+):\s*(\S+)\s*$", "\n".join(lines), re.MULTILINE))
    adapters = [(column, name) for column, name in enumerate(columns) if name not in gpus]
    return Wiring(
        gpus=len(gpus),
        nvlinks=nvlinks,
        switched=None,
        adapters=tuple(legend.get(name, name) for _, name in adapters),
        distances=tuple(tuple(_PATHS[row[column]] for column, _ in adapters) for row in cells),
        numa=tuple(_numa(rows[name][len(columns) :]) for name in gpus),
    )


def _columns(lines: list[str], source: str) -> list[str]:
    """GPUs and adapters in the order of the header, which ends with the affinities."""
    for tokens in map(str.split, lines):
        if _GPU.fullmatch(tokens[0]) and not _is_row(tokens):
            return tokens[: tokens.index("CPU")] if "CPU" in tokens else tokens
    raise ConfigError(f"{source}: no matrix as `nvidia-smi topo -m` prints it")


def _is_row(tokens: list[str]) -> bool:
    return len(tokens) > 1 and _is_path(tokens[1])


def _is_path(cell: str) -> bool:
    return cell == "X" or cell in _PATHS or bool(_NVLINKS.fullmatch(cell))


def _cells(name: str, columns: list[str], rows: dict[str, list[str]], source: str) -> list[str]:
    if name not in rows:
        raise ConfigError(f"{source}: the row of {name} is missing")
    row = rows[name][: len(columns)]
    for column, cell in zip(columns, row, strict=False):
        if not _is_path(cell) or (cell == "X") != (column == name):
            raise ConfigError(
                f"{source}: {cell!r} between {name} and {column} is no path that nvidia-smi prints; write "
                "its output to a file rather than copying it from a screen"
            )
    if len(row) < len(columns):
        raise ConfigError(f"{source}: the row of {name} has {len(row)} of {len(columns)} columns")
    return row


def _links(cell: str) -> int:
    match = _NVLINKS.fullmatch(cell)
    return int(match[1]) if match else 0


def _numa(affinities: list[str]) -> str | None:
    """The second of the affinities: processors, NUMA nodes, the GPU's own NUMA node."""
    return affinities[1] if len(affinities) > 1 and affinities[1] != "N/A" else None


QUERY = ("name", "memory.total", "pcie.link.gen.max", "pcie.link.width.max")
"""What to ask `nvidia-smi --query-gpu` for; only the name is needed."""


def parse_gpus(text: str, source: str) -> tuple[Gpu, ...]:
    """The GPUs of `nvidia-smi --query-gpu=name,… --format=csv`, in its order.

    Raises:
        ConfigError: no header (``noheader``), or a memory size without a unit that is known.
    """
    rows = [row for row in csv.reader(text.strip().splitlines(), skipinitialspace=True) if row]
    header = [re.sub(r"\s*\[.*\]$", "", name).strip() for name in rows[0]] if rows else []
    if "name" not in header:
        raise ConfigError(
            f"{source}: no line of column names with `name` in it; ask for "
            f"--query-gpu={','.join(QUERY)} --format=csv"
        )
    return tuple(_gpu(dict(zip(header, row, strict=False)), source) for row in rows[1:])


def _gpu(row: dict[str, str], source: str) -> Gpu:
    generation, width = _number(row.get("pcie.link.gen.max")), _number(row.get("pcie.link.width.max"))
    transfers = _TRANSFERS.get(int(generation or 0))
    return Gpu(
        name=row["name"].strip(),
        memory_gib=_memory_gib(row.get("memory.total"), source),
        pcie_gbps=pcie_gbps(transfers, int(width)) if transfers and width else None,
    )


def _number(cell: str | None) -> float | None:
    """The number that ``cell`` starts with; None for [N/A] and the like."""
    match = re.match(r"\s*(\d+(?:\.\d+)?)", cell or "")
    return float(match[1]) if match else None


def _memory_gib(cell: str | None, source: str) -> float | None:
    size = _number(cell)
    if cell is None or size is None:
        return None
    unit = cell.strip().rpartition(" ")[2]
    # `nounits` leaves the number alone, which is always of MiB.
    if unit not in ("MiB", cell.strip()):
        raise ConfigError(f"{source}: memory.total={cell.strip()!r}: expected MiB")
    return size / 1024


def parse_links(text: str, source: str) -> tuple[tuple[float, ...], ...]:
    """GB/s of each active NVLink by GPU, from `nvidia-smi nvlink --status`.

    These are signalling rates: up to 6 % above what the links carry.

    Raises:
        ConfigError: no GPU in it.
    """
    found: list[list[float]] = []
    for line in text.splitlines():
        if re.match(r"\s*GPU \d+:", line):
            found.append([])
        elif (match := re.match(r"\s*Link \d+:\s*(\d+(?:\.\d+)?) GB/s", line)) and found:
            found[-1].append(float(match[1]))
    if not found:
        raise ConfigError(f"{source}: no GPU as `nvidia-smi nvlink --status` prints it")
    return tuple(map(tuple, found))
