"""From what was typed to plain config values: Hydra's composition, with its errors put in one line each."""

from __future__ import annotations

import difflib
import fnmatch
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrate.cli import schema
from orchestrate.cli.groups import conf_folder, groups
from orchestrate.config import unknown_key
from orchestrate.errors import ConfigError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig


@dataclass(frozen=True)
class Source:
    """Where the config files are: the package's own conf tree, then ``folders`` after it."""

    folders: tuple[Path, ...] = ()
    name: str = "config"
    """The file that composition starts from."""

    def __post_init__(self) -> None:
        for path in self.folders:
            if not path.is_dir():
                raise ConfigError(f"--config-dir={path}: no such folder")

    def groups(self) -> dict[str, tuple[str, ...]]:
        return groups(self.folders)


def jobs(source: Source, overrides: Sequence[str], *, multirun: bool) -> list[list[str]]:
    """The overrides of each job: one list as they are, or the product of all sweeps under ``multirun``.

    Raises:
        ConfigError: an override that is malformed, names an unknown key or choice, or is a sweep
            without ``multirun``.
    """
    parsed = _parse([_expand_shorthand(o) for o in overrides])
    known = source.groups()
    for override in parsed:
        _check(override, known, sweeps=multirun)
    axes = [_values(override, known) for override in parsed]
    return [list(job) for job in itertools.product(*axes)]


def compose(source: Source, overrides: Sequence[str], *, with_hydra: bool = False) -> DictConfig:
    """The composed config, ``${...}`` not yet resolved.

    Raises:
        ConfigError: a file of the config that is missing or malformed, or an override that fits nothing.
    """
    from hydra import compose as hydra_compose
    from hydra import version
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.config_search_path import SearchPathQuery
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    ConfigStore.instance().store(name="schema", node=schema.defaults())
    # As hydra.main does for --config-dir; the public compose cannot start from a file in such a folder.
    search_path = create_config_search_path(str(conf_folder()))
    for folder in source.folders:
        search_path.prepend("command-line", f"file://{folder.resolve()}", SearchPathQuery(provider="schema"))
    version.setbase("1.3")
    GlobalHydra.instance().clear()
    try:
        Hydra.create_main_hydra2("orchestrate", search_path)
        return hydra_compose(source.name, list(overrides), return_hydra_config=with_hydra)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(_one_line(error)) from None
    finally:
        GlobalHydra.instance().clear()


