"""The folders of submitted runs, as the verbs that follow a run are given them."""

from __future__ import annotations

from pathlib import Path

import yaml

from launchers.slurm.jobs import JOBS_FILE, jobs_of
from launchers.slurm.wait import active
from orchestrate import config as configs
from orchestrate.config import Config
from orchestrate.errors import ConfigError


def runs_of(config: Config, verb: str) -> list[Path]:
    """The run in ``run.dir``, or the runs of the sweep there, in their order; absolute.

    Raises:
        ConfigError: there is none that was submitted.
    """
    if config.run.dir is None:
        raise ConfigError(f"{verb} which run? orchestrate {verb} FOLDER")
    folder = Path(config.run.dir).expanduser().absolute()
    if not folder.is_dir():
        raise ConfigError(f"run.dir={folder}: no such folder")
    if (folder / JOBS_FILE).exists():
        return [folder]
    below = [file.parent for file in folder.glob(f"*/{JOBS_FILE}") if file.parent.name.isdecimal()]
    if not below:
        raise ConfigError(
            f"run.dir={folder}: nothing was submitted from there, for it has no {JOBS_FILE}: name a run that "
            "orchestrate submit made; orchestrate diagnose takes any run"
        )
    return sorted(below, key=lambda run: int(run.name))


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
