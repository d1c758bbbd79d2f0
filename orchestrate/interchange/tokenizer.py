"""The tokenizer's files, which travel with a model but are no part of it. No torch here."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from orchestrate.config import SourceConfig
from orchestrate.data.ingest import leaves
from orchestrate.data.tokenizers import ByteTokenizer, FileTokenizer
from orchestrate.errors import ExchangeError

DEFINITION = "tokenizer.json"
FILES = (
    DEFINITION,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
"""What libraries look for."""


def files_of(given: Path) -> dict[str, Path]:
    """The tokenizer's files in the folder ``given``, or the one file that it is, by the name to give them."""
    if given.is_file():
        return {DEFINITION: given}
    return {name: given / name for name in FILES if (given / name).is_file()}


def named(source: SourceConfig) -> str | None:
    """The tokenizer of ``source``, as the config has it; None for tokens that came as ids."""
    return next((leaf.tokenizer for leaf in leaves(source) if leaf.kind != "megatron"), None)


def find(given: str | None, made_with: str | None) -> dict[str, Path]:
    """The files of the tokenizer that ``given`` names, or else of the one that the data were made with.

    Args:
        made_with: as `named` has it; one that is gone by now, or was trained on the data, is left out.

    Raises:
        ExchangeError: ``given`` names no tokenizer.
    """
    if given is None:
        return {} if made_with in (None, "bytes", "bpe") else files_of(Path(str(made_with)).expanduser())
    found = files_of(Path(given).expanduser())
    if not found:
        raise ExchangeError(
            f"export.tokenizer={given}: no tokenizer there: name a {DEFINITION}, or a folder that holds one"
        )
    return found


def end_of_document(files: Mapping[str, Path], made_with: str | None, vocab: int) -> int | None:
    """The id of the token that ends a document, where it is known and below ``vocab``.

    Raises:
        DataError: the file of the tokenizer is damaged.
    """
    end = None
    if DEFINITION in files:
        end = FileTokenizer(files[DEFINITION], str(files[DEFINITION])).end
    elif not files and made_with == "bytes":
        end = ByteTokenizer.end
    return end if end is not None and end < vocab else None


def copy(files: Mapping[str, Path], folder: Path) -> None:
    """Copy ``files`` into ``folder`` under their names."""
    for name, path in files.items():
        shutil.copyfile(path, folder / name)