def plain(config: DictConfig) -> dict[str, Any]:
    """Nested plain values with every ``${...}`` resolved.

    Raises:
        ConfigError: an interpolation that leads nowhere, or a value that nothing gives.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    try:
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = error.full_key
        raise ConfigError(
            f"{key} is missing: give {key}=VALUE, or choose a preset (orchestrate --help)"
        ) from None
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if error.full_key else ""
        raise ConfigError(key + _one_line(error)) from None
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


_ONE_TEXT = (
    "plan.why",
    "launcher.nodelist",
    "launcher.exclude",
    "launcher.constraint",
    "launcher.container",
    "launcher.venv",
    "launcher.python",
)
"""Keys whose value is taken as it stands, though Hydra has a meaning for its characters: the quotes that
people typed around ``tp=16,pp=1`` or ``node[07-09]`` are gone, for the shell has taken them."""


def _expand_shorthand(override: str) -> str:
    """``plan=plan.yaml`` stands for ``plan.file=plan.yaml``; the values of `_ONE_TEXT` are quoted; an entry
    of a mapping, as in ``launcher.env.NCCL_DEBUG=INFO``, need not be there before."""
    key, equals, value = override.partition("=")
    if equals and key == "plan":
        return f"plan.file={value}"
    if (
        (key in _ONE_TEXT or key.startswith("launcher.env."))
        and value not in ("", "null")
        and value[0] not in "'\""
    ):
        quoted = value.replace("\\", "\\\\").replace("'", "\\'")
        override = f"{key}='{quoted}'"
    if any(key.startswith(k.path + ".") for k in schema.all_keys() if k.kind == "mapping"):
        return f"++{override}"
    return override


def _parse(overrides: Sequence[str]) -> list[Override]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    parsed = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not text.startswith("~") and (not equals or not value.strip()):
            if not equals and "/" in text:
                raise ConfigError(f"{text!r} has no key: write KEY={text}, as in run.dir={text}")
            raise ConfigError(f"{text!r} has no value: write {key}=VALUE")
        try:
            parsed.append(parser.parse_override(text))
        except HydraException as error:
            reason = str(error).splitlines()[0]
            quoted = f"'{key}=\"…\"'"
            raise ConfigError(
                f"{text!r} cannot be read ({reason}): quote the value, as in {quoted}"
            ) from None
    return parsed


def _check(override: Override, known: dict[str, tuple[str, ...]], *, sweeps: bool) -> None:
    key = override.key_or_group
    typed = override.input_line
    assert typed is not None
    if override.is_hydra_override() and key != "hydra.searchpath":
        raise ConfigError(f"{typed}: Hydra's own settings are not used here; run.dir places a run's folder")
    if override.is_sweep_override():
        if not sweeps:
            raise ConfigError(f"{typed} is a sweep: add -m to run every value, or quote the value")
        if not override.is_discrete_sweep():
            raise ConfigError(f"{typed}: sweep over a choice, a range or a glob")
    if key in known:
        _check_choice(override, known[key])
    elif not (override.is_add() or override.is_force_add()):
        _check_key(key, typed, known)


def _check_choice(override: Override, choices: tuple[str, ...]) -> None:
    from hydra.core.override_parser.types import Glob, QuotedString

    if override.is_delete():
        return
    value: Any = override.value()
    if override.is_sweep_override():
        picked = [] if isinstance(value, Glob) else list(override.sweep_iterator())
    else:
        picked = value if isinstance(value, list) else [value]
    for choice in picked:
        name = choice.text if isinstance(choice, QuotedString) else choice
        if name is not None and str(name) not in choices and "${" not in str(name):
            group = override.key_or_group
            if "/" in str(name) or str(name).endswith((".yaml", ".yml")):
                raise ConfigError(
                    f"{group}={name}: a file of your own is chosen by its name: --config-dir FOLDER"
                    f" {group}={Path(str(name)).stem} reads FOLDER/{group}/{Path(str(name)).stem}.yaml"
                )
            raise ConfigError(f"{group}={name}: no such choice; {closest(str(name), choices)}")


def _check_key(key: str, typed: str, known: dict[str, tuple[str, ...]]) -> None:
    if key == "hydra.searchpath":
        return
    below = [k.path for k in schema.all_keys() if k.path.startswith(key + ".")]
    if below and not typed.startswith(("~", "+")) and "={" not in typed:
        raise ConfigError(f"{typed}: {key} is a section; set one of its keys: {', '.join(below)}")
    if schema.is_known(key):
        return
    paths = [k.path for k in schema.all_keys()]
    section, dot, name = key.rpartition(".")
    siblings = {
        path.removeprefix(section + dot).split(".")[0] for path in paths if path.startswith(section + ".")
    }
    if siblings:
        raise ConfigError(unknown_key(key, sorted(siblings)))
    same_name = [] if section else [p for p in paths if p.rpartition(".")[2] == name]
    close = same_name or difflib.get_close_matches(key, [*known, *paths], n=1, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else "orchestrate train --help lists the keys"
    raise ConfigError(f"unknown key {key}: {hint}")


def _values(override: Override, known: dict[str, tuple[str, ...]]) -> list[str]:
    """What ``override`` says, once per value that it sweeps over."""
    from hydra.core.override_parser.types import Glob

    assert override.input_line is not None
    if not override.is_sweep_override():
        return [override.input_line]
    key = override.get_key_element()
    value = override.value()
    if isinstance(value, Glob):
        return [f"{key}={choice}" for choice in _matching(value, override, known)]
    return [f"{key}={text}" for text in override.sweep_string_iterator()]


def _matching(pattern: Any, override: Override, known: dict[str, tuple[str, ...]]) -> Iterator[str]:
    key = override.key_or_group
    choices = known.get(key)
    if choices is None:
        raise ConfigError(f"{override.input_line}: glob() chooses among a group's files, and {key} is a key")
    for choice in choices:
        included = any(fnmatch.fnmatch(choice, p) for p in pattern.include)
        if included and not any(fnmatch.fnmatch(choice, p) for p in pattern.exclude):
            yield choice


def closest(word: str, choices: Sequence[str]) -> str:
    """Half a sentence for an error: the choice nearest to ``word``, or all of them."""
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"choices: {', '.join(choices)}"


def _one_line(error: BaseException) -> str:
    """The first sentence of ``error``, or of the error under it where that one says more."""
    context = ("full_key:", "object_type=", "reference_type=", "Config search path:")
    lines = [line.strip() for line in str(error).splitlines() if not line.strip().startswith(context)]
    lines = [line for line in lines if line]
    return " ".join(lines[:2]) if lines else type(error).__name__
