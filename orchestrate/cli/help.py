"""The help texts, made from the verbs, the conf folder and the schema; no Hydra, so that they are instant."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from orchestrate import __doc__ as summary
from orchestrate.cli.groups import groups
from orchestrate.cli.schema import MISSING, Key, all_keys
from orchestrate.cli.verbs import FLAGS, GLOBAL_FLAGS, VERBS, Flag, Verb

WIDTH = 110
"""Longest line, where the terminal is no narrower."""
NO_TERMINAL = 80
"""Where there is none: as in a pipe, to a pager or into a file."""

MAIN_KEYS = (
    "cluster.nodes",
    "cluster.gpus_per_node",
    "model.layers",
    "model.hidden",
    "model.seq",
    "parallel.tp",
    "parallel.pp",
    "parallel.dp",
    "parallel.micro_batch",
    "parallel.schedule",
    "parallel.sequence_parallel",
    "zero.stage",
    "zero.engine",
    "recompute.layers",
    "data.source.paths",
    "optim.lr",
    "train.steps",
    "train.global_batch",
    "train.eval_every",
    "run.dir",
    "tracking.mode",
    "plan.file",
)
"""Keys that the short help lists; the rest is behind ``orchestrate train --help``."""

EXAMPLES = """\
orchestrate train experiment=quickstart
orchestrate train model=gpt2_124m parallel.tp=2 train.global_batch=32
orchestrate plan cluster=dgx_h100 cluster.nodes=16 model=llama3_70b
orchestrate plan plan.out=plan.yaml   then   orchestrate train plan=plan.yaml
orchestrate submit experiment=quickstart launcher=slurm launcher.time=1:00:00
orchestrate logs runs/mine follow=true rank=3
orchestrate verify experiment=quickstart parallel.schedule=zbv
orchestrate predict runs=runs.csv out=predicted.csv
orchestrate export runs/mine out=hf   then   from_pretrained("hf")
orchestrate train -m optim.lr=1e-3,3e-3 train.seed=0,1"""


def overview(folders: Sequence[Path] = ()) -> str:
    """``orchestrate --help``: verbs, flags, every group with its choices, and the keys most used."""
    main = {path: key for key in all_keys() for path in MAIN_KEYS if key.path == path}
    return "\n\n".join(
        [
            f"{summary}\n\nusage: orchestrate VERB [group=choice] [section.key=value] [flags]",
            _block("verbs", [(verb.name, verb.summary) for verb in VERBS]),
            _groups_block(groups(folders)),
            _block("main keys (orchestrate train --help lists all)", map(_key_line, main.values())),
            _flags_block((*FLAGS, *GLOBAL_FLAGS)),
            "examples\n" + textwrap.indent(EXAMPLES, "  "),
        ]
    )


def reference(verb: Verb | None, folders: Sequence[Path] = ()) -> str:
    """``orchestrate VERB --help``: the groups that the verb looks at with their choices, its keys with type,
    default and meaning, its own first."""
    name, does = (verb.name, verb.summary) if verb else ("VERB", "")
    alone = [key.split(".")[0].upper() for key in (verb.takes or "").split()] if verb else []
    choices = {group: picks for group, picks in groups(folders).items() if _read_by(verb, group)}
    typed = "[group=choice] [section.key=value] [flags]" if choices else "[key=value] [flags]"
    usage = " ".join(["usage: orchestrate", name, *alone, typed])
    sections: dict[str, list[Key]] = {}
    for key in all_keys():
        if key.section == name or _read_by(verb, key.path):
            sections.setdefault(key.section or "files", []).append(key)
    own = sections.pop(name, [])
    first = ["files"] if verb and verb.reads is not None and "files" in sections else []
    short = verb.short_names().values() if verb else ()

    def block(section: str, keys: Sequence[Key]) -> str:
        left_out = all(key in short for key in keys)
        title = f"{section} (after this verb, {section}. may be left out)" if left_out else section
        return _block(title, map(_key_line, keys))

    return "\n\n".join(
        [
            _filled(f"orchestrate {name}: {does}"),
            _filled(usage),
            *([block(name, own)] if own else []),
            *(block(section, sections.pop(section)) for section in first),
            *([_groups_block(choices)] if choices else []),
            *(block(section, of) for section, of in sections.items()),
            _flags_block(FLAGS),
            *(["orchestrate train --help lists every key"] if verb and verb.reads is not None else []),
        ]
    )


def _read_by(verb: Verb | None, path: str) -> bool:
    """Whether ``verb`` looks at the key or group ``path``."""
    if verb is None or verb.reads is None:
        return True
    return any(f"{path}.".replace("/", ".").startswith(f"{read}.") for read in verb.reads)


def _groups_block(choices: Mapping[str, Sequence[str]]) -> str:
    return _block("groups", [(f"{name}=", " | ".join(picks)) for name, picks in choices.items()])


def _flags_block(flags: Iterable[Flag]) -> str:
    rows = []
    for flag in flags:
        value = "|".join(flag.choices) or flag.value
        rows.append((", ".join(flag.names) + (f" {value}" if value else ""), flag.summary))
    return _block("flags", rows)


def _key_line(key: Key) -> tuple[str, str]:
    default = "" if key.default == MISSING else f" [{_shown(key.default)}]"
    return f"{key.path}=", f"{key.kind}{default}" + (f"  {key.doc}" if key.doc else "")


def _shown(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _width() -> int:
    return max(60, min(WIDTH, shutil.get_terminal_size(fallback=(NO_TERMINAL, 24)).columns))


def _filled(text: str) -> str:
    return textwrap.fill(text, _width(), subsequent_indent="  ", break_on_hyphens=False)


def _block(title: str, rows: Iterable[tuple[str, str]]) -> str:
    rows = list(rows)
    width = _width()
    column = min(max(len(left) for left, _ in rows), 34) + 4
    lines = [title]
    for left, right in rows:
        wrapped = textwrap.wrap(right, width - column, break_long_words=False, break_on_hyphens=False) or [""]
        if len(left) + 4 > column or column + len(wrapped[0]) > width:
            lines.append("  " + left)
        else:
            lines.append(f"  {left:<{column - 2}}{wrapped.pop(0)}".rstrip())
        # A word that is too long for the column begins further left: people copy it.
        lines.extend(" " * min(column, width - len(line)) + line for line in wrapped)
    return "\n".join(lines)
