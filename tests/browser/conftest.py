"""The browser that the tests in this folder share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.browser import chromium


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Page]:
    """A tab; skipped where there is no browser, but for CI, which has to have one."""
    browser = chromium.find()
    if browser is None:
        reason = f"no browser: none of {', '.join(chromium.NAMES)} is installed"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with chromium.launched(browser, tmp_path_factory.mktemp("profile")) as tab:
        yield tab
