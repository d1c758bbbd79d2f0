"""Fixtures that every test may use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.distributed.pool import Pool


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--renew-golden", action="store_true", help="write tests/golden/ anew")


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    """The worker processes that all multi-process checks share."""
    workers = Pool()
    yield workers
    workers.close()
