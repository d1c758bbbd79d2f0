"""The plan that a config asks for: read from a file, or searched for."""

from __future__ import annotations

from pathlib import Path

from orchestrate.checks import check
from orchestrate.config import Config
from orchestrate.plan import plan as plans
from orchestrate.plan.plan import Plan
from orchestrate.plan.search import search


def make_plan(config: Config) -> Plan:
    """Check ``config`` and return its plan.

    Raises:
        ConfigError: a combination of values that cannot work, or no layout that fits.
    """
    check(config)
    return search(config) if config.plan.file is None else plans.load(Path(config.plan.file))
