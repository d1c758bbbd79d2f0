"""Slurm's host lists: ``node[01-04,7],login`` for node01 … node04, node7 and login."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence

from orchestrate.errors import ConfigError

LARGEST = 1_000_000
"""Names that one list may stand for; more is a typing mistake."""

_NUMBERED = re.compile(r"(.*?)([0-9]+)")
_DIGITS = re.compile(r"[0-9]+")
_PLAIN = re.compile(r"[^\s,\[\]]+")


def expand(text: str) -> tuple[str, ...]:
    """The names that ``text`` stands for, in its order; several brackets in one name multiply.

    Raises:
        ConfigError: unbalanced brackets, a range that is empty or not of numbers, or too many names.
    """
    names = [name for part in _split(text) for name in _expand_one(part, text)]
    return tuple(names)


def compress(hosts: Sequence[str]) -> str:
    """A short list that `expand` turns back into ``hosts``, in the same order.

    Raises:
        ConfigError: a name with a comma, a bracket or white space, which no list can hold.
    """
    for host in hosts:
        if not _PLAIN.fullmatch(host):
            raise ConfigError(f"host name {host!r}: commas, brackets and white space cannot stand in a name")
    return ",".join(_compress_runs(hosts))


def _split(text: str) -> Iterator[str]:
    """The parts of ``text`` between the commas that stand outside brackets."""
    depth, start = 0, 0
    for at, letter in enumerate(text + ","):
        depth += {"[": 1, "]": -1}.get(letter, 0)
        if depth not in (0, 1):
            break
        if letter == "," and depth == 0:
            if part := text[start:at].strip():
                yield part
            start = at + 1
    if depth:
        raise ConfigError(f"host list {text!r}: a bracket has no partner, as in node[01-04,7]")


def _expand_one(part: str, text: str) -> Iterator[str]:
    pieces = re.split(r"\[([^\]]*)\]", part)
    choices: list[list[str]] = []
    names = 1
    for at, piece in enumerate(pieces):
        choices.append([piece] if at % 2 == 0 else _numbers(piece, text))
        names *= len(choices[-1])
        if names > LARGEST:
            raise ConfigError(f"host list {text!r} stands for more than {LARGEST:,} names")
    return map("".join, itertools.product(*choices))


def _numbers(ranges: str, text: str) -> list[str]:
    found: list[str] = []
    for item in ranges.split(","):
        low, dash, high = item.strip().partition("-")
        if not _DIGITS.fullmatch(low) or (dash and not _DIGITS.fullmatch(high)):
            raise ConfigError(f"host list {text!r}: {item!r} is not a number or a range, as in [01-04,7]")
        first, last = int(low), int(high if dash else low)
        if last < first:
            raise ConfigError(f"host list {text!r}: the range {item} runs backwards; write {high}-{low}")
        if last - first >= LARGEST:
            raise ConfigError(f"host list {text!r} stands for more than {LARGEST:,} names")
        # A bound keeps its zeros: 008-010 is 008, 009, 010.
        found.extend(f"{number:0{len(low)}d}" for number in range(first, last + 1))
    return found


def _compress_runs(hosts: Iterable[str]) -> Iterator[str]:
    for (prefix, numbered), group in itertools.groupby(hosts, key=_prefix):
        names = list(group)
        if not numbered:
            yield from names
            continue
        runs = list(_runs([name.removeprefix(prefix) for name in names]))
        if len(runs) == 1 and "-" not in runs[0]:
            yield prefix + runs[0]
        else:
            yield f"{prefix}[{','.join(runs)}]"


def _prefix(host: str) -> tuple[str, bool]:
    """The name up to its last number, and whether it ends in one."""
    match = _NUMBERED.fullmatch(host)
    return (match[1], True) if match else (host, False)


def _runs(numbers: Sequence[str]) -> Iterator[str]:
    """``01, 02, 03, 7`` as ``01-03`` and ``7``."""
    start = last = numbers[0]
    for number in (*numbers[1:], None):
        if number is not None and number == f"{int(last) + 1:0{len(start)}d}":
            last = number
            continue
        yield start if start == last else f"{start}-{last}"
        if number is not None:
            start = last = number
