"""The cluster that the tests in this folder share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.slurm.devcluster import Cluster, Missing, running


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Four nodes of four GPUs below two switches; skipped where there cannot be any, but for CI."""
    try:
        with running(f"test{os.getpid()}", "--nodes=4", "--gpus=4", "--cpus=8") as found:
            yield found
    except Missing as lack:
        if os.environ.get("CI") == "true":
            pytest.fail(str(lack))
        pytest.skip(str(lack))
