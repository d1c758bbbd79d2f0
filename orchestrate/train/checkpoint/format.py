"""What a checkpoint's folder holds, and whether it is whole. No torch here."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrate.errors import CheckpointError

FOLDER = "checkpoints"
"""In a run's folder."""
STATE, CHECKSUMS, METADATA = "state.json", "checksums.json", ".metadata"
VERSION = 1
_NAME = re.compile(r"step-(\d{8,})")
_PARTIAL = re.compile(_NAME.pattern + r"\.partial-.*")
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class State:
    """All of a checkpoint but its tensors. Equal for every layout, but for `plan` and `config`."""

    step: int
    """Updates made, those of skipped steps included: what the learning rate follows from."""
    samples: int
    """Global samples consumed: the next one has this number."""
    seed: int
    """What every random choice follows from, by parameter name, global sample and site: there are no
    generators whose state would depend on the layout."""
    data_fingerprint: str
    updates: int
    """Updates that the optimizer made, those of skipped steps left out."""
    loss_scale: float
    good_steps: int
    """Steps without overflow since the loss scale last changed; fp16 alone."""
    config: Mapping[str, Any]
    plan: Mapping[str, Any]
    revision: str | None
    """The commit of the code that wrote it, ``-dirty`` where it had been changed; None outside a clone."""
    versions: Mapping[str, str]
    """Of orchestrate and torch."""
    time: float
    """Seconds since 1970."""
    version: int = VERSION

    @property
    def untrained(self) -> bool:
        """Whether it is of weights that no step was made with yet, as an imported model's are: the data, the
        seed and the optimizer are still free to choose."""
        return self.step == 0

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)


@dataclass(frozen=True)
class Found:
    """A checkpoint's folder: it has been written to the end, which does not say that it still is whole."""

    step: int
    path: Path


@dataclass(frozen=True)
class Checksum:
    bytes: int
    blake2b: str


def name_of(step: int) -> str:
    """The folder of the checkpoint after update ``step``."""
    return f"step-{step:08d}"


def found(folder: Path) -> list[Found]:
    """The checkpoints in ``folder``, newest first: a run's folder, its ``checkpoints``, or one of them."""
    if not folder.is_dir():
        return []
    if (match := _NAME.fullmatch(folder.resolve().name)) is not None:
        return [Found(int(match[1]), folder)]
    inside = folder / FOLDER if (folder / FOLDER).is_dir() else folder
    matches = [
        (match, path) for path in inside.iterdir() if (match := _NAME.fullmatch(path.name)) is not None
    ]
    return sorted((Found(int(m[1]), path) for m, path in matches), key=lambda f: f.step, reverse=True)


def leftovers(folder: Path) -> list[Path]:
    """Folders in ``folder``, a run's ``checkpoints``, that were never finished or are being removed."""
    return sorted(p for p in folder.iterdir() if _PARTIAL.fullmatch(p.name)) if folder.is_dir() else []


def latest(folder: Path, on_damage: Callable[[str], None] | None = None) -> Found | None:
    """The newest checkpoint in ``folder`` that is whole; every file of those that it tries is read.

    Args:
        on_damage: is told what is wrong with each checkpoint that is passed over.
    """
    for candidate in found(folder):
        damage = problems(candidate.path)
        if not damage:
            return candidate
        if on_damage is not None:
            on_damage(f"{candidate.path} is damaged ({'; '.join(damage)}): passed over for the one before")
    return None


def problems(path: Path, share: int = 0, shares: int = 1) -> list[str]:
    """What is wrong with the checkpoint at ``path``, by file name; empty: nothing.

    Args:
        share, shares: look only into this one of so many shares of the files, for several processes.
    """
    try:
        checksums = read_checksums(path)
    except CheckpointError as error:
        return [str(error)]
    return [
        problem
        for name, checksum in sorted(checksums.items())[share::shares]
        if (problem := _problem(path / name, checksum)) is not None
    ]


def _problem(file: Path, expected: Checksum) -> str | None:
    try:
        size = file.stat().st_size
        if size != expected.bytes:
            return f"{file.name} has {size} bytes instead of {expected.bytes}"
        if digest(file) != expected.blake2b:
            return f"{file.name} has changed since it was written"
    except FileNotFoundError:
        return f"{file.name} is missing"
    except OSError as error:
        return f"{file.name} cannot be read: {error.strerror}"
    return None


def digest(file: Path) -> str:
    """The digest of the bytes of ``file``."""
    hashed = hashlib.blake2b(digest_size=16)
    with file.open("rb", buffering=0) as stream:
        while block := stream.read(_READ_BYTES):
            hashed.update(block)
    return hashed.hexdigest()


def checksums_json(files: Mapping[str, Checksum]) -> str:
    """What ``checksums.json`` holds; it has a digest of its own."""
    listed = {name: dataclasses.asdict(files[name]) for name in sorted(files)}
    return json.dumps({"files": listed, "blake2b": _digest_of(listed)}, indent=1)


def read_checksums(path: Path) -> dict[str, Checksum]:
    """The files of the checkpoint at ``path``.

    Raises:
        CheckpointError: the list is missing or damaged.
    """
    try:
        whole = json.loads((path / CHECKSUMS).read_text(encoding="utf-8"))
        listed = whole["files"]
        files = {str(name): Checksum(int(c["bytes"]), str(c["blake2b"])) for name, c in listed.items()}
        if whole["blake2b"] != _digest_of(listed) or any(Path(name).name != name for name in files):
            raise ValueError
    except FileNotFoundError:
        raise CheckpointError(f"{CHECKSUMS} is missing") from None
    except OSError as error:
        raise CheckpointError(f"{CHECKSUMS} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{CHECKSUMS} has changed since it was written") from None
    return files


def _digest_of(listed: Any) -> str:
    return hashlib.blake2b(json.dumps(listed, sort_keys=True).encode(), digest_size=16).hexdigest()


def read_state(path: Path) -> State:
    """``state.json`` of the checkpoint at ``path``.

    Raises:
        CheckpointError: it is missing, damaged, or of a later version than this one reads.
    """
    try:
        values = json.loads((path / STATE).read_text(encoding="utf-8"))
        state = State(**{f.name: values[f.name] for f in dataclasses.fields(State)})
        _check_types(state)
    except OSError as error:
        raise CheckpointError(f"{path / STATE}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError(f"{path / STATE} is not the state of a checkpoint") from None
    if state.version > VERSION:
        raise CheckpointError(
            f"{path} is a checkpoint of version {state.version}, and version {VERSION} is the latest read"
            " here: use the orchestrate that wrote it, or a later one"
        )
    return state


def _check_types(state: State) -> None:
    counts = (state.step, state.samples, state.seed, state.updates, state.good_steps, state.version)
    if not all(type(count) is int for count in counts) or not all(c >= 0 for c in counts[:2]):
        raise ValueError
    if not isinstance(state.config, dict) or not isinstance(state.plan, dict):
        raise TypeError
    if not math.isfinite(state.loss_scale):
        raise ValueError


def resolve(given: str) -> Path:
    """The folder that a person named, as an existing path.

    Raises:
        CheckpointError: there is no checkpoint.
    """
    path = Path(given).expanduser()
    if not found(path):
        raise CheckpointError(
            f"{given}: no checkpoint there: name a run's folder, its {FOLDER}, or one of those"
        )
    return path


def listing(folder: Path) -> Iterator[tuple[Found, list[str]]]:
    """Every checkpoint in ``folder``, newest first, with what is wrong with it."""
    for candidate in found(folder):
        yield candidate, problems(candidate.path)
