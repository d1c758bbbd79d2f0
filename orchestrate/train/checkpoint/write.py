"""Writing a checkpoint: every rank its own chunks, through ``torch.distributed.checkpoint``.

All is written beside, as ``step-00000050.partial-…``, flushed to the disk, and renamed in one go. A
process that is killed at any moment leaves the checkpoints before as they were.
"""

from __future__ import annotations

import contextlib
import math
import pickle
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.state_dict_saver import save as save_through_torch
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from orchestrate.train.checkpoint.chunks import Chunk, split
from orchestrate.train.checkpoint.commit import Hashed, commit, create
from orchestrate.train.checkpoint.format import METADATA, Checksum, State, name_of
from orchestrate.train.checkpoint.parts import Part

CHUNK_ELEMENTS = 1 << 24
"""Most elements in one chunk: what a rank that wants any of it has to read, and to hold."""
WRITER = 0
"""The rank that plans, and finishes the folder."""


def save(
    parts: Sequence[Part], state: State, folder: Path, token: str, group: dist.ProcessGroup | None = None
) -> Path:
    """Write ``parts`` of all ranks and ``state`` as one checkpoint in ``folder``; collective.

    Args:
        parts: what is this rank's to save; `orchestrate.train.checkpoint.parts.written`.
        token: tells this attempt from any other; the same on every rank.
        group: all ranks; for a thread of its own, a group that nothing else uses meanwhile.

    Returns:
        The finished checkpoint's folder.

    Raises:
        OSError: something could not be written, on every rank. What had been written is removed.
    """
    partial, final = folder / f"{name_of(state.step)}.partial-{token}", folder / name_of(state.step)
    writer = _Writer(partial, dist.get_rank())
    try:
        with _one_error():
            save_through_torch({}, storage_writer=writer, planner=_Planner(parts), process_group=group)
        _finish(writer, state, partial, final, group)
    except OSError:
        # By now every rank has stopped writing: they learn of an error together.
        if dist.get_rank() == WRITER:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    return final


def save_alone(parts: Sequence[Part], state: State, folder: Path, token: str) -> Path:
    """`save` in a process that has no others.

    Raises:
        OSError: something could not be written. What had been written is removed.
        UserError: a part that is read only now could not be.
    """
    partial, final = folder / f"{name_of(state.step)}.partial-{token}", folder / name_of(state.step)
    writer = _Writer(partial, WRITER)
    try:
        # What torch's save comes to without other ranks.
        planner = _Planner(parts)
        (plan,), metadata = planner.create_global_plan([planner.create_local_plan()])
        writer.set_up_storage_writer(is_coordinator=True)
        writer.finish(metadata, [writer.write_data(plan, planner).value()])
        commit(partial, final, state, writer.files)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


@contextlib.contextmanager
def _one_error() -> Iterator[None]:
    """The first error of any rank, as an OSError."""
    try:
        yield
    except CheckpointException as error:
        rank, (cause, _trace) = min(error.failures.items())
        if not isinstance(cause, OSError):
            raise
        raise OSError(getattr(cause, "errno", None), f"rank {rank}: {_reason(cause)}") from cause


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error)


def _finish(
    writer: _Writer, state: State, partial: Path, final: Path, group: dist.ProcessGroup | None
) -> None:
    rank = dist.get_rank()
    files: list[Any] = [None] * dist.get_world_size()
    dist.gather_object(writer.files, files if rank == WRITER else None, dst=WRITER, group=group)
    failure: list[Any] = [None]
    if rank == WRITER:
        try:
            commit(partial, final, state, {name: c for some in files for name, c in some.items()})
        except OSError as error:
            failure = [(error.errno, f"rank {rank}: {_reason(error)}")]
    dist.broadcast_object_list(failure, src=WRITER, group=group)
    if failure[0] is not None:
        raise OSError(*failure[0])


def _save_tensor(tensor: Any, stream: Hashed) -> None:
    # A copy of its own: torch.save writes the whole memory that a view is part of.
    alone = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)
    try:
        torch.save(alone, cast(BinaryIO, stream))
    except Exception:
        if stream.error is not None:
            raise stream.error from None
        raise


class _Planner(SavePlanner):
    """Plans the chunks of parts; no tensor is gathered, and no rank learns of another's memory."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        self._where: dict[MetadataIndex, tuple[Part, Chunk]] = {}

    def set_up_planner(self, state_dict: Any, storage_meta: Any = None, is_coordinator: bool = False) -> None:
        """Nothing: all that there is to save came with the constructor."""

    def create_local_plan(self) -> SavePlan:
        items = []
        for part in self._parts:
            size = torch.Size(part.sharding.full_shape)
            properties = TensorProperties(dtype=part.values.dtype)
            for chunk in (piece for whole in part.chunks() for piece in split(whole, CHUNK_ELEMENTS)):
                index = MetadataIndex(part.name, chunk.offsets)
                self._where[index] = part, chunk
                box = ChunkStorageMetadata(torch.Size(chunk.offsets), torch.Size(chunk.sizes))
                data = TensorWriteData(box, properties, size)
                items.append(WriteItem(index, WriteItemType.SHARD, tensor_data=data))
        return SavePlan(items)

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        tensors: dict[str, TensorStorageMetadata] = {}
        for item in (item for plan in all_plans for item in plan.items):
            data = item.tensor_data
            assert data is not None
            known = tensors.setdefault(item.index.fqn, TensorStorageMetadata(data.properties, data.size, []))
            known.chunks.append(data.chunk)
        for name, tensor in tensors.items():
            covered = sum(math.prod(chunk.sizes) for chunk in tensor.chunks)
            assert covered == math.prod(tensor.size), f"{name}: {covered} elements of {tuple(tensor.size)}"
        return all_plans, Metadata(dict(tensors))

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        return new_plan

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        part, chunk = self._where[write_item.index]
        return part.view(chunk)


class _Writer(StorageWriter):
    """One file per rank, as torch's reader of file systems expects it, chunk after chunk.

    Unlike torch's writer it holds one chunk at a time, and knows the digest of what it wrote.
    """

    def __init__(self, path: Path, rank: int) -> None:
        self._path = path
        self._rank = rank
        self.files: dict[str, Checksum] = {}
        """What this rank has written."""

    def reset(self, checkpoint_id: Any = None) -> None:
        """Nothing: a writer is for one checkpoint."""

    def set_up_storage_writer(self, is_coordinator: bool, *_: Any, **__: Any) -> None:
        if is_coordinator:
            self._path.mkdir(parents=True)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        results = []
        if plan.items:
            name = f"__{self._rank}_0.distcp"
            with create(self._path / name) as stream:
                for item in plan.items:
                    start = stream.size
                    _save_tensor(planner.resolve_data(item), stream)
                    length = stream.size - start
                    results.append(WriteResult(item.index, length, _StorageInfo(name, start, length)))
            self.files[name] = stream.checksum
        future: Future[list[WriteResult]] = Future()
        future.set_result(results)
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        metadata.storage_data = {r.index: r.storage_data for some in results for r in some}
        metadata.version = "1.0.0"
        with create(self._path / METADATA) as stream:
            stream.write(pickle.dumps(metadata))
        self.files[METADATA] = stream.checksum

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True
