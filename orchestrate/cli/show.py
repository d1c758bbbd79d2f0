"""``--cfg``: the composed config as YAML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrate.cli.compose import Source, compose, plain
from orchestrate.errors import ConfigError

if TYPE_CHECKING:
    from orchestrate.cli.entry import Options


def show(source: Source, overrides: Sequence[str], options: Options) -> str:
    """The YAML that ``options`` asks for: the job's config, Hydra's own or both; all or one section.

    Raises:
        ConfigError: the section does not exist, or what `compose` raises.
    """
    from omegaconf import OmegaConf

    config = compose(source, overrides, with_hydra=options.cfg != "job")
    if options.cfg == "hydra":
        config = OmegaConf.create({"hydra": config.hydra})
    if options.package:
        section = OmegaConf.select(config, options.package)
        if section is None:
            known = ", ".join(map(str, config))
            raise ConfigError(f"--package {options.package}: no such section; sections: {known}")
        config = OmegaConf.create({options.package.rpartition(".")[2]: section})
    return OmegaConf.to_yaml(plain(config) if options.resolve else config)
