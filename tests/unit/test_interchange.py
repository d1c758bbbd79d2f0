"""`orchestrate export` and `import` from the outside: round trips, memory, and what is refused."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from orchestrate.cli import main
from orchestrate.config import DType, ModelConfig, dump
from orchestrate.data.tokenizers import train_bpe
from orchestrate.errors import ExchangeError
from orchestrate.interchange.exporting import Form, write
from orchestrate.interchange.files import INDEX_FILE, SINGLE_FILE
from orchestrate.interchange.importing import Source, bring_in
from orchestrate.interchange.names import counterparts
from orchestrate.train.checkpoint import latest, problems, read_state
from orchestrate.train.checkpoint.commit import commit
from orchestrate.train.checkpoint.format import read_checksums
from orchestrate.train.checkpoint.read import Tensors
from tests.equivalence.layouts import GPT, LLAMA, Layout, config_of
from tests.unit.interchange_cases import Alive, huggingface, save, weights_of

Say = Callable[..., tuple[int, str, str]]

UNTIED = replace(GPT, name="untied", tied_embeddings=False)
TIED = replace(LLAMA, name="tied", tied_embeddings=True, kv_heads=None)
BIASED = replace(LLAMA, name="biased", bias=True, kv_heads=1)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Say:
    """Runs ``orchestrate`` in an empty folder; gives the exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def mistake(said: tuple[int, str, str]) -> str:
    """The one line of a mistake."""
    status, _, err = said
    assert status == 2, err
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize("model", [GPT, UNTIED, LLAMA, TIED, BIASED], ids=lambda model: model.name)
def test_out_and_back_is_bit_by_bit(say: Say, model: ModelConfig, tmp_path: Path) -> None:
    weights = save(model, tmp_path / "run")
    assert say("export", "run", "out=hf", "export.shard_gib=0.00003")[0] == 0
    status, told, _ = say("import", "hf", "out=back")
    assert status == 0
    assert "model=hf checkpoint.load=" in told

    found = latest(tmp_path / "back")
    assert found is not None
    assert found.step == 0
    back = Tensors(found.path)
    assert back.shapes == {f"model.{name}": tuple(weight.shape) for name, weight in weights.items()}
    assert all(back.read(f"model.{name}").equal(weight) for name, weight in weights.items())
    preset = yaml.safe_load((tmp_path / "back" / "model" / "hf.yaml").read_text())
    assert ModelConfig(**preset).layers == model.layers
    composed = say("plan", "--cfg", "job", "-p", "model", "--config-dir", "back", "model=hf")[1]
    assert yaml.safe_load(composed)["model"] == dump(replace(model, name="hf"))
    assert read_state(found.path).config["model"] == dump(replace(model, name="hf"))


def test_what_is_written_is_one_file_or_several_with_an_index(say: Say, tmp_path: Path) -> None:
    save(LLAMA, tmp_path / "run")
    assert say("export", "run/checkpoints/step-00000004", "out=one")[0] == 0
    assert sorted(os.listdir("one")) == ["config.json", SINGLE_FILE]
    assert say("export", "path=run", "out=many", "export.shard_gib=0.00003")[0] == 0
    index = json.loads(Path("many", INDEX_FILE).read_text())
    files = sorted(set(index["weight_map"].values()))
    assert sorted(os.listdir("many")) == sorted(["config.json", INDEX_FILE, *files])
    assert files == [f"model-{n:05d}-of-{len(files):05d}.safetensors" for n in range(1, len(files) + 1)]
    assert len(files) > 2
    one = load_file(Path("one", SINGLE_FILE))
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in one.values())
    many: dict[str, Any] = {}
    for file in files:
        tensors = load_file(Path("many", file))
        # A tensor larger than the limit has a file of its own.
        assert len(tensors) == 1 or sum(tensor.nbytes for tensor in tensors.values()) <= 0.00003 * 2**30
        assert {index["weight_map"][name] for name in tensors} == {file}
        many |= tensors
    assert many.keys() == one.keys()
    assert all(many[name].equal(one[name]) for name in one)


@pytest.mark.parametrize("dtype", list(DType))
def test_weights_are_written_in_the_precision_asked_for(say: Say, dtype: DType, tmp_path: Path) -> None:
    weights = save(GPT, tmp_path / "run")
    assert say("export", "run", "out=hf", f"export.dtype={dtype.value}")[0] == 0
    written = load_file(tmp_path / "hf" / SINGLE_FILE)
    wanted = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp64": torch.float64}
    word = written["transformer.wte.weight"]
    assert word.equal(weights["embedding.word.weight"].to(wanted[dtype.value]))
    named = json.loads((tmp_path / "hf" / "config.json").read_text())["torch_dtype"]
    assert f"torch.{named}" == str(wanted[dtype.value])


