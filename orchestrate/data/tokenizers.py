"""From text to token ids: raw bytes, or a byte-pair tokenizer of the ``tokenizers`` library."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from orchestrate.data.sources import Piece
from orchestrate.errors import DataError

Tokens = NDArray[Any]
"""One dim of unsigned integers."""

END_OF_DOCUMENT = "<|endoftext|>"
KNOWN_ENDS = (END_OF_DOCUMENT, "<|end_of_text|>", "</s>", "<eos>", "<|eot_id|>", "<|im_end|>")
"""Names that published tokenizers give the token between documents, the commonest first."""


class Tokenizer(Protocol):
    name: str
    vocab: int
    """Ids run from 0 to ``vocab`` - 1."""
    end: int | None
    """The id put after every document; None: documents run on."""
    hash: str
    """Equal for tokenizers that give equal ids."""

    def encode(self, pieces: Sequence[Piece], decoding: str) -> list[Tokens]:
        """Ids of each piece, without `end`.

        Raises:
            DataError: bytes that are not text, where the tokenizer needs text and ``decoding`` is strict.
        """
        ...


class ByteTokenizer:
    """The byte is the id: 0 to 255, and 256 after every document."""

    name = "bytes"
    vocab = 257
    end: int | None = 256
    hash = "bytes"

    def encode(self, pieces: Sequence[Piece], decoding: str) -> list[Tokens]:
        return [np.frombuffer(piece.text, dtype=np.uint8) for piece in pieces]


class FileTokenizer:
    """A tokenizer of the ``tokenizers`` library, from its ``tokenizer.json``.

    Raises:
        DataError: the file is missing or is not a tokenizer.
    """

    def __init__(self, path: Path, name: str) -> None:
        import tokenizers

        self.name = name
        try:
            definition = path.read_bytes()
            self._tokenizer = tokenizers.Tokenizer.from_str(definition.decode())
        except OSError as error:
            raise DataError(
                f"data.source.tokenizer: {path}: {error.strerror}; choices: bytes, bpe, or a tokenizer.json"
            ) from None
        except Exception as error:  # the library raises bare Exception for a file it cannot read
            raise DataError(f"data.source.tokenizer: {path} is not a tokenizer.json: {error}") from None
        # Text that spells out a special token is text all the same.
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.hash = hashlib.blake2b(definition, digest_size=16).hexdigest()
        self.vocab = max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        ends = (self._tokenizer.token_to_id(known) for known in KNOWN_ENDS)
        self.end = next((end for end in ends if end is not None), None)

    def encode(self, pieces: Sequence[Piece], decoding: str) -> list[Tokens]:
        texts = [decode(piece, decoding) for piece in pieces]
        return [
            np.array(encoding.ids, dtype=np.uint32)
            for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        ]


def decode(piece: Piece, decoding: str) -> str:
    """The piece as text.

    Raises:
        DataError: bytes that are not UTF-8, where ``decoding`` is strict.
    """
    try:
        return piece.text.decode("utf-8", decoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{piece.origin}: byte 0x{piece.text[error.start]:02x} is not UTF-8: convert the file, "
            "or use data.source.tokenizer=bytes"
        ) from None


def train_bpe(texts: Iterator[str], vocab: int, path: Path) -> None:
    """Train a byte-level byte-pair tokenizer with at most ``vocab`` ids and write it to ``path``.

    Raises:
        DataError: ``vocab`` has no room for the 256 bytes and the end of document.
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    least = 256 + 1
    if vocab < least:
        raise DataError(
            f"data.source.bpe_vocab={vocab}: needs at least {least} (every byte, and the end of document)"
        )
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END_OF_DOCUMENT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(path))
