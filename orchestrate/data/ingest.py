"""From configured sources to tokens that can be mapped: shards in the cache, each made once."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrate.config import DataConfig, SourceConfig, unknown_key
from orchestrate.data import cache
from orchestrate.data.files import find_files, fingerprint
from orchestrate.data.megatron import open_pair, scan
from orchestrate.data.meter import Meter
from orchestrate.data.shard import FORMAT, Header, ShardWriter, open_shard, read_header
from orchestrate.data.sources import Corpus, Piece, stdlib_corpus, text_corpus
from orchestrate.data.stream import Part, Stream
from orchestrate.data.tokenizers import ByteTokenizer, FileTokenizer, Tokenizer, decode, train_bpe
from orchestrate.errors import DataError

if TYPE_CHECKING:
    from rich.console import Console

BATCH_BYTES = 8 << 20
"""Text handed to the tokenizer at a time, so that it can work in parallel."""
TRAINING_BYTES = 256 << 20
"""A byte-pair tokenizer is trained on about so much text at most, evenly taken from the corpus."""
KINDS = ("stdlib", "text", "megatron", "blend")


@dataclass(frozen=True)
class Prepared:
    """Tokens of one source, ready to be mapped."""

    source: SourceConfig
    name: str
    """The source in a few words, for messages."""
    folder: Path
    """In the cache."""
    header: Header
    new: bool
    """False where the cache had it."""
    stream: Stream


def ingest(data: DataConfig, console: Console | None = None) -> tuple[Prepared, ...]:
    """The tokens of every source that `leaves` gives, from the cache or made now.

    Raises:
        DataError: a file that is missing, empty or damaged, or does not suit its tokenizer.
    """
    root = Path(os.path.expanduser(data.cache)).absolute()
    sources = leaves(data.source)
    corpora = {source: _corpus(source) for source in sources if source.kind != "megatron"}
    tokenizers = _tokenizers(corpora, root, console)
    return tuple(
        _text(source, corpora[source], tokenizers[source], root, console)
        if source in corpora
        else _megatron(source, root, console)
        for source in sources
    )


def leaves(source: SourceConfig) -> tuple[SourceConfig, ...]:
    """The sources of tokens in ``source``: itself, or those of its blend, depth first.

    Raises:
        DataError: a kind that does not exist, an empty blend, or a weight that is not above 0.
    """
    if source.kind not in KINDS:
        raise DataError(
            unknown_key(source.kind, list(KINDS)).replace("unknown key", "data.source.kind: unknown")
        )
    if source.kind != "blend":
        return (source,)
    if not source.blend:
        raise DataError("data.source.blend is empty: give it at least one source with a weight")
    for position, entry in enumerate(source.blend):
        if not (entry.weight > 0 and math.isfinite(entry.weight)):
            raise DataError(
                f"data.source.blend[{position}].weight={entry.weight:g}: must be above 0; "
                "to leave a source out, remove it"
            )
    return tuple(leaf for entry in source.blend for leaf in leaves(entry.source))


def _corpus(source: SourceConfig) -> Corpus:
    return stdlib_corpus() if source.kind == "stdlib" else text_corpus(source)


def _tokenizers(
    corpora: Mapping[SourceConfig, Corpus], root: Path, console: Console | None
) -> dict[SourceConfig, Tokenizer]:
    """Each source's tokenizer; sources that say ``bpe`` share one, trained on all of them.

    Raises:
        DataError: a tokenizer that cannot be read or made, or ids that would mean different text
            in different sources of a blend.
    """
    learning = [source for source in corpora if source.tokenizer == "bpe"]
    sizes = sorted({source.bpe_vocab for source in learning})
    if len(sizes) > 1:
        raise DataError(
            f"data.source.blend: bpe_vocab is {sizes[0]} and {sizes[1]}, but a blend has one tokenizer"
        )
    learnt = _train([corpora[source] for source in learning], sizes[0], root, console) if learning else None
    chosen: dict[SourceConfig, Tokenizer] = {}
    for source in corpora:
        if source.tokenizer == "bytes":
            chosen[source] = ByteTokenizer()
        elif source.tokenizer == "bpe":
            assert learnt is not None
            chosen[source] = learnt
        else:
            chosen[source] = FileTokenizer(Path(source.tokenizer).expanduser(), source.tokenizer)
    names = {tokenizer.hash: tokenizer.name for tokenizer in chosen.values()}
    if len(names) > 1:
        raise DataError(
            f"data.source.blend mixes tokenizers {' and '.join(names.values())}: a blend needs one for all"
        )
    return chosen


def _train(corpora: list[Corpus], vocab: int, root: Path, console: Console | None) -> Tokenizer:
    import tokenizers

    key = _key(str(vocab), tokenizers.__version__, *(corpus.fingerprint() for corpus in corpora))
    folder = root / f"tokenizer-{key}"

    def build(temporary: Path) -> None:
        total = sum(corpus.size for corpus in corpora)
        with Meter("training the tokenizer", total, console) as meter:
            train_bpe(_sample(corpora, total, meter), vocab, temporary / "tokenizer.json")

    cache.ensure(folder, build, console)
    return FileTokenizer(folder / "tokenizer.json", "bpe")


def _sample(corpora: list[Corpus], total: int, meter: Meter) -> Iterator[str]:
    """Every k-th piece of text, k such that about `TRAINING_BYTES` remain."""
    every = -(-total // TRAINING_BYTES)
    position = 0
    for corpus in corpora:
        for piece in corpus.pieces():
            if position % every == 0:
                yield decode(piece, corpus.decoding)
            position += 1
            meter.advance(piece.read)


def _text(
    source: SourceConfig, corpus: Corpus, tokenizer: Tokenizer, root: Path, console: Console | None
) -> Prepared:
    if corpus.size == 0:
        raise DataError(f"{_name(source)}: all of its {len(corpus.files)} files are empty")
    before = corpus.fingerprint()
    folder = root / f"{source.kind}-{_key(before, tokenizer.hash)}"

    def build(temporary: Path) -> None:
        with (
            Meter(f"preparing {source.kind}", corpus.size, console) as meter,
            ShardWriter(temporary, tokenizer.vocab) as writer,
        ):
            for batch in _batches(corpus.pieces()):
                for piece, ids in zip(batch, tokenizer.encode(batch, corpus.decoding), strict=True):
                    writer.append(ids)
                    if piece.last:
                        writer.end_document(tokenizer.end)
                    meter.advance(piece.read)
            writer.finish(before, tokenizer.hash)
        if corpus.fingerprint() != before:
            raise DataError(f"{_name(source)}: files changed while they were read: run again")

    new = cache.ensure(folder, build, console)
    shard = open_shard(folder)
    return Prepared(
        source, _name(source), folder, shard.header, new, Stream([Part(shard.tokens, shard.documents)])
    )


def _batches(pieces: Iterator[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += piece.read
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _megatron(source: SourceConfig, root: Path, console: Console | None) -> Prepared:
    prefixes = [path.removesuffix(".idx").removesuffix(".bin") for path in source.paths]
    indices = find_files(prefixes, ".idx")
    pairs = [open_pair(index) for index in indices]
    files = [file for index in indices for file in (index, index.with_suffix(".bin"))]
    before = fingerprint((str(file), file) for file in files)
    folder = root / f"megatron-{_key(before)}"

    def build(temporary: Path) -> None:
        with Meter("reading megatron", sum(pair.tokens.nbytes for pair in pairs), console) as meter:
            scan(pairs, before, meter).write(temporary)

    new = cache.ensure(folder, build, console)
    stream = Stream([pair.part() for pair in pairs])
    return Prepared(source, _name(source), folder, read_header(folder), new, stream)


def _name(source: SourceConfig) -> str:
    paths = source.paths if source.kind != "stdlib" else ()
    return " ".join(["data=" + source.kind, *paths[:1], *(["…"] if len(paths) > 1 else [])])


def _key(*parts: str) -> str:
    return hashlib.blake2b("\0".join([str(FORMAT), *parts]).encode(), digest_size=8).hexdigest()
