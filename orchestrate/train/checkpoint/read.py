"""Reading a checkpoint, or parts of one, into whatever layout: each rank reads what it holds.

Nothing that a file says is executed: ``.metadata`` is a pickle, read by an unpickler that knows a handful
of record types and refuses all else, and tensors are read with ``weights_only=True``.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from orchestrate.errors import CheckpointError
from orchestrate.parallel.zero.base import Fragment
from orchestrate.train.checkpoint.format import METADATA
from orchestrate.train.checkpoint.parts import Part, held, is_moment

_RECORDS = {
    "torch.distributed.checkpoint.metadata": {
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size", "float16", "bfloat16", "float32", "float64"},
}
"""All that ``.metadata`` is made of, besides numbers, strings, lists and dicts."""


def load(path: Path, fragments: Mapping[str, Fragment]) -> None:
    """Read the checkpoint at ``path`` into ``fragments`` in place; not collective.

    One that holds weights alone, as an imported model's does, leaves all moments zero.

    Raises:
        CheckpointError: it lacks a parameter, has one of another shape, or cannot be read.
    """
    reader, parts = _Reader(path), held(fragments)
    if not any(map(is_moment, reader.tensors)):
        for part in parts:
            if is_moment(part.name):
                part.values.zero_()
        parts = [part for part in parts if not is_moment(part.name)]
    reader.into(parts)


def names(path: Path) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of every tensor in the checkpoint at ``path``.

    Raises:
        CheckpointError: it cannot be read.
    """
    tensors = _Reader(path).tensors
    return {name: (tuple(known.size), known.properties.dtype) for name, known in tensors.items()}


def read_tensor(
    path: Path, name: str, offsets: Sequence[int] | None = None, sizes: Sequence[int] | None = None
) -> Tensor:
    """The tensor ``name`` of the checkpoint at ``path``, or the box of it at ``offsets`` with ``sizes``.

    Besides the result, one chunk (64 MiB or so) is in memory at a time.

    Raises:
        CheckpointError: there is no such tensor, or it cannot be read.
    """
    return _Reader(path).box(name, offsets, sizes)


class Tensors:
    """The tensors of one checkpoint, its list of them read once.

    Raises:
        CheckpointError: there is none at ``path``, or it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._reader = _Reader(path)
        self.shapes = {name: tuple(known.size) for name, known in self._reader.tensors.items()}

    def read(
        self, name: str, offsets: Sequence[int] | None = None, sizes: Sequence[int] | None = None
    ) -> Tensor:
        """As `read_tensor`."""
        return self._reader.box(name, offsets, sizes)


class _Reader:
    def __init__(self, path: Path) -> None:
        self._path = path
        metadata = read_metadata(path)
        self.tensors: dict[str, TensorStorageMetadata] = {
            str(name): known
            for name, known in metadata.state_dict_metadata.items()
            if isinstance(known, TensorStorageMetadata)
        }
        self._stored: Any = metadata.storage_data

    def box(self, name: str, offsets: Sequence[int] | None, sizes: Sequence[int] | None) -> Tensor:
        known = self._known(name)
        low = tuple(offsets) if offsets is not None else (0,) * len(known.size)
        size = tuple(sizes) if sizes is not None else tuple(known.size)
        values = torch.empty(size, dtype=known.properties.dtype)
        wanted = ChunkStorageMetadata(torch.Size(low), torch.Size(size))
        self._fill(name, [wanted], [values])
        return values

    def into(self, parts: Sequence[Part]) -> None:
        for part in parts:
            known = self._known(part.name)
            if tuple(known.size) != part.sharding.full_shape:
                raise CheckpointError(
                    f"{self._path} has {part.name} of shape {tuple(known.size)}, but the model has"
                    f" {part.sharding.full_shape}: load it with the model that it was trained as"
                )
            boxes = list(part.chunks())
            wanted = [ChunkStorageMetadata(torch.Size(b.offsets), torch.Size(b.sizes)) for b in boxes]
            self._fill(part.name, wanted, [part.view(box) for box in boxes])

    def _known(self, name: str) -> TensorStorageMetadata:
        if name not in self.tensors:
            raise CheckpointError(f"{self._path} has no {name}: it is of another model")
        return self.tensors[name]

    def _fill(self, name: str, wanted: list[ChunkStorageMetadata], targets: Sequence[Tensor]) -> None:
        """Copy the boxes ``wanted`` of the tensor ``name`` into ``targets``."""
        items = create_read_items_for_chunk_list(name, self.tensors[name], wanted)
        at = {tuple(box.offsets): target for box, target in zip(wanted, targets, strict=True)}
        stored: dict[Any, list[ReadItem]] = {}
        for item in items:
            stored.setdefault(item.storage_index, []).append(item)
        copied = 0
        for index, reads in stored.items():
            chunk = self._chunk(index)
            for item in reads:
                assert item.dest_index.offset is not None
                target = _narrow(at[tuple(item.dest_index.offset)], item.dest_offsets, item.lengths)
                target.copy_(_narrow(chunk, item.storage_offsets, item.lengths))
                copied += target.numel()
        if copied != sum(target.numel() for target in targets):
            raise CheckpointError(f"{self._path} lacks a part of {name}")

    def _chunk(self, index: Any) -> Tensor:
        try:
            info = self._stored[index]
            with (self._path / Path(info.relative_path).name).open("rb") as file:
                file.seek(info.offset)
                raw = file.read(info.length)
            chunk = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
        except OSError as error:
            raise CheckpointError(f"{error.filename or self._path}: {error.strerror}") from None
        except Exception as error:  # torch raises whatever the damage made of the bytes
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(f"{self._path}: {index.fqn} cannot be read: {reason}") from None
        if not isinstance(chunk, Tensor):
            raise CheckpointError(f"{self._path}: {index.fqn} is not a tensor")
        return chunk


def _narrow(tensor: Tensor, offsets: Sequence[int], sizes: Sequence[int]) -> Tensor:
    for dim, (offset, size) in enumerate(zip(offsets, sizes, strict=True)):
        tensor = tensor.narrow(dim, offset, size)
    return tensor


def read_metadata(path: Path) -> Metadata:
    """The list of tensors of the checkpoint at ``path``.

    Raises:
        CheckpointError: it is missing, damaged, or holds anything that such a list does not.
    """
    file = path / METADATA
    try:
        metadata = _Unpickler(io.BytesIO(file.read_bytes())).load()
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror}") from None
    except Exception as error:  # unpickling raises whatever the damage made of the bytes
        raise CheckpointError(f"{file} is not the list of a checkpoint's tensors: {error}") from None
    if not isinstance(metadata, Metadata) or not isinstance(metadata.storage_data, dict):
        raise CheckpointError(f"{file} is not the list of a checkpoint's tensors")
    return metadata


class _Unpickler(pickle.Unpickler):
    """Makes nothing but the records of a checkpoint's list of tensors."""

    def find_class(self, module: str, name: str) -> Any:
        if name in _RECORDS.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which has no place in one")
