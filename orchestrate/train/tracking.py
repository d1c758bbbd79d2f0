"""The run in wandb. Whatever happens to wandb, training goes on.

wandb is spoken to on a thread of its own: starting it, an unreachable server or a slow disk costs
the training loop nothing. The first thing that goes wrong is one warning line; after it, silence.
"""

from __future__ import annotations

import contextlib
import os
import queue
import secrets
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrate.config import Config, TrackingMode, dump
from orchestrate.plan.plan import Plan
from orchestrate.train.metrics import StepRecord

RUN_ID_FILE = "wandb_id"
_PER_RANK_SERIES = 64
"""Beyond so many ranks, memory is sent per pipeline stage: dashboards drown in thousands of series."""
_INIT_TIMEOUT_S = 30.0
_CLOSE_TIMEOUT_S = 60.0

Warn = Callable[[str], None]


def run_id(run_dir: Path) -> str:
    """The id under which wandb knows the run in ``run_dir``: made once, then read back."""
    path = run_dir / RUN_ID_FILE
    if not path.exists():
        path.write_text(secrets.token_hex(8) + "\n")
    return path.read_text().strip()


def series(record: StepRecord, plan: Plan) -> dict[str, float]:
    """What wandb is sent for ``record``: one number by series name, predictions beside measurements."""
    values: dict[str, float | None] = {
        "train/loss": record.loss,
        "train/perplexity": record.perplexity,
        "train/grad_norm": record.grad_norm,
        "train/lr": record.lr,
        "train/loss_scale": record.loss_scale,
        "train/skipped": record.skipped,
        "train/samples": record.samples,
        "train/tokens": record.tokens,
        "val/loss": record.val_loss,
        "val/perplexity": record.val_perplexity,
        "speed/step_time_s": record.step_time_s,
        "speed/step_time_s_predicted": record.predicted_step_time_s,
        "speed/tokens_per_s": record.tokens_per_s,
        "speed/tokens_per_s_per_device": record.tokens_per_s_per_device,
        "speed/mfu": record.mfu,
        "speed/checkpoint_s": record.checkpoint_s,
        "speed/exposed_communication_s": record.exposed_communication_s,
        "speed/straggler": record.straggler,
        "speed/straggler_share": record.straggler_share,
        "memory/max_mib": record.memory_mib_max,
    }
    values |= _memory_series("", record.memory_mib, plan)
    if record.predicted_memory_mib is not None:
        values["memory/max_mib_predicted"] = max(record.predicted_memory_mib)
        values |= _memory_series("_predicted", record.predicted_memory_mib, plan)
    return {name: value for name, value in values.items() if value is not None}


def _memory_series(suffix: str, by_rank: tuple[float, ...], plan: Plan) -> dict[str, float | None]:
    if len(by_rank) <= _PER_RANK_SERIES:
        return {f"memory/rank{rank:02d}_mib{suffix}": value for rank, value in enumerate(by_rank)}
    by_stage: dict[str, float | None] = {}
    for rank, value in enumerate(by_rank):
        name = f"memory/stage{plan.dims.coordinates(rank).pp:02d}_mib{suffix}"
        by_stage[name] = max(value, by_stage.get(name) or 0.0)
    return by_stage


class Tracker:
    """Sends each record to the wandb run of ``run_dir``; makes files only, unless the mode is online.

    Online, where the server cannot be reached or no key is known, the run is kept offline instead,
    to be sent later by ``wandb sync``.
    """

    def __init__(self, config: Config, plan: Plan, run_dir: Path, warn: Warn | None = None) -> None:
        self._config, self._plan, self._run_dir = config, plan, run_dir
        self._warn = warn or _to_stderr
        self._records: queue.SimpleQueue[StepRecord | None] = queue.SimpleQueue()
        self._failed = False
        self._thread = threading.Thread(target=self._guarded, name="tracking", daemon=True)
        self._thread.start()

    def __call__(self, record: StepRecord) -> None:
        self._records.put(record)

    def close(self, failed: bool = False, timeout_s: float = _CLOSE_TIMEOUT_S) -> None:
        """Finish the run, waiting at most ``timeout_s`` for what is still under way."""
        self._failed = failed
        self._records.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._warn(f"wandb did not finish in {timeout_s:g} s; {self._sync_hint()}")

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close(failed=error is not None)

    def _guarded(self) -> None:
        # SystemExit too: wandb raises it in places where other libraries raise an exception.
        try:
            self._follow()
        except (Exception, SystemExit) as error:
            self._warn(f"wandb is off for the rest of this run ({_one_line(error)}); metrics.jsonl goes on")

    def _follow(self) -> None:
        if self._config.tracking.mode is not TrackingMode.online:
            # "Nothing sent" includes the crash reports that wandb would send about itself.
            os.environ["WANDB_ERROR_REPORTING"] = "false"
        import wandb

        run = self._start(wandb)
        while (record := self._records.get()) is not None:
            run.log(series(record, self._plan), step=record.step)
        run.finish(exit_code=1 if self._failed else 0)
        # finish() may return before wandb's own process has written its last block of 32 KiB; this waits
        # for that process to end, which otherwise ends with ours, the block lost.
        wandb.teardown()

    def _start(self, wandb: Any) -> Any:
        if self._config.tracking.mode is TrackingMode.online:
            try:
                return self._init(wandb, "online")
            except Exception as error:
                self._warn(f"wandb cannot go online ({_one_line(error)}); {self._sync_hint()}")
                wandb.teardown()  # The failed attempt still holds the run's id.
        return self._init(wandb, "offline")

    def _init(self, wandb: Any, mode: str) -> Any:
        tracking = self._config.tracking
        run = wandb.init(
            project=tracking.project,
            entity=tracking.entity,
            tags=list(tracking.tags) or None,
            name=self._config.run.name or self._plan.model.name,
            config={"config": dump(self._config), "plan": _describe(self._plan)},
            id=run_id(self._run_dir),
            resume="allow" if mode == "online" else None,  # Offline, files of one id join when synced.
            mode=mode,
            dir=str(self._run_dir),
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=_INIT_TIMEOUT_S,
                login_timeout=5,
                finish_timeout=_CLOSE_TIMEOUT_S,
                save_code=False,
            ),
        )
        with _unsaid(wandb):
            for name in ("config.yaml", "plan.yaml"):
                if (self._run_dir / name).exists():
                    run.save(str(self._run_dir / name), base_path=str(self._run_dir), policy="now")
        return run

    def _sync_hint(self) -> str:
        return f"kept offline, send it later: wandb sync {self._run_dir / 'wandb'}/offline-run-*"


def open_tracker(config: Config, plan: Plan, run_dir: Path, warn: Warn | None = None) -> Tracker | None:
    """The tracker that ``tracking.mode`` asks for, or None when it is off."""
    return None if config.tracking.mode is TrackingMode.off else Tracker(config, plan, run_dir, warn)


@contextlib.contextmanager
def _unsaid(wandb: Any) -> Iterator[None]:
    """wandb is silent meanwhile: of every file that it keeps it would say that later changes are not seen."""
    wandb.termsetup(wandb.Settings(silent=True), None)
    try:
        yield
    finally:
        wandb.termsetup(wandb.setup().settings, None)


def _describe(plan: Plan) -> Mapping[str, Any]:
    described: Mapping[str, Any] = dump(plan)
    return described


def _one_line(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        return "not installed: pip install wandb"
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _to_stderr(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)
