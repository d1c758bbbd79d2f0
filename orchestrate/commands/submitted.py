"""The folders of runs, as the verbs that follow a run are given them."""

from __future__ import annotations

from pathlib import Path

import yaml

from launchers.slurm.jobs import JOBS_FILE, jobs_of
from launchers.slurm.wait import active
from orchestrate import config as configs
from orchestrate.config import Config
from orchestrate.errors import ConfigError


def runs_of(config: Config, verb: str) -> list[Path]:
    """The run in ``run.dir``, or the runs of the sweep there, in their order; absolute. They were submitted.

    Raises:
        ConfigError: there is none that was.
    """
    runs = any_runs_of(config, verb)
    if not all((run / JOBS_FILE).exists() for run in runs):
        given = f"run.dir={config.run.dir}"
        raise ConfigError(
            f"{given}: nothing was submitted from there, orchestrate train started it: Ctrl-C lets it save"
            f" and end, and the same command with {given} goes on"
        )
    return runs


def any_runs_of(config: Config, verb: str) -> list[Path]:
    """As `runs_of`, with those that ``orchestrate train`` started.

    Raises:
        ConfigError: there is no run.
    """
    if config.run.dir is None:
        raise ConfigError(f"{verb} which run? orchestrate {verb} FOLDER")
    folder = Path(config.run.dir).expanduser().absolute()
    if not folder.is_dir():
        raise ConfigError(f"run.dir={folder}: no such folder")
    if _is_run(folder):
        return [folder]
    below = [path for path in folder.iterdir() if path.name.isdecimal() and _is_run(path)]
    if not below:
        raise ConfigError(f"run.dir={folder}: no run is there: name the folder of a run, or that of a sweep")
    return sorted(below, key=lambda run: int(run.name))


def _is_run(folder: Path) -> bool:
    return (folder / JOBS_FILE).exists() or (folder / "plan.yaml").exists()


def config_of(run_dir: Path) -> Config:
    """What the run in ``run_dir`` was submitted with.

    Raises:
        ConfigError: its ``config.yaml`` is gone or damaged.
    """
    file = run_dir / "config.yaml"
    try:
        return configs.load(yaml.safe_load(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ConfigError(f"{file} is damaged: it is not YAML") from None


def active_jobs(run_dir: Path) -> list[str]:
    """The jobs of the run that have yet to end.

    Raises:
        CommandError: Slurm does not answer.
    """
    return active(jobs_of(run_dir))
