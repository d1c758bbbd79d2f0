"""Activation checkpointing: forget what a function computed, and compute it again for the backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils.checkpoint import checkpoint


def recomputed(function: Callable[..., Any], *args: Any) -> Any:
    """``function(*args)``, keeping only ``args`` for the backward, which calls it once more.

    No random state is kept: whatever the model draws is a function of names and sample numbers.
    """
    return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)
