"""Safetensors files as Hugging Face lays them out: one ``model.safetensors``, or several and an index.

Written tensor by tensor: the sizes are known beforehand, so the header can go first, and no more than
one tensor is in memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orchestrate.config import DType
from orchestrate.errors import ExchangeError
from orchestrate.interchange.names import Counterpart

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_DTYPES = {
    DType.bf16: ("BF16", torch.bfloat16),
    DType.fp16: ("F16", torch.float16),
    DType.fp32: ("F32", torch.float32),
    DType.fp64: ("F64", torch.float64),
}
_ALIGNMENT = 8
"""Bytes: the data begins at a multiple of this, so that it can be mapped as any type."""


def write_files(
    folder: Path,
    tensors: Sequence[Counterpart],
    dtype: DType,
    limit: int,
    produce: Callable[[Counterpart], Tensor],
) -> None:
    """Write ``tensors`` into ``folder``.

    Args:
        limit: bytes of tensors in one file; a larger tensor gets a file of its own.
        produce: gives a tensor's values, in any float type; asked for one after the other.

    Raises:
        ExchangeError: a value that ``dtype`` cannot hold.
        OSError: a file cannot be written.
    """
    shards = split(tensors, dtype.bytes, limit)
    names = [SINGLE_FILE]
    if len(shards) > 1:
        names = [f"model-{n + 1:05d}-of-{len(shards):05d}.safetensors" for n in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        _write_file(folder / name, shard, dtype, produce)
    if len(shards) > 1:
        weight_map = {t.name: name for name, shard in zip(names, shards, strict=True) for t in shard}
        size = sum(tensor.elements for tensor in tensors) * dtype.bytes
        write_json(folder / INDEX_FILE, {"metadata": {"total_size": size}, "weight_map": weight_map})


def split(tensors: Sequence[Counterpart], element_bytes: int, limit: int) -> list[list[Counterpart]]:
    """``tensors`` in their order, as many to a file as ``limit`` bytes hold, but at least one."""
    shards: list[list[Counterpart]] = []
    room = 0
    for tensor in tensors:
        size = tensor.elements * element_bytes
        if not shards or size > room:
            shards.append([])
            room = limit
        shards[-1].append(tensor)
        room -= size
    return shards


def write_json(path: Path, values: Any) -> None:
    """Write ``values`` for people to read."""
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _write_file(
    path: Path, tensors: Sequence[Counterpart], dtype: DType, produce: Callable[[Counterpart], Tensor]
) -> None:
    with path.open("wb") as file:
        file.write(_header(tensors, dtype))
        for tensor in tensors:
            values = _cast(produce(tensor), dtype, tensor)
            # NumPy has no bfloat16: the bytes do.
            file.write(values.view(-1).view(torch.uint8).numpy().data)
            del values  # before the next one is read


def _header(tensors: Sequence[Counterpart], dtype: DType) -> bytes:
    # transformers asks for "format"; it says which library's tensors these are.
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for tensor in tensors:
        stop = start + tensor.elements * dtype.bytes
        entries[tensor.name] = {
            "dtype": _DTYPES[dtype][0],
            "shape": list(tensor.shape),
            "data_offsets": [start, stop],
        }
        start = stop
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _cast(values: Tensor, dtype: DType, tensor: Counterpart) -> Tensor:
    assert tuple(values.shape) == tensor.shape, f"{tensor.name}: {tuple(values.shape)}"
    cast = values.to(_DTYPES[dtype][1]).contiguous()
    # bf16 reaches as far as fp32; fp16 ends at 65,504.
    if cast.dtype is torch.float16 and (cast.isinf() & values.isfinite()).any():
        raise ExchangeError(
            f"export.dtype=fp16: {tensor.name} has values of up to {values.abs().max().item():g}, and fp16"
            " ends at 65504: use export.dtype=bf16 or fp32"
        )
    return cast
