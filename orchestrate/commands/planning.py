"""The plan that a config asks for."""

from __future__ import annotations

from orchestrate.checks import check
from orchestrate.config import Config
from orchestrate.plan.plan import Plan
from orchestrate.plan.search import search


def make_plan(config: Config) -> Plan:
    """Check every rule of ``config``, then search for its plan, or read the one that it names.

    Raises:
        ConfigError: a combination of values that cannot work, or no layout that fits.
    """
    check(config)
    return search(config)
