"""From files people name to the tokens of samples: the whole way, on real files."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from orchestrate.config import Config, SourceConfig
from orchestrate.data import open_data
from orchestrate.data.ingest import ingest
from orchestrate.data.prepare import prepare
from orchestrate.data.stream import View
from orchestrate.errors import DataError
from tests.unit.data_cases import blend, config, text

END = 256


def tokens_of(made: Config) -> list[int]:
    """All tokens of the only source of ``made``, in order."""
    (one,) = ingest(made.data)
    total = one.stream.tokens
    return View(one.stream, np.array([0]), np.array([total])).read(0, total).tolist()


def message(made: Config) -> str:
    with pytest.raises(DataError) as caught:
        open_data(made)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def stdlib_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stdlib")


def test_the_standard_library_is_the_default_corpus(stdlib_cache: Path) -> None:
    made = config(SourceConfig("stdlib"), stdlib_cache, seq=256, validation_fraction=0.02)
    (summary,) = prepare(made)
    assert summary.new
    assert summary.vocab == 257
    assert not prepare(made, thorough=True)[0].new
    data = open_data(made)
    assert data.vocab == 257
    assert data.train.windows * 256 > 5_000_000
    assert 0.005 < data.validation.windows / data.train.windows < 0.05
    root = Path(sysconfig.get_path("stdlib"))
    paths = [p for p in root.rglob("*.py") if "site-packages" not in p.parts]
    assert summary.documents == len(paths)
    assert summary.tokens == sum(p.stat().st_size + 1 for p in paths)
    everything = b"\xff".join(p.read_bytes() for p in paths)
    for n in range(20):
        sample = data.train.sample(n)
        end = int(np.argmax(sample == END)) if END in sample else len(sample)
        assert bytes(sample[:end].astype(np.uint8)) in everything


def test_preparing_needs_no_torch(stdlib_cache: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from orchestrate.config import SourceConfig\n"
        "from tests.unit.data_cases import config\n"
        "from orchestrate.data.prepare import prepare\n"
        f"prepare(config(SourceConfig('stdlib'), Path({str(stdlib_cache)!r})))\n"
        "assert 'torch' not in sys.modules and 'deepspeed' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])


def test_bytes_of_text_files(files: Path, tmp_path: Path) -> None:
    (files / "b.txt").write_bytes(b"second \xff\x00 file")
    (files / "a.md").write_text("# first, with é\n")
    (files / "c.txt").write_bytes(b"")
    made = config(text(files / "*.txt", files / "a.md", files / "b.txt"), tmp_path / "cache")
    expected = [*b"second \xff\x00 file", END, END, *"# first, with é\n".encode(), END]
    assert tokens_of(made) == expected


def test_a_long_file_is_one_document(files: Path, tmp_path: Path) -> None:
    content = b"a line of text\n" * 200_000 + b"x" * 3_000_000 + b"\nlast"
    (files / "long.txt").write_bytes(content)
    made = config(text(files / "long.txt"), tmp_path / "cache")
    assert tokens_of(made) == [*content, END]


def test_json_lines(files: Path, tmp_path: Path) -> None:
    lines = [{"body": "one", "text": 1}, {"body": "zwei ü"}, {"body": "\ud800"}]
    (files / "some.jsonl").write_text("\n\n".join(map(json.dumps, lines)))
    made = config(text(files / "**" / "*.jsonl", text_key="body"), tmp_path / "cache")
    assert tokens_of(made) == [*b"one", END, *"zwei ü".encode(), END, *b"?", END]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"text": "open', ":2: not JSON"),
        ('{"body": "x", "id": 3}', ":2: no key 'text' (data.source.text_key); this line has 'body', 'id'"),
        ('["text"]', ":2: a JSON list"),
        ('{"text": 5}', ":2: 'text' holds a int"),
        ("[" * 100_000, ":2: not JSON"),
    ],
)
def test_a_bad_line_is_named(files: Path, tmp_path: Path, line: str, complaint: str) -> None:
    (files / "some.jsonl").write_text('{"text": "fine"}\n' + line + "\n")
    assert f"some.jsonl{complaint}" in message(config(text(files / "some.jsonl"), tmp_path / "cache"))
    assert [p for p in (tmp_path / "cache").iterdir() if p.suffix != ".lock"] == []


PROSE = "the quick brown fox jumps over the lazy dog; " * 40 + "<|endoftext|> is text here\n"


def test_a_trained_byte_pair_tokenizer(files: Path, tmp_path: Path) -> None:
    for i in range(5):
        (files / f"{i}.txt").write_text(f"{PROSE} naïve № {i}\n")
    made = config(text(files / "*.txt", tokenizer="bpe", bpe_vocab=300), tmp_path / "cache", vocab=300)
    ids = tokens_of(made)
    assert len(ids) < 5 * len(PROSE) / 2, "pairs are merged"
    assert max(ids) < 300
    assert open_data(made).vocab == 300
    (folder,) = (tmp_path / "cache").glob("tokenizer-????????????????")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    end = tokenizer.token_to_id("<|endoftext|>")
    assert ids.count(end) == 5, "text that spells the end of a document is no end"
    first = ids[: ids.index(end)]
    assert tokenizer.decode(first, skip_special_tokens=False) == f"{PROSE} naïve № 0\n"


def test_training_a_tokenizer_twice_gives_the_same(tmp_path: Path) -> None:
    """Hosts that share no disk must come to the same tokens."""
    source = str(Path(sysconfig.get_path("stdlib")) / "a*.py")
    script = (
        "import sys; from pathlib import Path; from tests.unit.data_cases import config, text\n"
        "from orchestrate.data import open_data\n"
        f"source = text({source!r}, tokenizer='bpe', bpe_vocab=2000)\n"
        "print(open_data(config(source, Path(sys.argv[1]), vocab=2000)).fingerprint)"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / name)],
            check=True,
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
        ).stdout
        for name in ("a", "b", "c")
    }
    assert len(found) == 1


def test_a_tokenizer_from_a_file(files: Path, tmp_path: Path) -> None:
    (files / "a.txt").write_text(PROSE)
    words = {"the": 0, "fox": 1, "?": 2, "</s>": 3}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(files / "tokenizer.json"))
    made = config(text(files / "a.txt", tokenizer=str(files / "tokenizer.json")), tmp_path / "cache", vocab=4)
    ids = tokens_of(made)
    assert ids[:4] == [0, 2, 2, 1]
    assert ids[-1] == 3
    (files / "tokenizer.json").write_text("{}")
    assert "tokenizer.json is not a tokenizer.json" in message(made)
    (files / "tokenizer.json").unlink()
    assert "No such file or directory; choices: bytes, bpe" in message(made)


def test_text_that_is_not_utf8(files: Path, tmp_path: Path) -> None:
    (files / "latin.txt").write_bytes(b"na\xefve\n" * 100)
    made = config(text(files / "latin.txt", tokenizer="bpe"), tmp_path / "cache", vocab=8192)
    assert "latin.txt: byte 0xef is not UTF-8" in message(made)


def test_a_tokenizer_with_too_little_room(files: Path, tmp_path: Path) -> None:
    (files / "a.txt").write_text(PROSE)
    made = config(text(files / "a.txt", tokenizer="bpe", bpe_vocab=256), tmp_path / "cache")
    assert "data.source.bpe_vocab=256: needs at least 257" in message(made)


def test_names_that_are_not_there(files: Path, tmp_path: Path) -> None:
    (files / "corpus.txt").write_text(PROSE)

    def complaint(*paths: str) -> str:
        return message(config(text(*paths), tmp_path / "cache"))

    assert f"corpsu.txt: no such file (closest: {files}/corpus.txt)" in complaint(f"{files}/corpsu.txt")
    assert f"*.tx: matches no file (closest: {files}/corpus.txt)" in complaint(f"{files}/c*.tx")
    assert "zzz.txt: no such file (" in complaint(f"{files}/zzz.txt")
    assert f"(closest: {files})" in complaint(f"{tmp_path}/filse/corpus.txt")
    assert "is a folder: try" in complaint(str(files))
    assert "data.source.paths is empty" in complaint()


def test_too_little_text(files: Path, tmp_path: Path) -> None:
    (files / "empty.txt").write_bytes(b"")
    made = config(text(files / "empty.txt"), tmp_path / "cache")
    assert "all of its 1 files are empty" in message(made)
    (files / "short.txt").write_text("x" * 99)
    short = text(files / "short.txt")
    assert "has 100 tokens, 90 of them for training, but one sample of model.seq=90 takes 91" in message(
        config(short, tmp_path / "cache", seq=90)
    )
    said = message(config(short, tmp_path / "cache", seq=16))
    assert "data.validation_fraction=0.1 leaves 10 tokens for validation" in said
    assert "use data.validation_fraction=0.17" in said
    open_data(config(short, tmp_path / "cache", seq=16, validation_fraction=0.17))


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, float("nan")])
def test_a_fraction_that_is_none(files: Path, tmp_path: Path, fraction: float) -> None:
    (files / "a.txt").write_text(PROSE)
    made = config(text(files / "a.txt"), tmp_path / "cache", validation_fraction=fraction)
    assert "must be above 0 and below 1" in message(made)


def test_ids_beyond_the_vocabulary(files: Path, tmp_path: Path) -> None:
    (files / "a.txt").write_text(PROSE)
    said = message(config(text(files / "a.txt"), tmp_path / "cache", vocab=256))
    assert "token id 256, but model.vocab=256 ends at 255: use model.vocab=257" in said


def test_an_unknown_kind(tmp_path: Path) -> None:
    assert "did you mean megatron?" in message(config(SourceConfig("megatorn"), tmp_path))


def test_a_blend_reads_every_source(files: Path, tmp_path: Path) -> None:
    for letter in "abc":
        (files / f"{letter}.txt").write_text(letter * 2000)
    a, b, c = (text(files / f"{letter}.txt") for letter in "abc")
    made = config(blend((a, 3), (blend((b, 1), (c, 1)), 1)), tmp_path / "cache")
    assert len(prepare(made)) == 3
    data = open_data(made)
    for sampler in (data.train, data.validation):
        firsts = [chr(sampler.sample(n)[0]) for n in range(80)]
        assert [firsts.count(letter) for letter in "abc"] == [60, 10, 10]
    assert data.train.windows == 3 * (1800 // 16)


def test_a_source_twice_in_a_blend_is_not_read_in_step(files: Path, tmp_path: Path) -> None:
    (files / "a.txt").write_bytes(bytes(range(256)) * 20)
    a = text(files / "a.txt")
    data = open_data(config(blend((a, 1), (a, 1)), tmp_path / "cache"))
    assert [data.train.sample(n).tolist() for n in range(0, 20, 2)] != [
        data.train.sample(n).tolist() for n in range(1, 21, 2)
    ]


def test_a_blend_has_one_tokenizer(files: Path, tmp_path: Path) -> None:
    (files / "a.txt").write_text(PROSE)
    (files / "b.txt").write_text(PROSE.upper())
    pair = [text(files / f"{name}.txt", tokenizer="bpe", bpe_vocab=290) for name in "ab"]
    made = config(blend((pair[0], 1), (pair[1], 1)), tmp_path / "cache", vocab=290)
    prepare(made)
    assert len(list((tmp_path / "cache").glob("tokenizer-????????????????"))) == 1
    mixed = blend((pair[0], 1), (text(files / "b.txt"), 1))
    assert "mixes tokenizers bpe and bytes" in message(config(mixed, tmp_path / "cache", vocab=300))
    sizes = blend((pair[0], 1), (text(files / "b.txt", tokenizer="bpe", bpe_vocab=291), 1))
    assert "bpe_vocab is 290 and 291" in message(config(sizes, tmp_path / "cache", vocab=300))


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none(files: Path, tmp_path: Path, weight: float) -> None:
    (files / "a.txt").write_text(PROSE)
    source = text(files / "a.txt")
    said = message(config(blend((source, 1), (source, weight)), tmp_path / "cache"))
    assert f"data.source.blend[1].weight={weight:g}: must be above 0" in said


def test_an_empty_blend(tmp_path: Path) -> None:
    assert "data.source.blend is empty" in message(config(blend(), tmp_path))


def test_the_seed_orders_training_alone(files: Path, tmp_path: Path) -> None:
    (files / "a.txt").write_bytes(bytes(range(256)) * 20)
    one, two = (open_data(config(text(files / "a.txt"), tmp_path / "cache", seed=seed)) for seed in (1, 2))
    assert one.fingerprint == two.fingerprint
    assert [one.train.sample(n)[0] for n in range(20)] != [two.train.sample(n)[0] for n in range(20)]
    for n in range(20):
        assert one.validation.sample(n).tolist() == two.validation.sample(n).tolist()
