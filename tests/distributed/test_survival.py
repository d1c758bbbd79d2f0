"""A training run that is stopped, hangs and loses a device: two real workers, real signals."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from benchmarks.disturb.lineage import FOLDER, lineage, read_starts
from launchers import hang
from launchers.diagnosis import diagnose
from launchers.exits import REQUEUE
from launchers.faults import read_faults
from launchers.heartbeat import read_beats
from launchers.ranks import WORKER
from launchers.restart import Ended, Run
from orchestrate.cli import main
from orchestrate.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    FaultsConfig,
    LauncherConfig,
    OptimConfig,
    SourceConfig,
    TrackingConfig,
    TrackingMode,
    TrainConfig,
    dump,
)
from orchestrate.data import open_data
from orchestrate.data.sampler import WindowSampler
from orchestrate.plan import plan as plans
from orchestrate.train.metrics import read_records
from tests.equivalence.layouts import GLOBAL_BATCH, GPT, Layout, config_of, plan_of

LAYOUT = Layout(dp=2, model=dataclasses.replace(GPT, vocab=257))
ENDLESS = 1_000_000


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "words.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 200)
    source = SourceConfig("text", paths=(str(tmp_path / "words.txt"),))
    return dataclasses.replace(
        config_of(LAYOUT),
        data=DataConfig(source, cache=str(tmp_path / "cache"), validation_fraction=0.1),
        train=TrainConfig(steps=ENDLESS, global_batch=GLOBAL_BATCH, eval_batches=1, log_every=5),
        checkpoint=CheckpointConfig(every=10, keep=2),
        faults=FaultsConfig(pause_s=0.0, hang_s=6.0),
        launcher=LauncherConfig(grace_s=60.0),
        tracking=TrackingConfig(TrackingMode.off),
    )


def keep(
    config: Config, run_dir: Path, on_tick: Callable[[], None] | None = None, module: str = WORKER
) -> Ended:
    run_dir.mkdir(exist_ok=True)
    plan = plan_of(LAYOUT)
    (run_dir / "config.yaml").write_text(yaml.safe_dump(dump(config)))
    plans.save(plan, run_dir / "plan.yaml")
    return Run(plan, config, run_dir, on_tick, module=module).keep()


def test_one_rank_is_told_and_all_stop_after_the_same_step(config: Config, tmp_path: Path) -> None:
    told: list[int] = []
    heard: set[str] = set()

    def tell_one() -> None:
        beats = read_beats(tmp_path / "run", 2)
        if not told and len(beats) == 2 and min(beat.step for beat in beats.values()) > 12:
            heard.update(address for beat in beats.values() for address in listening(beat.pid))
            told.append(beats[1].pid)
            os.kill(beats[1].pid, signal.SIGUSR1)

    ended = keep(config, tmp_path / "run", tell_one)
    assert (ended.status, ended.failure) == (REQUEUE, None)
    beats = read_beats(tmp_path / "run", 2)
    last = beats[0].step
    assert beats[1].step == last
    assert (tmp_path / "run" / "checkpoints" / f"step-{last:08d}").is_dir()
    assert read_records(tmp_path / "run")[-1].step == last
    assert read_faults(tmp_path / "run") == []
    assert heard == {"127.0.0.1"}  # nobody else can join, or read along


def listening(pid: int) -> Iterator[str]:
    """The addresses at which process ``pid`` takes connections."""
    sockets = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    for version, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/{pid}/net/{version}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in sockets:
                words = bytes.fromhex(local.partition(":")[0])
                swapped = b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))
                yield socket.inet_ntop(family, swapped)


def test_a_rank_that_stands_still_is_found_and_its_device_left_out(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    stopped: list[int] = []
    looked: list[str] = []

    def tick() -> None:
        beats = read_beats(run_dir, 2)
        if not stopped and len(beats) == 2 and min(beat.step for beat in beats.values()) > 22:
            os.kill(beats[1].pid, signal.SIGSTOP)
            stopped.append(beats[1].pid)
            (run_dir / "lost.txt").write_text("node0:1\n")
        elif stopped and not looked:
            # Anybody may ask meanwhile; nothing is ended by that.
            assert main(["diagnose", str(run_dir)]) == 0
            looked.append(capsys.readouterr().out)
        elif "recovered" in [fault.kind for fault in read_faults(run_dir)] and len(stopped) == 1:
            stopped.append(0)
            os.kill(os.getpid(), signal.SIGTERM)

    ended = keep(config, run_dir, tick)
    assert ended.status == REQUEUE
    assert ended.plan.dims.world == 1
    hung, replanned, recovered = read_faults(run_dir)
    assert (hung.kind, hung.rank, hung.host, hung.device) == ("hung", 1, "node0", 1)
    assert "rank 1 on node0 device 1 never came; it is stopped; rank 0 of group dp waits in" in hung.text
    assert replanned.text == "lost node0:1; planned again for 1 devices: tp1 pp1 dp1"
    # It had checkpoints of steps 10 and 20 at least, and repeats what came after the last.
    assert recovered.step > 10
    assert recovered.step % 10 == 1
    found = diagnose(hang.folders(run_dir)[-1])
    assert found.missing == (1,)
    assert any("sum_over" in frame for frame in found.stacks[0])
    assert "now: rank 1 on node0 device 1 never came" in looked[0]
    assert {5, 10, 15, 20} <= {record.step for record in read_records(run_dir)}


def test_a_loss_spike_is_undone_and_its_data_left_out(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spike, steps = 27, 34
    config = dataclasses.replace(
        config,
        optim=OptimConfig(lr=1e-2, warmup_steps=0),
        train=TrainConfig(steps=steps, global_batch=GLOBAL_BATCH, eval_batches=0),
        checkpoint=CheckpointConfig(every=5),
        faults=FaultsConfig(spike_factor=1.5),
    )
    spoiled = range((spike - 1) * GLOBAL_BATCH, spike * GLOBAL_BATCH)
    spoil(tmp_path / "words.txt", config, spoiled)
    monkeypatch.setenv(FOLDER, str(tmp_path / "witness"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    ended = keep(config, tmp_path / "run", module="benchmarks.disturb.witness")
    assert (ended.status, ended.failure) == (0, None)
    assert read_faults(tmp_path / "run")[0].kind == "went_back"
    first, again = read_starts(tmp_path / "witness")
    assert (first.reached, again.loaded) == (spike, 25)
    # What the ranks were fed: all that came since the checkpoint was passed over, and nothing else.
    fed = sorted(n for samples in lineage([first, again], steps).values() for n in samples)
    left_out = range(25 * GLOBAL_BATCH, spike * GLOBAL_BATCH)
    assert fed == [n for n in range((steps + 2) * GLOBAL_BATCH) if n not in left_out]
    losses = {record.step: record.loss for record in read_records(tmp_path / "run")}
    assert sorted(losses) == list(range(1, steps + 1))
    assert max(losses[step] for step in range(spike, steps + 1)) < 1.5 * losses[25]
    assert {record.step: record.samples for record in read_records(tmp_path / "run")}[steps] == fed[-1] + 1


def spoil(corpus: Path, config: Config, samples: range) -> None:
    """Overwrite what makes up the global ``samples`` with what the rest of ``corpus`` has nothing of."""
    sampler = open_data(config).train
    assert isinstance(sampler, WindowSampler)
    text = bytearray(corpus.read_bytes())
    for window in map(sampler.window, samples):
        start = window * sampler.seq
        text[start : start + sampler.seq] = b"0123456789ABCDEF"[: sampler.seq]
    corpus.write_bytes(text)