def test_fp16_is_refused_where_it_would_overflow(tmp_path: Path) -> None:
    weights = weights_of(GPT)
    weights["layers.1.mlp.up.weight"][2, 3] = 1e5
    form = Form(DType.fp16, 2**30, {}, None)
    with pytest.raises(ExchangeError, match=r"transformer.h.1.mlp.c_fc.weight has values of up to 100000"):
        write(lambda name, rows: weights[name][rows], GPT, tmp_path / "hf", form, lambda _: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model", [GPT, LLAMA], ids=lambda model: model.name)
def test_one_tensor_is_in_memory_at_a_time(model: ModelConfig, tmp_path: Path) -> None:
    model = replace(model, layers=16)
    weights = weights_of(model)
    largest = max(tensor.elements for tensor in counterparts(model)) * 4
    assert sum(weight.nbytes for weight in weights.values()) > 30 * largest

    out = Alive()
    read = out.watch(lambda name, rows: weights[name][rows])
    form = Form(DType.fp64, 20 * largest, {}, None)
    write(read, model, tmp_path / "hf", form, lambda _: None)
    assert 0 < out.most <= largest
    assert out.now == 0

    source = Source(tmp_path / "hf", model.name)
    back = Alive()
    source.rows = back.watch(source.rows)  # type: ignore[method-assign]
    bring_in(source, replace(config_of(Layout(model)), model=source.model), tmp_path / "back", lambda _: None)
    # In fp64, which is twice as much.
    assert 0 < back.most <= 2 * largest
    assert back.now == 0


def test_progress_counts_all_bytes_both_ways(tmp_path: Path) -> None:
    weights = weights_of(LLAMA)
    size = sum(weight.nbytes for weight in weights.values())
    seen: list[int] = []
    form = Form(DType.fp32, 2**30, {}, None)
    write(lambda name, rows: weights[name][rows], LLAMA, tmp_path / "hf", form, seen.append)
    assert sum(seen) == size
    seen.clear()
    bring_in(Source(tmp_path / "hf", "llama"), config_of(Layout(LLAMA)), tmp_path / "back", seen.append)
    assert sum(seen) == size


def test_a_checkpoint_of_another_model_is_one_line(say: Say, tmp_path: Path) -> None:
    save(GPT, tmp_path / "run")
    folder = tmp_path / "run/checkpoints/step-00000004"
    for change, told in (
        ({"layers": 40_000_000_000}, "model.layers=40000000000: must be at most 10000"),
        ({"layers": 4_000}, "has 60 tensors, too few for 4000 layers"),
        ({"layers": 5}, "has no layers.4."),
        ({"vocab": 100}, "has shape [101, 32] of embedding.word.weight, but its model asks for [100, 32]"),
        ({"heads": 0}, "model.heads=0: must be at least 1"),
        ({"hidden": "wide"}, "model.hidden='wide': input should be a valid integer"),
    ):
        state = read_state(folder)
        model = {**state.config["model"], **change}
        other = replace(state, config={**state.config, "model": model})
        partial = Path(shutil.copytree(folder, tmp_path / "partial"))
        commit(partial, folder.parent / "step-00000008", other, read_checksums(partial))
        assert told in mistake(say("export", "run", "out=hf"))
        assert not Path("hf").exists()


def test_the_tokenizer_travels_with_the_model(say: Say, tmp_path: Path) -> None:
    model = replace(GPT, vocab=300)
    save(model, tmp_path / "run")
    (tmp_path / "words").mkdir()
    train_bpe(iter(["a few words", "a few more"]), 280, tmp_path / "words" / "tokenizer.json")
    (tmp_path / "words" / "tokenizer_config.json").write_text("{}")
    (tmp_path / "words" / "secret.txt").write_text("stays")

    status, told, _ = say("export", "run", "out=without")
    assert status == 0
    assert "export.tokenizer=FILE_OR_FOLDER" in told
    # Bytes: the id after them ends a document.
    assert json.loads(Path("without/config.json").read_text())["eos_token_id"] == 256

    assert say("export", "run", "out=hf", "export.tokenizer=words")[0] == 0
    assert sorted(os.listdir("hf")) == ["config.json", SINGLE_FILE, "tokenizer.json", "tokenizer_config.json"]
    import transformers

    theirs = transformers.PreTrainedTokenizerFast.from_pretrained("hf")
    end = json.loads(Path("hf/config.json").read_text())["eos_token_id"]
    assert theirs.convert_ids_to_tokens(end) == "<|endoftext|>"

    status, told, _ = say("import", "hf", "out=back")
    assert (status, Path("back/tokenizer.json").is_file()) == (0, True)
    assert f"data.source.tokenizer={tmp_path / 'back' / 'tokenizer.json'}" in told
    err = mistake(say("export", "run", "out=more", "export.tokenizer=nowhere"))
    assert "export.tokenizer=nowhere: no tokenizer there" in err


def test_the_newest_whole_checkpoint_is_exported(say: Say, tmp_path: Path) -> None:
    save(GPT, tmp_path / "run", step=4)
    save(GPT, tmp_path / "later", step=8)
    (tmp_path / "later/checkpoints/step-00000008").rename(tmp_path / "run/checkpoints/step-00000008")
    assert "step-00000008: gpt in fp32" in say("export", "run", "out=newest")[1]
    (file,) = Path("run/checkpoints/step-00000008").glob("*.distcp")
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        byte = opened.read(1)
        opened.seek(-1, os.SEEK_CUR)
        opened.write(bytes([byte[0] ^ 1]))
    status, told, _ = say("export", "run", "out=sound")
    assert status == 0
    assert "step-00000008 is damaged" in told
    assert "step-00000004: gpt in fp32" in told
    err = mistake(say("export", "run/checkpoints/step-00000008", "out=damaged"))
    assert "no checkpoint there is whole" in err
    assert not Path("damaged").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["export", "out=hf"], "path is missing: name a run's folder or a checkpoint"),
        (["export", "run"], "out is missing: name the folder to write"),
        (["export", "run", "other", "out=hf"], "export takes one path, not 2: run other"),
        (["export", "nowhere", "out=hf"], "nowhere: no checkpoint there"),
        (["export", "run", "out=run"], "out=run: is there already, and not empty"),
        (["export", "run", "out=hf", "export.shard_gib=0"], "export.shard_gib=0: must be above 0"),
        (["export", "run", "out=hf", "export.dtype=int8"], "export.dtype='int8': choices: bf16, fp16"),
        (["export", "run", "out=file"], "out=file: is a file"),
        (["import", "out=back"], "path is missing: name a folder in Hugging Face's form"),
        (["import", "nowhere", "out=back"], "nowhere/config.json: No such file or directory"),
        (["import", "run", "out=back"], "not a folder in Hugging Face's form"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line(say: Say, arguments: list[str], told: str, tmp_path: Path) -> None:
    save(GPT, tmp_path / "run")
    (tmp_path / "file").touch()
    assert told in mistake(say(*arguments))
    assert sorted(os.listdir()) == ["file", "run"]


def test_a_folder_that_cannot_be_written_is_one_line(say: Say, tmp_path: Path) -> None:
    save(GPT, tmp_path / "run")
    (tmp_path / "file").touch()
    assert "/file/hf: File exists" in mistake(say("export", "run", "out=file/hf"))


def test_an_interrupted_export_leaves_nothing(tmp_path: Path) -> None:
    weights = weights_of(GPT)
    form = Form(DType.fp32, 10_000, {}, None)
    asked: list[str] = []

    def read(name: str, rows: slice) -> torch.Tensor:
        asked.append(name)
        if len(asked) == 20:
            raise KeyboardInterrupt
        return weights[name][rows]

    with pytest.raises(KeyboardInterrupt):
        write(read, GPT, tmp_path / "hf", form, lambda _: None)
    assert list(tmp_path.iterdir()) == []


Damage = Callable[[Path], object]


def truncate(folder: Path) -> None:
    file = sorted(folder.glob("*.safetensors"))[1]
    os.truncate(file, file.stat().st_size - 1)


def garble(folder: Path) -> None:
    next(folder.glob("*.safetensors")).write_bytes(b"\xff" * 64)


def edit_index(change: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(folder: Path) -> None:
        values = json.loads((folder / INDEX_FILE).read_text())
        change(values["weight_map"])
        (folder / INDEX_FILE).write_text(json.dumps(values))

    return damage


def edit_tensors(change: Callable[[dict[str, Any]], object]) -> Damage:
    """Change the tensors of the folder, which are put into one file."""

    def damage(folder: Path) -> None:
        tensors: dict[str, Any] = {}
        for file in folder.glob("*.safetensors"):
            tensors |= load_file(file)
            file.unlink()
        (folder / INDEX_FILE).unlink()
        change(tensors)
        save_file(tensors, folder / SINGLE_FILE)

    return damage


def only_pickles(folder: Path) -> None:
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("exploded",)


DAMAGES: dict[str, tuple[Damage, str]] = {
    "truncated": (truncate, r"model-00002-of-\d+.safetensors is not a whole safetensors file"),
    "garbled": (garble, "is not a whole safetensors file"),
    "pickle": (only_pickles, "pytorch_model.bin is a pickle, which can run code when it is read"),
    "empty": (
        lambda folder: [file.unlink() for file in folder.glob("*.safetensors*")],
        "holds neither model.safetensors nor model.safetensors.index.json",
    ),
    "index is text": (lambda folder: (folder / INDEX_FILE).write_text("{"), "is not an index of safetensors"),
    "index is a list": (lambda folder: (folder / INDEX_FILE).write_text("[1]"), "is not an index of"),
    "index is empty": (edit_index(dict.clear), "is not an index of"),
    "out of the folder": (
        edit_index(lambda names: names.update({"model.norm.weight": "../other/model.safetensors"})),
        r'model.norm.weight is said to be in "../other/model.safetensors": must be the name of a .safeten',
    ),
    "absolute": (
        edit_index(lambda names: names.update({"model.norm.weight": "/etc/x.safetensors"})),
        "must be the",
    ),
    "parent": (edit_index(lambda names: names.update({"model.norm.weight": ".."})), "must be the name"),
    "a pickle in the index": (
        edit_index(lambda names: names.update({"model.norm.weight": "pytorch_model.bin"})),
        "must be the name of a .safetensors file",
    ),
    "a number": (
        edit_index(lambda names: names.update({"model.norm.weight": 3})),
        "is said to be in 3: must",
    ),
    "a file that is not there": (
        edit_index(lambda names: names.update({"model.norm.weight": "more.safetensors"})),
        "more.safetensors: No such file",
    ),
    "a tensor that is not there": (
        edit_index(lambda names: names.update({"more": names["model.norm.weight"]})),
        "has no more, though model.safetensors.index.json says so",
    ),
    "a tensor too few": (
        edit_tensors(lambda tensors: tensors.pop("model.layers.2.mlp.up_proj.weight")),
        "no file has model.layers.2.mlp.up_proj.weight, which config.json asks for",
    ),
    "a tensor too many": (
        edit_tensors(lambda tensors: tensors.update(more=torch.zeros(2))),
        "more: the model of config.json has no such tensor",
    ),
    "a name that commands the terminal": (
        edit_tensors(lambda tensors: tensors.update({"\x1b[2J\nmore": torch.zeros(2)})),
        r"'\\x1b\[2J\\nmore': the model of config.json has no such tensor",
    ),
    "another shape": (
        edit_tensors(lambda tensors: tensors.update({"model.norm.weight": torch.zeros(3)})),
        r"model.norm.weight has the shape \[3\], but config.json asks for \[32\]",
    ),
    "whole numbers": (
        edit_tensors(
            lambda tensors: tensors.update({"model.norm.weight": torch.zeros(32, dtype=torch.int8)})
        ),
        "model.norm.weight is I8: must be one of F64, F32, F16, BF16",
    ),
    "endless layers": (
        lambda folder: (folder / "config.json").write_text(
            (folder / "config.json").read_text().replace('_layers": 4', '_layers": 40000000000')
        ),
        "asks for 40000000000 layers, but the files hold 39 tensors",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_hostile_folder_is_one_line(say: Say, name: str, tmp_path: Path) -> None:
    damage, told = DAMAGES[name]
    huggingface(LLAMA, tmp_path / "hf", 20_000)
    damage(tmp_path / "hf")
    assert re.search(told, mistake(say("import", "hf", "out=back")))
    assert os.listdir() == ["hf"]


def test_values_are_checked_as_any_models_are(say: Say, tmp_path: Path) -> None:
    huggingface(LLAMA, tmp_path / "hf")
    config = tmp_path / "hf" / "config.json"
    config.write_text(config.read_text().replace('"num_attention_heads": 4', '"num_attention_heads": 3'))
    mistake(say("import", "hf", "out=back"))
    assert os.listdir() == ["hf"]


def rename(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    save_file(change(load_file(folder / SINGLE_FILE)), folder / SINGLE_FILE)


def test_older_files_are_read_too(say: Say, tmp_path: Path) -> None:
    weights = huggingface(GPT, tmp_path / "hf")
    # As the first GPT-2 was published: without its head's part of the names, with the masks.
    rename(
        tmp_path / "hf",
        lambda tensors: {
            **{name.removeprefix("transformer."): tensor for name, tensor in tensors.items()},
            "h.0.attn.bias": torch.ones(1, 1, 16, 16),
        },
    )
    assert say("import", "hf", "out=back")[0] == 0
    found = latest(tmp_path / "back")
    assert found is not None
    assert problems(found.path) == []
    assert all(Tensors(found.path).read(f"model.{name}").equal(w) for name, w in weights.items())


def test_a_tied_head_may_be_there_again_but_not_another(say: Say, tmp_path: Path) -> None:
    huggingface(TIED, tmp_path / "hf")
    word = "model.embed_tokens.weight"
    rename(tmp_path / "hf", lambda tensors: {**tensors, "lm_head.weight": tensors[word].clone()})
    assert say("import", "hf", "out=back")[0] == 0
    rename(tmp_path / "hf", lambda tensors: {**tensors, "lm_head.weight": tensors[word] + 1})
    assert "lm_head.weight differs from model.embed_tokens.weight" in mistake(say("import", "hf", "out=more"))
