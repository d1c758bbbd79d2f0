"""Parses the command line and runs the verb; every mistake of the user's ends in one line and exit code 2."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from orchestrate import __version__
from orchestrate.cli.verbs import FLAGS, SHELLS, VERBS, Verb, verb_of
from orchestrate.errors import ConfigError, UserError

if TYPE_CHECKING:
    from orchestrate.cli.schema import Key

EXIT_OK, EXIT_FAILED, EXIT_MISTAKE, EXIT_INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``orchestrate`` with ``arguments`` (default: the process's own) and return the exit code.

    0: done. 1: a run failed. 2: a mistake in what was typed, told in one line on stderr. 75: stopped and
    saved, to be started again. 130: interrupted.
    """
    try:
        return _dispatch(list(sys.argv[1:] if arguments is None else arguments))
    except UserError as error:
        return _complain(error)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has seen enough; without this the interpreter complains again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK


def _complain(error: UserError, prefix: str = "") -> int:
    sys.stdout.flush()
    print(f"orchestrate: {prefix}{' '.join(str(error).split())}", file=sys.stderr)
    return EXIT_MISTAKE


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        from orchestrate.cli.help import overview

        print(overview(_folders(arguments)))
        return EXIT_OK if arguments else EXIT_MISTAKE
    if arguments[0] == "--version":
        print(f"orchestrate {__version__}")
        return EXIT_OK
    if arguments[0] in ("--completion", "-sc", "--shell-completion"):
        return _completion(arguments[1:])
    verb, rest = _take_verb(arguments)
    options = _parse_options(rest)
    if options.help:
        from orchestrate.cli.help import reference

        print(reference(verb, options.folders))
        return EXIT_OK
    return _run(verb, replace(options, overrides=_named(verb, options.overrides)))


def _named(verb: Verb | None, overrides: tuple[str, ...]) -> tuple[str, ...]:
    """``overrides`` with the key of a value that stands alone, where the verb takes one, and with
    short names spelled out."""
    if verb is None:
        return overrides
    names = verb.short_names()
    overrides = tuple(_spelled_out(text, names) for text in overrides)
    if verb.takes is None:
        return overrides
    keys = verb.takes.split()
    alone = [text for text in overrides if _stands_alone(text)]
    if len(alone) > len(keys):
        wanted = f"one {keys[0]}" if len(keys) == 1 else " and ".join(keys)
        raise ConfigError(f"{verb.name} takes {wanted}, not {len(alone)}: {' '.join(alone)}")
    left = iter(keys)
    return tuple(f"{next(left)}={_quoted(t)}" if _stands_alone(t) else t for t in overrides)


def _spelled_out(text: str, names: Mapping[str, Key]) -> str:
    name, equals, value = text.partition("=")
    return f"{names[name].path}={value}" if equals and name in names else text


def _stands_alone(text: str) -> bool:
    return "=" not in text and text[:1] not in ("~", "")


def _quoted(text: str) -> str:
    """``text`` as one value, whatever Hydra would make of its characters."""
    return "'" + text.replace("'", "\\'") + "'"


def _completion(arguments: list[str]) -> int:
    from orchestrate.cli import completion

    # Hydra's spelling is `-sc install=bash`, and what people know.
    shell = arguments[0].removeprefix("install=") if arguments else ""
    if shell == "words":
        print("\n".join(completion.complete(arguments[1:])))
    elif shell in SHELLS:
        print(completion.script(shell))
    else:
        raise ConfigError(f"--completion {shell or 'SHELL'}: choose a shell: {', '.join(SHELLS)}")
    return EXIT_OK


def _take_verb(arguments: list[str]) -> tuple[Verb | None, list[str]]:
    """The verb and what follows it; None where flags come first, as in ``orchestrate --cfg job``."""
    if arguments[0].startswith("-"):
        return None, arguments
    if verb := verb_of(arguments):
        return verb, arguments[len(verb.words) :]
    names = [verb.name for verb in VERBS]
    below = [name for name in names if name.startswith(arguments[0] + " ")]
    if below:
        if {"-h", "--help"} & set(arguments):
            return next(verb for verb in VERBS if verb.name in below), ["--help"]
        raise ConfigError(f"{arguments[0]} needs one word more: {' or '.join(below)}")
    from orchestrate.cli.compose import closest

    if "=" in arguments[0]:
        raise ConfigError(f"say what to do before {arguments[0]}: orchestrate {names[0]} {arguments[0]}")
    raise ConfigError(f"unknown verb {arguments[0]}: {closest(arguments[0], names)}")


@dataclass(frozen=True)
class Options:
    """The flags after the verb, and the overrides among them."""

    help: bool
    multirun: bool
    cfg: str | None
    package: str | None
    resolve: bool
    folders: tuple[Path, ...]
    name: str
    overrides: tuple[str, ...]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ").split()
        if message.startswith("unrecognized") and unknown:
            message = f"unknown flag {unknown[0]}: {_instead_of(unknown[0])}"
        raise ConfigError(message)


def _instead_of(flag: str) -> str:
    """Half a sentence: what somebody meant who typed ``flag``."""
    import difflib

    from orchestrate.cli.foreign import key_for

    if (key := key_for(flag)) is not None:
        return f"keys have no dashes here: {key}=VALUE"
    close = difflib.get_close_matches(flag, [name for f in FLAGS for name in f.names], n=1, cutoff=0.7)
    if close:
        return f"did you mean {close[0]}?"
    return "keys have no dashes here, as train.steps=100: orchestrate train --help lists them"


def _parse_options(arguments: list[str]) -> Options:
    parser = _Parser(prog="orchestrate", add_help=False, allow_abbrev=False)
    for flag in FLAGS:
        extra: dict[str, Any] = {"action": "store_true"}
        if flag.value:
            action = "append" if "--config-dir" in flag.names else "store"
            extra = {"choices": flag.choices or None, "action": action}
        parser.add_argument(*flag.names, **extra)
    parser.add_argument("overrides", nargs="*")
    seen = parser.parse_intermixed_args(arguments)
    return Options(
        help=seen.help,
        multirun=seen.multirun,
        cfg=seen.cfg,
        package=seen.package,
        resolve=seen.resolve,
        folders=tuple(map(Path, seen.config_dir or ())),
        name=(seen.config_name or "config").removesuffix(".yaml"),
        overrides=tuple(seen.overrides),
    )


def _folders(arguments: list[str]) -> tuple[Path, ...]:
    return _parse_options(arguments[1:]).folders if arguments else ()


def _run(verb: Verb | None, options: Options) -> int:
    from orchestrate.cli.compose import Source, jobs

    source = Source(options.folders, options.name)
    every = jobs(source, options.overrides, multirun=options.multirun)
    if options.cfg:
        from orchestrate.cli.show import show

        for overrides in every:
            print(show(source, overrides, options), end="")
        return EXIT_OK
    if verb is None:
        raise ConfigError(f"say what to do first: {', '.join(v.name for v in VERBS)}")
    if options.multirun:
        from orchestrate.cli.multirun import run_all

        return run_all(verb, source, every)
    from orchestrate.cli.job import build

    return verb.load()(build(source, every[0]), every[0])
