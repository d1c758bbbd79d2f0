"""One reference per model, precision and micro-batch, shared by all layouts compared with it."""

from __future__ import annotations

from functools import cache

import pytest

from tests.distributed.pool import Pool
from tests.equivalence.layouts import Layout, References, run


@pytest.fixture(scope="session")
def references(pool: Pool) -> References:
    """The record of a layout's single process, computed once."""

    @cache
    def reference(alone: Layout) -> dict[str, object]:
        return pool.run(1, run, alone)[0]  # type: ignore[no-any-return]

    return lambda layout: reference(layout.alone)
