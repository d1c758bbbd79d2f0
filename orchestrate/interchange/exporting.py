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


class Source:
    """The weights in a checkpoint that has been found to hold those of ``model``.

    Raises:
        ExchangeError: it does not, or the model belongs to neither family.
        CheckpointError: it cannot be read.
    """

    def __init__(self, checkpoint: Path, model: ModelConfig) -> None:
        self._stored = Tensors(checkpoint)
        self.model = model
        shapes = self._stored.shapes
        # Before the table is made: its length is a number out of a file.
        if model.layers > len(shapes):
            raise ExchangeError(f"{checkpoint} has {len(shapes)} tensors, too few for {model.layers} layers")
        for parameter in parameters(counterparts(model)):
            shape = shapes.get(weight_key(parameter.name))
            if shape != parameter.shape:
                has = "has no" if shape is None else f"has shape {list(shape)} of"
                raise ExchangeError(
                    f"{checkpoint} {has} {parameter.name}, but its model asks for {list(parameter.shape)}"
                )

    def rows(self, name: str, rows: slice) -> Tensor:
        """As `orchestrate.interchange.assemble.ReadOurs`."""
        key = weight_key(name)
        rest = self._stored.shapes[key][1:]
        return self._stored.read(key, (rows.start, *(0 for _ in rest)), (rows.stop - rows.start, *rest))


def size_of(model: ModelConfig, dtype: DType) -> int:
    """Bytes of all tensors of ``model`` in ``dtype``."""
    return sum(tensor.elements for tensor in counterparts(model)) * dtype.bytes


def write(read: ReadOurs, model: ModelConfig, out: Path, form: Form, advance: Callable[[int], None]) -> None:
    """Write the weights of ``model`` to the new folder ``out``.

    In memory at a time: one tensor, as ``read`` gives it and as it is written.

    Args:
        advance: is told of every so many bytes that are about to be written.

    Raises:
        ExchangeError: the model has no such form, or something cannot be written.
    """
    tensors = counterparts(model)

    def produce(tensor: Counterpart) -> Tensor:
        advance(tensor.elements * form.dtype.bytes)
        return assemble_theirs(tensor, read)

    with appearing(out, size_of(model, form.dtype)) as folder:
        write_json(folder / CONFIG_FILE, describe(model, form.dtype, form.end))
        tokenizer.copy(form.tokenizer, folder)
        write_files(folder, tensors, form.dtype, form.shard_bytes, produce)
