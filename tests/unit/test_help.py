"""The help says everything there is, from the one place where it stands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrate.cli import main
from orchestrate.cli.foreign import KEYS
from orchestrate.cli.groups import groups
from orchestrate.cli.help import MAIN_KEYS, overview, reference
from orchestrate.cli.schema import all_keys
from orchestrate.cli.verbs import FLAGS, VERBS, Verb


def test_overview_lists_verbs_groups_choices_main_keys_and_flags() -> None:
    text = overview()
    words = set(text.replace("|", " ").split())
    assert all(verb.name in text for verb in VERBS)
    assert all(f"{group}=" in words and set(choices) <= words for group, choices in groups().items())
    assert all(f"{key}=" in words for key in MAIN_KEYS)
    assert all(name in text for flag in FLAGS for name in flag.names)


def test_main_keys_exist() -> None:
    assert set(MAIN_KEYS) <= {key.path for key in all_keys()}


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb.reads is None], ids=lambda verb: verb.name)
def test_the_help_of_a_verb_that_plans_lists_every_key_with_its_default(
    verb: Verb, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*verb.name.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"{key.path}=" in text.split() for key in all_keys())
    assert "float [0.0003]" in text
    assert "Sequences per optimizer step over all replicas." in text


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb.reads], ids=lambda verb: verb.name)
def test_the_help_of_any_other_verb_lists_what_it_looks_at_alone(
    verb: Verb, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*verb.name.split(), "--help"]) == 0
    listed = {word.removesuffix("=") for word in capsys.readouterr().out.split() if word.endswith("=")}
    wanted = (verb.name, *(verb.reads or ()))
    known = {key.path for key in all_keys()} | set(groups())
    assert listed == {
        path for path in known if f"{path}.".replace("/", ".").startswith(tuple(f"{w}." for w in wanted))
    }
    assert set(verb.reads or ()) <= listed | {path.partition(".")[0] for path in listed}
    assert set((verb.takes or "").split()) <= listed


@pytest.mark.parametrize(("columns", "most"), [("80", 80), ("200", 110)])
def test_lines_fit_the_screen(columns: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    texts = [overview(), *map(reference, VERBS)]
    assert not [line for text in texts for line in text.splitlines() if len(line) > most]


def test_lines_fit_80_columns_where_there_is_no_screen() -> None:
    command = [sys.executable, "-m", "orchestrate", "plan", "--help"]
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    text = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert 70 < max(map(len, text.splitlines())) <= 80


def test_a_verb_says_first_what_is_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", "--help"]) == 0
    _, usage, own, *_ = capsys.readouterr().out.split("\n\n")
    assert usage == "usage: orchestrate logs RUN [key=value] [flags]"
    assert own.startswith("logs (after this verb, logs. may be left out)\n  logs.rank=")


def test_the_help_reads_the_folder_that_is_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine_alone.yaml").touch()
    for arguments in (["--help"], ["train", "--help"]):
        assert main([*arguments, "--config-dir", str(tmp_path)]) == 0
        assert "mine_alone" in capsys.readouterr().out


def test_data_help_is_the_sub_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "--help"]) == 0
    assert capsys.readouterr().out.startswith("orchestrate data prepare:")


def test_no_verb_shows_the_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert capsys.readouterr().out.startswith("Plan where every slice")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["--version"], ["--completion", "bash"]]
)
def test_help_needs_none_of_the_heavy_packages(arguments: list[str]) -> None:
    code = (
        "import sys; from orchestrate.cli import main; main(sys.argv[1:]);"
        "print(*sorted({m.split('.')[0] for m in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert not {"hydra", "omegaconf", "torch", "pydantic", "rich", "yaml", "numpy"} & set(done.stderr.split())


def test_what_a_verb_cannot_do_without_stands_before_what_it_can(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--help"]) == 0
    text = capsys.readouterr().out
    assert text.index("runs=") < text.index("out=") < text.index("groups\n") < text.index("cluster.nodes=")


def test_what_other_toolkits_options_are_called_here_exists() -> None:
    assert set(KEYS.values()) <= {key.path for key in all_keys()} | set(groups())
