"""What the command can do: the verbs and the flags, in one table that parsing, help and completion share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrate.cli.schema import Key
    from orchestrate.config import Config


@dataclass(frozen=True)
class Verb:
    name: str
    """As typed; two words where the verb has a sub-verb."""
    summary: str
    module: str
    """Where ``run(config, overrides) -> exit status`` is; imported only when the verb runs."""
    takes: str | None = None
    """The key whose value may stand alone after the verb: ``export runs/mine`` says ``path=runs/mine``;
    several in the order of their values, with spaces between."""
    short: tuple[str, ...] = ()
    """Sections and keys that are typed without what stands before their last dot: ``logs RUN follow=true``
    says ``logs.follow=true``."""
    reads: tuple[str, ...] | None = None
    """Keys, sections and groups that the verb looks at, besides those of its own; None: any."""
    together: bool = False
    """Whether the module also has ``run_all(configs, overrides of each) -> exit status``, for sweeps."""

    @property
    def words(self) -> list[str]:
        return self.name.split()

    def load(self) -> Callable[[Config, Sequence[str]], int]:
        run: Callable[[Config, Sequence[str]], int] = import_module(self.module).run
        return run

    def load_together(self) -> Callable[[Sequence[Config], Sequence[Sequence[str]]], int]:
        run_all: Callable[[Sequence[Config], Sequence[Sequence[str]]], int] = import_module(
            self.module
        ).run_all
        return run_all

    def short_names(self) -> dict[str, Key]:
        """By what may be typed for it, every key that `short` names or holds."""
        from orchestrate.cli.schema import all_keys

        keys = (key for key in all_keys() if key.path in self.short or key.section in self.short)
        return {key.path.rpartition(".")[2]: key for key in keys}


VERBS = (
    Verb("train", "plan a layout, start one process per device and train", "orchestrate.commands.train"),
    Verb(
        "plan",
        "choose a layout and show what it costs, without starting anything",
        "orchestrate.commands.plan",
        short=("plan",),
    ),
    Verb(
        "verify",
        "train a few steps on one process and in the layout, compare",
        "orchestrate.commands.verify",
        short=("verify",),
    ),
    Verb(
        "submit",
        "plan, freeze plan, config and code in the run's folder, and hand it to Slurm",
        "orchestrate.commands.submit",
        together=True,
    ),
    Verb(
        "status",
        "say how far a run has come and where its jobs stand",
        "orchestrate.commands.status",
        takes="run.dir",
        short=("status",),
        reads=("run.dir",),
    ),
    Verb(
        "logs",
        "show the log of a run's job, or of one of its ranks",
        "orchestrate.commands.logs",
        takes="run.dir",
        short=("logs",),
        reads=("run.dir",),
    ),
    Verb(
        "cancel",
        "let a run's jobs save and end, and say what was saved",
        "orchestrate.commands.cancel",
        takes="run.dir",
        reads=("run.dir",),
    ),
    Verb(
        "requeue",
        "put a run back into the queue, to go on from its checkpoint",
        "orchestrate.commands.requeue",
        takes="run.dir",
        reads=("run.dir",),
    ),
    Verb(
        "topology", "read this machine into a cluster file", "orchestrate.commands.topology", reads=("out",)
    ),
    Verb(
        "predict",
        "say what each run of a table should take: time, memory",
        "orchestrate.commands.predict",
        reads=("runs", "out", "cluster"),
    ),
    Verb(
        "evaluate",
        "score such predictions against what was measured",
        "orchestrate.commands.evaluate",
        short=("evaluate", "plan.format"),
        reads=("runs", "cluster", "plan.format"),
    ),
    Verb(
        "calibrate",
        "measure this cluster's devices and links, or learn from its runs, and refit its profile",
        "orchestrate.commands.calibrate",
        short=("calibrate",),
    ),
    Verb(
        "export",
        "write a checkpoint as Hugging Face safetensors, for transformers to load",
        "orchestrate.commands.export",
        takes="path",
        short=("export",),
        reads=("path", "out"),
    ),
    Verb(
        "import",
        "make a checkpoint to start from of a Hugging Face model",
        "orchestrate.commands.import_model",
        takes="path",
        reads=("path", "out", "precision"),
    ),
    Verb(
        "diagnose",
        "say which rank of a run hangs or failed, and what every rank was doing",
        "orchestrate.commands.diagnose",
        takes="run.dir",
        reads=("run.dir",),
    ),
    Verb(
        "checkpoint show",
        "list a run's checkpoints: step, samples, layout, size",
        "orchestrate.commands.checkpoint_show",
        takes="path",
        short=("plan.format",),
        reads=("path", "plan.format"),
    ),
    Verb(
        "checkpoint verify",
        "read every file of a run's checkpoints and name the damaged ones",
        "orchestrate.commands.checkpoint_verify",
        takes="path",
        reads=("path",),
    ),
    Verb(
        "checkpoint diff",
        "compare two checkpoints tensor by tensor, whatever layouts wrote them",
        "orchestrate.commands.checkpoint_diff",
        takes="path other",
        reads=("path", "other"),
    ),
    Verb(
        "data prepare",
        "write the data as memory-mapped token shards",
        "orchestrate.commands.data_prepare",
        reads=("data", "model"),
    ),
)


def verb_of(words: Sequence[str]) -> Verb | None:
    """The verb that ``words`` begin with."""
    return next((verb for verb in VERBS if list(words[: len(verb.words)]) == verb.words), None)


@dataclass(frozen=True)
class Flag:
    names: tuple[str, ...]
    summary: str
    value: str = ""
    """What stands after it; empty where nothing does."""
    choices: tuple[str, ...] = ()


FLAGS = (
    Flag(("-h", "--help"), "this help; after a verb, its keys with their defaults"),
    Flag(("-m", "--multirun"), "run every value of a sweep: key=1,2 or key=range(1,5) or group=glob(*)"),
    Flag(("-c", "--cfg"), "print the composed config and stop", "WHAT", ("job", "hydra", "all")),
    Flag(("-p", "--package"), "with --cfg: only this section", "SECTION"),
    Flag(("--resolve",), "with --cfg: with every ${...} resolved"),
    Flag(("-cd", "--config-dir"), "one more folder of config files, laid out as conf/ is", "FOLDER"),
    Flag(("-cn", "--config-name"), "the file to compose from instead of config.yaml", "NAME"),
)

SHELLS = ("bash", "zsh", "fish")

GLOBAL_FLAGS = (
    Flag(("--version",), "the version"),
    Flag(("--completion",), 'as in: eval "$(orchestrate --completion bash)"', "SHELL", SHELLS),
)
