"""The plan that a config asks for."""

from __future__ import annotations

from dataclasses import replace

from orchestrate.checks import check
from orchestrate.config import Config
from orchestrate.errors import ConfigError
from orchestrate.plan.plan import Plan
from orchestrate.plan.search.rules import trains_whole_sequences
from orchestrate.plan.search.search import search


def make_plan(config: Config) -> Plan:
    """Check every rule of ``config``, then search for a plan to train, or read the one that it names.

    Raises:
        ConfigError: a combination of values that cannot work, or no layout that fits.
    """
    check(config)
    # What cannot be trained is not searched.
    parallel = replace(config.parallel, cp=config.parallel.cp or 1)
    plan = search(replace(config, parallel=parallel))
    if (problem := trains_whole_sequences(plan.dims.cp)) is not None:
        raise ConfigError(f"plan={config.plan.file}: {problem}")
    return plan
