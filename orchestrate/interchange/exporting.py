"""From a checkpoint to a folder in Hugging Face's form, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from orchestrate.config import DType, ModelConfig
from orchestrate.errors import ExchangeError
from orchestrate.interchange import tokenizer
from orchestrate.interchange.architecture import CONFIG_FILE, describe
from orchestrate.interchange.assemble import ReadOurs, assemble_theirs
from orchestrate.interchange.files import write_files, write_json
from orchestrate.interchange.names import Counterpart, counterparts, parameters
from orchestrate.interchange.outcome import appearing
from orchestrate.train.checkpoint.parts import weight_key
from orchestrate.train.checkpoint.read import Tensors


@dataclass(frozen=True)
class Form:
    """How the files are to be."""

    dtype: DType
    shard_bytes: int
    """Of tensors in one file, at most; a larger tensor has a file of its own."""
    tokenizer: Mapping[str, Path]
    """Files to copy, by the name that they get."""
    end: int | None
    """The id of the token that ends a document."""


def size_of(model: ModelConfig, dtype: DType) -> int:
    """Bytes of all tensors of ``model`` in ``dtype``."""
    return sum(tensor.elements for tensor in counterparts(model)) * dtype.bytes


def export(
    checkpoint: Path, model: ModelConfig, out: Path, form: Form, advance: Callable[[int], None]
) -> None:
    """Write the weights of ``checkpoint`` to the new folder ``out``.

    In memory at a time: one tensor, as it is stored and as it is written.

    Args:
        advance: is told of every so many bytes that are about to be written.

    Raises:
        ExchangeError: the model has no such form, or something cannot be written.
        CheckpointError: the checkpoint cannot be read, or is not of ``model``.
    """
    stored = Tensors(checkpoint)
    check(stored.shapes, model, checkpoint)

    def read(name: str, rows: slice) -> Tensor:
        key = weight_key(name)
        rest = stored.shapes[key][1:]
        return stored.read(key, (rows.start, *(0 for _ in rest)), (rows.stop - rows.start, *rest))

    write(read, model, out, form, advance)


def check(shapes: Mapping[str, tuple[int, ...]], model: ModelConfig, checkpoint: Path) -> None:
    """Make sure that ``shapes``, those in ``checkpoint``, are those of the weights of ``model``.

    Raises:
        ExchangeError: one is missing or another.
    """
    for parameter in parameters(counterparts(model)):
        shape = shapes.get(weight_key(parameter.name))
        if shape != parameter.shape:
            has = "has no" if shape is None else f"has shape {list(shape)} of"
            raise ExchangeError(
                f"{checkpoint} {has} {parameter.name}, but its model asks for {list(parameter.shape)}"
            )


def write(read: ReadOurs, model: ModelConfig, out: Path, form: Form, advance: Callable[[int], None]) -> None:
    """`export`, from wherever ``read`` takes the weights."""
    tensors = counterparts(model)

    def produce(tensor: Counterpart) -> Tensor:
        advance(tensor.elements * form.dtype.bytes)
        return assemble_theirs(tensor, read)

    with appearing(out, size_of(model, form.dtype)) as folder:
        write_json(folder / CONFIG_FILE, describe(model, form.dtype, form.end))
        tokenizer.copy(form.tokenizer, folder)
        write_files(folder, tensors, form.dtype, form.shard_bytes, produce)
