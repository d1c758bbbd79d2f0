"""docs/slurm.md tells every key of ``launcher``, and quotes messages that the code still has."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from orchestrate.cli.schema import Key, all_keys

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "slurm.md"
BEGIN, END = (
    "<!-- every key of launcher: `make golden` writes this table -->\n",
    "<!-- end of the table -->\n",
)


def table() -> str:
    """Every key of ``launcher`` as a row."""
    rows = [row(key) for key in all_keys() if key.path.startswith("launcher.")]
    return "".join(["| key | default | meaning |\n|---|---|---|\n", *rows])


def row(key: Key) -> str:
    default = "null" if key.default is None else json.dumps(key.default).strip('"')
    meaning = key.doc.replace("|", "\\|").replace("<", "&lt;")
    return f"| `{key.path}` | `{default}` | {meaning} |\n"


def test_every_key_is_told_as_the_schema_has_it(request: pytest.FixtureRequest) -> None:
    before, between, after = split(PAGE.read_text())
    if request.config.getoption("--renew-golden"):
        PAGE.write_text(before + BEGIN + table() + END + after)
        between = table()
    assert between == table(), "make golden writes the table anew"


def test_every_key_says_what_it_means() -> None:
    assert [key.path for key in all_keys() if key.path.startswith("launcher.") and not key.doc] == []


def split(page: str) -> tuple[str, str, str]:
    before, rest = page.split(BEGIN)
    between, after = rest.split(END)
    return before, between, after


def quoted() -> list[str]:
    """The messages under the heading of the failures, without the name in front of them."""
    section = PAGE.read_text().split("## Ten failures")[1].split("\n## ")[0]
    return [line.removeprefix("orchestrate: ") for line in re.findall(r"```\n(.*)\n```", section)]


def test_there_are_ten_failures() -> None:
    assert len(quoted()) >= 10


@pytest.mark.parametrize("message", quoted())
def test_the_messages_that_are_quoted_are_those_of_the_code(message: str) -> None:
    # What a message is filled in with stands between … and …, and lines of code cut it anywhere.
    constant = [text for part in message.split("…") if (text := part.strip(" ;"))]
    files = [
        *(ROOT / "launchers").rglob("*.py"),
        *(ROOT / "orchestrate").rglob("*.py"),
        *(ROOT / "slurm").glob("*.j2"),
    ]
    for part in constant:
        assert any(part in joined(file.read_text()) for file in files), part


def joined(code: str) -> str:
    """``code`` with texts that go on over several lines put together."""
    return re.sub(r'"\s*(\\)?\n\s*f?"', lambda cut: " " if cut[1] else "", code)
