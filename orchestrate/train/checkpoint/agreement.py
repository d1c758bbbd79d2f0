"""What a run and the checkpoint that it goes on from must have in common. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrate.config import Config, dump
from orchestrate.errors import CheckpointError
from orchestrate.train.checkpoint.format import State, found, read_state, resolve

_FREE = {"name", "dropout", "attention_dropout", "init_std"}
"""Keys of a model that may change from one checkpoint to the next: no tensor depends on them."""


def check_start(config: Config, run_dir: Path) -> None:
    """Make sure, before any process starts, that a run of ``config`` in ``run_dir`` may go on from the newest
    checkpoint there, or else from that of ``checkpoint.load``. Whether it is whole, and of these data, the
    ranks see.

    Raises:
        CheckpointError: the model or the seed are others, or ``checkpoint.load`` holds no checkpoint.
    """
    candidates = found(run_dir)
    if not candidates and config.checkpoint.load is not None:
        candidates = found(resolve(config.checkpoint.load))
    for candidate in candidates:
        try:
            state = read_state(candidate.path)
        except CheckpointError:
            continue  # damaged: it will be passed over
        check(state, candidate.path, config)
        return


def check(state: State, path: Path, config: Config, data_fingerprint: str | None = None) -> None:
    """Make sure that a run of ``config`` over these data, or over any, may go on from ``state``.

    Raises:
        CheckpointError: the model, the seed or the data are others.
    """
    model: Mapping[str, Any] = dump(config.model)
    theirs = state.config.get("model", {})
    free = _FREE
    if state.untrained and model["position"] == "rotary":
        free = free | {"seq"}  # no tensor has a row per position
    for key, ours in model.items():
        if key not in free and theirs.get(key) != ours:
            raise CheckpointError(
                f"model.{key}={ours} does not agree with {path}, which has model.{key}={theirs.get(key)}:"
                f" use model.{key}={theirs.get(key)}, or another run.dir"
            )
    if state.untrained:
        return
    if state.seed != config.train.seed:
        raise CheckpointError(
            f"train.seed={config.train.seed} does not agree with {path}: use train.seed={state.seed}, by"
            " which the order of the samples goes on"
        )
    if data_fingerprint is not None and state.data_fingerprint != data_fingerprint:
        raise CheckpointError(
            f"{path} was trained on other data than data={config.data.source.kind} is now: go on with the"
            " same files, tokenizer and data.validation_fraction, or choose another run.dir"
        )
