"""``--cfg``: the composed config as YAML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

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
    values: Any = plain(config) if options.resolve else OmegaConf.to_container(config, resolve=False)
    if options.cfg == "hydra":
        values = {"hydra": values["hydra"]}
    if options.package:
        section = values
        for part in options.package.split("."):
            section = section.get(part) if isinstance(section, dict) else None
        if section is None:
            raise ConfigError(f"--package {options.package}: no such section; sections: {', '.join(values)}")
        values = {options.package.rpartition(".")[2]: section}
    return OmegaConf.to_yaml(OmegaConf.create(values))
