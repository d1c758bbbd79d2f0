"""From a folder in Hugging Face's form to a checkpoint of no steps, tensor by tensor."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import Tensor

from orchestrate import __version__
from orchestrate.config import Config, DType, ModelConfig, dump
from orchestrate.errors import ExchangeError
from orchestrate.interchange import tokenizer
from orchestrate.interchange.architecture import CONFIG_FILE, read_config
from orchestrate.interchange.assemble import ReadTheirs, assemble_ours
from orchestrate.interchange.folder import Weights
from orchestrate.interchange.names import Counterpart, Parameter, counterparts, parameters
from orchestrate.interchange.outcome import appearing
from orchestrate.model.sharding import Sharding
from orchestrate.resources import revision
from orchestrate.train.checkpoint.chunks import Chunk, chunks
from orchestrate.train.checkpoint.format import FOLDER, State
from orchestrate.train.checkpoint.parts import Part, weight_key
from orchestrate.train.checkpoint.write import save_alone

MODEL_GROUP = "model"
"""The folder of model presets, as it is called below any --config-dir."""


class Source:
    """A folder that has been found to hold a whole model of a family that is known here.

    Raises:
        ExchangeError: it does not.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.model = read_config(folder, name)
        self._weights = Weights(folder)
        # Before the table is made: its length is a number out of a file.
        if self.model.layers > len(self._weights):
            raise ExchangeError(
                f"{folder / CONFIG_FILE} asks for {self.model.layers} layers, but the files hold"
                f" {len(self._weights)} tensors in all"
            )
        tensors = counterparts(self.model)
        self._weights.check(tensors)
        self.parameters = parameters(tensors)

    def rows(self, tensor: Counterpart, rows: slice) -> Tensor:
        """As `orchestrate.interchange.assemble.ReadTheirs`."""
        return self._weights.rows(tensor, rows)


def size_of(source: Source, dtype: DType) -> int:
    """Bytes of all weights of ``source`` in ``dtype``."""
    return sum(parameter.elements for parameter in source.parameters) * dtype.bytes


def weights_dtype(config: Config) -> DType:
    """What a checkpoint for ``config`` keeps its weights in."""
    return DType.fp64 if config.precision.dtype is DType.fp64 else DType.fp32


def bring_in(source: Source, config: Config, out: Path, advance: Callable[[int], None]) -> None:
    """Write ``source`` to the new folder ``out``: a checkpoint of no steps, and the model as a preset.

    In memory at a time: one chunk of a parameter.

    Args:
        config: of the run that is to start from it, with the model of ``source``.
        advance: is told of every so many bytes that are about to be written.

    Raises:
        ExchangeError: a file of ``source`` cannot be read, or one of ``out`` not written.
    """
    dtype = weights_dtype(config)
    # The elements come later, one chunk after the other; this only says of which type they are.
    none = torch.empty(0, dtype=torch.float64 if dtype is DType.fp64 else torch.float32)
    parts = [
        _Lazy(weight_key(p.name), Sharding(p.shape), 0, none, p, source.rows, advance)
        for p in source.parameters
    ]
    with appearing(out, size_of(source, dtype)) as folder:
        (folder / FOLDER).mkdir()
        save_alone(parts, _state(config), folder / FOLDER, "importing")
        presets = folder / MODEL_GROUP
        presets.mkdir()
        (presets / f"{config.model.name}.yaml").write_text(preset(config.model, source.folder))
        tokenizer.copy(tokenizer.files_of(source.folder), folder)


def preset(model: ModelConfig, origin: Path) -> str:
    """The file of ``conf/model/`` for ``model``: what differs from the defaults."""
    plain, defaults = dump(model), dump(ModelConfig("", 1, 1, 1, 1, 1, 1))
    sizes = ("name", "layers", "hidden", "heads", "ffn_hidden", "vocab", "seq")
    chosen = {key: value for key, value in plain.items() if key in sizes or value != defaults[key]}
    text: str = yaml.safe_dump(chosen, sort_keys=False)
    return f"# Imported from {' '.join(origin.name.split())}.\n{text}"


@dataclass(frozen=True)
class _Lazy(Part):
    """A whole parameter that is read from the Hugging Face files chunk by chunk, when it is written."""

    parameter: Parameter
    read: ReadTheirs
    advance: Callable[[int], None]

    def chunks(self) -> Iterator[Chunk]:
        return chunks(self.sharding, 0, self.parameter.elements)

    def view(self, chunk: Chunk) -> Tensor:
        self.advance(math.prod(chunk.sizes) * self.values.element_size())
        first = chunk.offsets[0]
        rows = assemble_ours(self.parameter, self.read, slice(first, first + chunk.sizes[0]))
        assert tuple(rows.shape) == chunk.sizes
        return rows.to(self.values.dtype)


def _state(config: Config) -> State:
    return State(
        step=0,
        samples=0,
        seed=config.train.seed,
        data_fingerprint="",
        updates=0,
        loss_scale=1.0,
        good_steps=0,
        config=dump(config),
        plan={},
        revision=revision(),
        versions={"orchestrate": __version__, "torch": torch.__version__},
        time=time.time(),
    )
