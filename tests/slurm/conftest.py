"""The cluster that the tests in this folder share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.slurm.devcluster import Cluster, Missing, running, until


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


@pytest.fixture
def mended(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, for a test that does it harm: afterwards it is whole, fast and idle again."""
    yield cluster
    cluster.run("scancel", "--user=root")
    cluster.do("shape", "off")
    hosts = [cluster.host(number) for number in range(1, 5)]
    cluster.do("mend", *hosts)
    for number, host in enumerate(hosts, start=1):
        if not cluster.node(number)["processes"]:
            cluster.do("start", host)
    until(lambda: cluster.run("sinfo", "--noheader", "--format=%T %D") == "idle 4\n")
