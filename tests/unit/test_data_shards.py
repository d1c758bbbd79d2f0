"""Shards: whole or not there, made once however many make them, and never read when damaged."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from orchestrate.data import cache, open_data
from orchestrate.data.prepare import prepare
from orchestrate.data.shard import CHUNK_BYTES, Checksum, ShardWriter, open_shard, verify
from orchestrate.errors import DataError
from tests.unit.data_cases import config, text

ROOT = Path(__file__).parents[2]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("some words of text\n" * 200)
    return path


def folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir())


@given(
    documents=st.lists(st.lists(st.integers(0, 65535), max_size=50), min_size=1, max_size=20),
    vocab=st.sampled_from([65536, 65537, 2**32]),
)
def test_a_shard_is_read_as_written(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], vocab: int
) -> None:
    folder = tmp_path_factory.mktemp("shard")
    with ShardWriter(folder, vocab) as writer:
        for document in documents:
            half = len(document) // 2
            writer.append(np.array(document[:half], dtype=np.int64))
            writer.append(np.array(document[half:], dtype=np.int64))
            writer.end_document(None)
        writer.finish("source", "tokenizer")
    shard = open_shard(folder)
    verify(folder)
    bounds = shard.documents.tolist()
    assert [shard.tokens[a:b].tolist() for a, b in pairwise(bounds)] == documents
    assert shard.header.max_id == max([0, *(token for document in documents for token in document)])
    assert shard.tokens.dtype.itemsize == (2 if vocab == 65536 else 4)


def test_checksums_do_not_depend_on_how_bytes_arrive() -> None:
    data = np.arange(CHUNK_BYTES // 4 * 2 + 100, dtype=np.uint32).tobytes()
    at_once, in_pieces = Checksum(), Checksum()
    at_once.update(data)
    for start in range(0, len(data), 7_000_003):
        in_pieces.update(data[start : start + 7_000_003])
    assert at_once.values() == in_pieces.values()
    assert len(at_once.values()) == 3


def test_a_changed_source_is_prepared_again(corpus: Path, tmp_path: Path) -> None:
    made = config(text(corpus), tmp_path / "cache")
    assert prepare(made)[0].new
    assert not prepare(made)[0].new
    before = open_data(made).fingerprint
    os.utime(corpus, ns=(1, 1))
    assert prepare(made)[0].new
    assert open_data(made).fingerprint == before, "the same tokens"
    corpus.write_text("other words of text\n" * 200)
    assert prepare(made)[0].new
    assert open_data(made).fingerprint != before


def test_a_flipped_bit_is_found(corpus: Path, tmp_path: Path) -> None:
    made = config(text(corpus), tmp_path / "cache")
    (summary,) = prepare(made)
    path = summary.folder / "tokens.bin"
    data = bytearray(path.read_bytes())
    data[1234] ^= 4
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"tokens\.bin is damaged: its checksum .* delete this folder"):
        prepare(made)


@pytest.mark.parametrize("name", ["tokens.bin", "documents.bin"])
def test_a_file_of_another_length(corpus: Path, tmp_path: Path, name: str) -> None:
    made = config(text(corpus), tmp_path / "cache")
    path = prepare(made)[0].folder / name
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole + b"\0", b""):
        path.write_bytes(damaged)
        with pytest.raises(
            DataError, match=rf"{name} is damaged: {len(damaged)} bytes, .* {len(whole)}: delete"
        ):
            open_data(made)
    path.unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        open_data(made)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '{"format": 99}'])
def test_a_damaged_header(corpus: Path, tmp_path: Path, content: str) -> None:
    made = config(text(corpus), tmp_path / "cache")
    (prepare(made)[0].folder / "header.json").write_text(content)
    with pytest.raises(DataError, match=r"header\.json is damaged: delete this folder"):
        open_data(made)


def test_a_header_says_what_it_is_of(corpus: Path, tmp_path: Path) -> None:
    (summary,) = prepare(config(text(corpus), tmp_path / "cache"))
    header = json.loads((summary.folder / "header.json").read_text())
    assert header["tokenizer"] == "bytes"
    assert header["tokens"] == 19 * 200 + 1
    assert header["documents"] == 1
    assert header["dtype"] == "<u2"
    assert header["max_id"] == 256


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_an_interruption_leaves_nothing(tmp_path: Path, stop: type[BaseException]) -> None:
    def build(temporary: Path) -> None:
        (temporary / "tokens.bin").write_bytes(b"half")
        raise stop

    with pytest.raises(stop):
        cache.ensure(tmp_path / "root" / "shard", build)
    assert folders(tmp_path / "root") == []


def test_what_a_killed_process_left_is_cleared(corpus: Path, tmp_path: Path) -> None:
    """A process killed outright while it writes leaves no shard, and the next one starts afresh."""
    made = config(text(corpus), tmp_path / "cache")
    script = (
        "import os, signal; from pathlib import Path\n"
        "from orchestrate.data import open_data; from orchestrate.data.shard import ShardWriter\n"
        "from tests.unit.data_cases import config, text\n"
        "ShardWriter.finish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"open_data(config(text({str(corpus)!r}), Path({str(tmp_path / 'cache')!r})))"
    )
    killed = subprocess.run([sys.executable, "-c", script], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    (left,) = folders(tmp_path / "cache")
    assert ".tmp-" in left.name
    (summary,) = prepare(made)
    assert summary.new
    assert folders(tmp_path / "cache") == [summary.folder]


def test_processes_that_prepare_at_once(corpus: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from orchestrate.data.prepare import prepare\n"
        "from tests.unit.data_cases import config, text\n"
        f"source = text({str(corpus)!r}, tokenizer='bpe', bpe_vocab=300)\n"
        f"made = config(source, Path({str(tmp_path / 'c')!r}), vocab=300)\n"
        "sys.stdin.readline()\n"
        "print(int(prepare(made)[0].new))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sorted(said) == ["0", "0", "1"], "one of them did the work"
    assert len(folders(tmp_path / "c")) == 2, "the tokenizer and the shard"


def test_who_waits_is_told_for_whom(tmp_path: Path) -> None:
    began, told = threading.Event(), threading.Event()

    class Screen(io.StringIO):
        def write(self, text: str) -> int:
            told.set()
            return super().write(text)

    def build(temporary: Path) -> None:
        began.set()
        assert told.wait(60)

    screen = Screen()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(cache.ensure, tmp_path / "shard", build)
        assert began.wait(60)
        assert not cache.ensure(tmp_path / "shard", build, Console(file=screen, width=200))
        assert first.result(60)
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    assert screen.getvalue() == f"waiting for {holder}, which prepares shard\n"


def test_the_first_of_two_without_locks_wins(tmp_path: Path) -> None:
    """Where a file system has no locks, two may build at once: the second finds the first's folder."""

    def slower(temporary: Path) -> None:
        (temporary / "who").write_text("slower")
        other = tmp_path / "other"
        other.mkdir()
        (other / "who").write_text("faster")
        other.rename(tmp_path / "shard")

    assert cache.ensure(tmp_path / "shard", slower) is False
    assert (tmp_path / "shard" / "who").read_text() == "faster"
    assert [path.name for path in folders(tmp_path)] == ["shard"]


def test_a_cache_that_cannot_be_written(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"data\.cache: cannot write .*: Not a directory|File exists"):
        prepare(config(text(corpus), tmp_path / "file" / "cache"))
