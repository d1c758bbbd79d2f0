"""Reading a folder in Hugging Face's form: what is in it is checked before a single value is used.

Only safetensors are read: the older ``pytorch_model.bin`` is a pickle, which can run code when it is
opened. A file's header says where each tensor is, so values are read a few rows at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from orchestrate.errors import ExchangeError
from orchestrate.interchange.files import INDEX_FILE, SINGLE_FILE
from orchestrate.interchange.names import Counterpart

_FLOATS = ("F64", "F32", "F16", "BF16")
_FIRST = {"wte.weight": "transformer.", "embed_tokens.weight": "model."}
"""By the embedding's name in a file of a model without its head: how names begin in one of the whole."""
_BUFFERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
"""Ends of the names of masks and angles that older versions saved beside the weights."""
_HEAD = "lm_head.weight"
_COMPARED_ROWS = 1024


@dataclass(frozen=True)
class Stored:
    """One tensor in a file."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str
    """As safetensors spell it."""


class Weights:
    """The tensors of a folder.

    Raises:
        ExchangeError: there are no safetensors in it, or they are damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stored = _with_prefix({stored.name: stored for stored in _tensors_of(folder)})

    def __len__(self) -> int:
        return len(self._stored)

    def check(self, tensors: Sequence[Counterpart]) -> None:
        """Make sure that the folder holds ``tensors`` and no others.

        Raises:
            ExchangeError: one is missing, has another shape or no float type, or is one too many.
        """
        wanted = {tensor.name for tensor in tensors}
        for tensor in tensors:
            stored = self._stored.get(tensor.name)
            if stored is None:
                raise ExchangeError(f"{self.folder}: no file has {tensor.name}, which config.json asks for")
            if stored.shape != tensor.shape:
                raise ExchangeError(
                    f"{stored.file}: {stored.name} has the shape {list(stored.shape)}, but config.json asks"
                    f" for {list(tensor.shape)}"
                )
            if stored.dtype not in _FLOATS:
                raise ExchangeError(
                    f"{stored.file}: {stored.name} is {stored.dtype}: must be one of {', '.join(_FLOATS)}"
                )
        more = [n for n in self._stored if n not in wanted and not n.endswith(_BUFFERS)]
        if more == [_HEAD]:
            self._check_tied_head(tensors[0])
        elif more:
            rest = f" and {len(more) - 1} more" if len(more) > 1 else ""
            raise ExchangeError(
                f"{self._stored[more[0]].file}: {_shown(more[0])}{rest}: the model of config.json has no such"
                " tensor"
            )

    def rows(self, tensor: Counterpart, rows: slice) -> Tensor:
        """Rows of ours out of ``tensor``, as `orchestrate.interchange.assemble.ReadTheirs` has them.

        Raises:
            ExchangeError: the file cannot be read.
        """
        stored = self._stored[tensor.name]
        with _opened(stored.file) as file:
            values = file.get_slice(stored.name)
            return values[:, rows].t() if tensor.transposed else values[rows]  # type: ignore[no-any-return]

    def _check_tied_head(self, word: Counterpart) -> None:
        """Some files repeat the embedding as the head that is tied to it; it must be a repetition."""
        head = Counterpart(_HEAD, word.shape, word.parts)
        stored = self._stored[_HEAD]
        same = stored.shape == word.shape and all(
            self.rows(head, part).equal(self.rows(word, part))
            for start in range(0, word.shape[0], _COMPARED_ROWS)
            for part in [slice(start, min(start + _COMPARED_ROWS, word.shape[0]))]
        )
        if not same:
            raise ExchangeError(
                f"{stored.file}: {_HEAD} differs from {word.name}, but config.json has"
                " tie_word_embeddings=true"
            )


def _tensors_of(folder: Path) -> Iterator[Stored]:
    index = folder / INDEX_FILE
    if index.is_file():
        yield from _indexed(folder, index)
    elif (folder / SINGLE_FILE).is_file():
        yield from _listed(folder / SINGLE_FILE)
    else:
        raise ExchangeError(f"{folder}: {_without_files(folder)}")


def _without_files(folder: Path) -> str:
    if not folder.is_dir():
        return "no such folder"
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickles:
        return (
            f"{pickles[0]} is a pickle, which can run code when it is read: save the model as safetensors"
            " (save_pretrained of transformers does)"
        )
    return f"holds neither {SINGLE_FILE} nor {INDEX_FILE}"


def _indexed(folder: Path, index: Path) -> Iterator[Stored]:
    weight_map = _read_index(index)
    for name in sorted(set(weight_map.values())):
        listed = {stored.name: stored for stored in _listed(folder / name)}
        for tensor, file in weight_map.items():
            if file == name:
                if tensor not in listed:
                    raise ExchangeError(
                        f"{_shown(folder / name)} has no {_shown(tensor)}, though {index.name} says so"
                    )
                yield listed[tensor]


def _read_index(index: Path) -> Mapping[str, str]:
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        weight_map = None
    if not isinstance(weight_map, dict) or not weight_map:
        raise ExchangeError(f"{index} is not an index of safetensors files")
    for tensor, name in weight_map.items():
        # The index must not lead out of its folder, nor to what is not a safetensors file.
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise ExchangeError(
                f"{index}: {_shown(tensor)} is said to be in {json.dumps(name)[:60]}: must be the name of a"
                " .safetensors file in the same folder"
            )
    return weight_map


def _listed(path: Path) -> Iterator[Stored]:
    with _opened(path) as file:
        for name in list(file.keys()):
            values = file.get_slice(name)
            yield Stored(path, name, tuple(values.get_shape()), values.get_dtype())


def _with_prefix(tensors: dict[str, Stored]) -> dict[str, Stored]:
    """The names as in a file of the whole model; one of a model without its head leaves their start out."""
    prefix = next((prefix for known, prefix in _FIRST.items() if known in tensors), "")
    return {name if name == _HEAD else prefix + name: stored for name, stored in tensors.items()}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file, its errors in one line."""
    try:
        with safe_open(str(path), framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise ExchangeError(f"{_shown(path)} is not a whole safetensors file: {_shown(error)}") from None
    except OSError as error:
        raise ExchangeError(f"{_shown(path)}: {error.strerror or _shown(error)}") from None


def _shown(text: object) -> str:
    """``text``, part of which a file chose, without what a terminal would take for commands."""
    plain = str(text)
    return plain[:200] if plain.isprintable() else ascii(plain)[:200]
