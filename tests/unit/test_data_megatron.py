"""Megatron's pairs: read as they are, or refused in one line."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrate.config import SourceConfig
from orchestrate.data import open_data
from orchestrate.data.ingest import ingest
from orchestrate.data.megatron import open_pair
from orchestrate.data.prepare import prepare
from orchestrate.data.stream import View
from orchestrate.errors import DataError
from tests.unit.data_cases import CODES, config, write_megatron

DOCUMENTS = [list(range(n, n + 40)) for n in range(0, 100, 10)]


def source(*prefixes: Path | str) -> SourceConfig:
    return SourceConfig("megatron", tuple(map(str, prefixes)))


def refusal(prefix: Path, vocab: int = 1000) -> str:
    with pytest.raises(DataError) as caught:
        open_data(config(source(prefix), prefix.parent / "cache", vocab=vocab))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@given(
    documents=st.lists(st.lists(st.integers(0, 100), max_size=20), min_size=1, max_size=20).filter(
        lambda documents: any(documents)
    ),
    dtype=st.sampled_from(["u1", "i1", "i2", "i4", "i8", "u2"]),
    modes=st.booleans(),
)
def test_a_pair_is_read_as_written(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], dtype: str, modes: bool
) -> None:
    prefix = tmp_path_factory.mktemp("pair") / "set.v1"
    write_megatron(prefix, documents, dtype, modes=modes)
    pair = open_pair(Path(f"{prefix}.idx"))
    pair.check()
    part = pair.part()
    assert part.tokens.tolist() == [token for document in documents for token in document]
    starts = part.documents[np.arange(len(documents) + 1)].tolist()
    assert [part.tokens[a:b].tolist() for a, b in pairwise(starts)] == documents


def test_several_pairs_follow_one_another(tmp_path: Path) -> None:
    write_megatron(tmp_path / "a", DOCUMENTS[:4], "u2")
    write_megatron(tmp_path / "b", DOCUMENTS[4:], "i4")
    made = config(source(tmp_path / "a.bin", tmp_path / "b"), tmp_path / "cache", vocab=200)
    (summary,) = prepare(made)
    assert (summary.tokens, summary.documents, summary.vocab) == (400, 10, 130)
    (one,) = ingest(made.data)
    read = View(one.stream, np.array([0]), np.array([400])).read(0, 400)
    assert read.tolist() == [token for document in DOCUMENTS for token in document]
    assert open_data(config(source(tmp_path / "?"), tmp_path / "cache", vocab=200)).vocab == 130
    assert list((tmp_path / "cache").rglob("tokens.bin")) == [], "nothing is copied"


def test_whole_documents_are_kept_for_validation(tmp_path: Path) -> None:
    write_megatron(tmp_path / "a", [[i] * 50 for i in range(100)])
    data = open_data(config(source(tmp_path / "a"), tmp_path / "cache", vocab=100))
    kept = {int(t) for n in range(data.validation.windows) for t in data.validation.sample(n)}
    assert kept == {9, 19, 29, 39, 49, 59, 69, 79, 89, 99}
    trained = {int(t) for n in range(data.train.windows) for t in data.train.sample(n)}
    assert not kept & trained


def test_files_that_changed_are_read_again(tmp_path: Path) -> None:
    write_megatron(tmp_path / "a", DOCUMENTS)
    made = config(source(tmp_path / "a"), tmp_path / "cache", vocab=200)
    before = open_data(made)
    write_megatron(tmp_path / "a", [*DOCUMENTS, [150]])
    after = open_data(made)
    assert (before.vocab, after.vocab) == (130, 151)
    assert before.fingerprint != after.fingerprint


def test_ids_beyond_the_vocabulary(tmp_path: Path) -> None:
    write_megatron(tmp_path / "a", DOCUMENTS)
    assert "token id 129, but model.vocab=129 ends at 128: use model.vocab=130" in refusal(
        tmp_path / "a", 129
    )


def test_missing_files(tmp_path: Path) -> None:
    write_megatron(tmp_path / "corpus", DOCUMENTS)
    assert f"corpsu.idx: no such file (closest: {tmp_path}/corpus.idx)" in refusal(tmp_path / "corpsu")
    (tmp_path / "corpus.bin").unlink()
    assert "corpus.bin: no such file" in refusal(tmp_path / "corpus")


def test_a_truncated_bin(tmp_path: Path) -> None:
    write_megatron(tmp_path / "a", DOCUMENTS)
    data = tmp_path / "a.bin"
    data.write_bytes(data.read_bytes()[:-6])
    assert "a.bin is damaged: 794 bytes, but its index says 800" in refusal(tmp_path / "a")
    data.write_bytes(b"")
    assert "a.bin is damaged: 0 bytes, but its index says 800" in refusal(tmp_path / "a")


def test_a_truncated_index(tmp_path: Path) -> None:
    write_megatron(tmp_path / "a", DOCUMENTS)
    index = tmp_path / "a.idx"
    whole = index.read_bytes()
    for length in range(len(whole)):
        index.write_bytes(whole[:length])
        assert "a.idx is " in refusal(tmp_path / "a")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"magic": b"TNTIDX\x00\x00\x00"}, "is not a Megatron index: it starts with b'TNTIDX"),
        ({"version": 2}, "has version 2; only version 1 is known"),
        ({"dtype": "f4"}, "has element type code 7; token ids have one of [1, 2, 3, 4, 5, 8]"),
    ],
)
def test_an_index_of_another_kind(tmp_path: Path, options: dict[str, object], complaint: str) -> None:
    write_megatron(tmp_path / "a", DOCUMENTS, **options)  # type: ignore[arg-type]
    assert complaint in refusal(tmp_path / "a")


def test_no_sequences(tmp_path: Path) -> None:
    write_megatron(tmp_path / "a", [])
    assert "a.idx is empty" in refusal(tmp_path / "a")
    write_megatron(tmp_path / "a", [[], []])
    assert "a.bin is empty" in refusal(tmp_path / "a")


def test_negative_ids(tmp_path: Path) -> None:
    write_megatron(tmp_path / "a", [[1, 2, -3] * 50], "i4")
    assert "a.bin is damaged: token id -3 is below 0" in refusal(tmp_path / "a")


def test_an_index_that_contradicts_itself(tmp_path: Path) -> None:
    write_megatron(tmp_path / "a", DOCUMENTS)
    index = tmp_path / "a.idx"
    whole = index.read_bytes()
    head, lengths, pointers = 9 + 8 + 1 + 16, 10 * 4, 10 * 8
    second = head + lengths + 8
    index.write_bytes(whole[:second] + struct.pack("<q", 78) + whole[second + 8 :])
    assert "sequence 1 starts at byte 78, but the ones before it end at 80" in refusal(tmp_path / "a")
    last = head + lengths + pointers + 10 * 8
    index.write_bytes(whole[:last] + struct.pack("<q", 9))
    assert "its documents do not cover sequences 0 to 10" in refusal(tmp_path / "a")


def test_the_codes_of_the_format_are_all_known() -> None:
    assert sorted(CODES.values()) == list(range(1, 9))
