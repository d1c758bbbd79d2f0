"""A checkpoint is whole or it does not count: killed writers, full disks, damaged and hostile files."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrate.errors import CheckpointError
from orchestrate.train.checkpoint import found, latest, problems, read_state
from orchestrate.train.checkpoint.format import CHECKSUMS, Checksum, checksums_json, digest
from orchestrate.train.checkpoint.read import read_metadata, read_tensor
from tests.distributed.checkpoint_cases import train
from tests.distributed.checkpoint_saves import ROWS, save_and_die, save_into_a_full_disk, save_step
from tests.distributed.pool import Pool, RankFailed
from tests.equivalence.layouts import Layout


def test_killed_at_any_moment_a_writer_leaves_the_one_before(pool: Pool, tmp_path: Path) -> None:
    for moment in range(1, 1000):
        run_dir = tmp_path / str(moment)
        pool.run(1, save_step, str(run_dir), 1)
        if (ended := outcome(pool, run_dir, moment)) is None:
            break  # it had finished before it could be killed
        assert "exit code -9" in ended
        newest = latest_of(run_dir)
        assert read_tensor(newest, "model.x").eq(read_state(newest).step).all()
    assert moment > 6  # a folder, the tensors, their list, the state, the checksums, the renaming


def outcome(pool: Pool, run_dir: Path, moment: int) -> str | None:
    """How saving step 2 failed; None: not at all."""
    try:
        pool.run(1, save_and_die, str(run_dir), 2, moment)
    except RankFailed as failure:
        return failure.reason
    return None


def test_a_step_saved_again_takes_the_place_of_the_first(pool: Pool, tmp_path: Path) -> None:
    for _ in range(2):
        pool.run(2, save_step, str(tmp_path), 1)
    assert [one.step for one in found(tmp_path)] == [1]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def test_without_room_there_is_an_error_on_every_rank_and_nothing_left(pool: Pool, tmp_path: Path) -> None:
    pool.run(2, save_step, str(tmp_path), 1)
    told = pool.run(2, save_into_a_full_disk, str(tmp_path), 2, 4096)
    assert told == ["OSError: rank 1: File too large"] * 2
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
    assert pool.run(2, save_step, str(tmp_path), 3)
    assert [one.step for one in found(tmp_path)] == [3, 1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")
def test_on_a_full_file_system_training_goes_on(pool: Pool, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    pool.run(1, train, Layout(), str(tmp_path / "elsewhere"), 1, 1)
    room = 3 * sum(path.stat().st_size for path in latest_of(tmp_path / "elsewhere").iterdir()) // 2
    mount = ["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("this machine does not let root mount a file system")
    try:
        (told,) = pool.run(1, train, Layout(), str(disk), 4, 1)
        assert len(told.losses) == 4
        assert told.notices
        assert "could not be written" in told.notices[0]
        assert "No space left on device" in told.notices[0]
        assert [path.name for path in (disk / "checkpoints").iterdir()] == ["step-00000001"]
        assert latest_of(disk).name == "step-00000001"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def latest_of(run_dir: Path) -> Path:
    newest = latest(run_dir)
    assert newest is not None
    return newest.path


@pytest.fixture(scope="module")
def saved(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with checkpoints after steps 1 to 3."""
    run_dir = tmp_path_factory.mktemp("run")
    pool.run(2, train, Layout(dp=2), str(run_dir), 3, 1)
    return run_dir


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("harm", [flip, truncate, Path.unlink])
@pytest.mark.parametrize("file", ["__1_0.distcp", ".metadata", "state.json", "checksums.json"])
def test_a_damaged_file_is_named_and_its_checkpoint_passed_over(
    saved: Path, harm: Callable[[Path], None], file: str, tmp_path: Path
) -> None:
    run_dir = shutil.copytree(saved, tmp_path / "run")
    newest = found(run_dir)[0]
    harm(newest.path / file)
    said: list[str] = []
    sound = latest(run_dir, said.append)
    assert sound is not None
    assert sound.step == 2
    assert len(said) == 1
    assert file in said[0]
    assert str(newest.path) in said[0]


def test_ranks_pass_over_damage_together(pool: Pool, saved: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(saved, tmp_path / "run")
    flip(run_dir / "checkpoints/step-00000003/__0_0.distcp")
    truncate(run_dir / "checkpoints/step-00000002/state.json")
    (run_dir / "checkpoints/step-00000009.partial-1-1").mkdir()
    told = pool.run(2, train, Layout(dp=2), str(run_dir), 3, 1)
    assert [one.start for one in told] == [1, 1]
    assert [len(one.notices) for one in told] == [2, 2]
    assert "__0_0.distcp has changed since it was written" in told[0].notices[0]
    assert "state.json has" in told[0].notices[1]
    assert not problems(found(run_dir)[0].path)
    assert len(list((run_dir / "checkpoints").iterdir())) == 3


def test_when_all_are_damaged_it_does_not_begin_again(pool: Pool, saved: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(saved, tmp_path / "run")
    for one in found(run_dir):
        (one.path / ".metadata").unlink()
    with pytest.raises(RankFailed, match=r"no checkpoint in .* is whole"):
        pool.run(1, train, Layout(), str(run_dir))


class Hostile:
    """Leaves its mark when unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._mark),)


def vouch_for(checkpoint: Path) -> None:
    """Checksums of what is there now: whoever can change files can change these too."""
    files = {
        path.name: Checksum(path.stat().st_size, digest(path))
        for path in checkpoint.iterdir()
        if path.name != CHECKSUMS
    }
    (checkpoint / CHECKSUMS).write_text(checksums_json(files))
    assert not problems(checkpoint)


def test_a_hostile_list_of_tensors_runs_nothing(saved: Path, tmp_path: Path) -> None:
    run_dir, mark = shutil.copytree(saved, tmp_path / "run"), tmp_path / "mark"
    checkpoint = found(run_dir)[0].path
    (checkpoint / ".metadata").write_bytes(pickle.dumps(Hostile(mark)))
    vouch_for(checkpoint)
    with pytest.raises(CheckpointError, match=r"asks for posix\.mkdir"):
        read_metadata(checkpoint)
    assert not mark.exists()
    pickle.loads((checkpoint / ".metadata").read_bytes())
    assert mark.exists()  # it would have


def test_hostile_tensors_run_nothing(saved: Path, tmp_path: Path) -> None:
    import torch

    run_dir, mark = shutil.copytree(saved, tmp_path / "run"), tmp_path / "mark"
    checkpoint = found(run_dir)[0].path
    metadata = read_metadata(checkpoint)
    assert isinstance(metadata.storage_data, dict)
    (index,) = [i for i in metadata.storage_data if i.fqn == "model.head.norm.weight"][:1]
    torch.save(Hostile(mark), checkpoint / "hostile")
    info = metadata.storage_data[index]
    info.relative_path, info.offset = "hostile", 0
    info.length = (checkpoint / "hostile").stat().st_size
    (checkpoint / ".metadata").write_bytes(pickle.dumps(metadata))
    vouch_for(checkpoint)
    with pytest.raises(CheckpointError, match=r"model\.head\.norm\.weight cannot be read"):
        read_tensor(checkpoint, "model.head.norm.weight")
    assert not mark.exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"step": "1"}', "[" * 100_000, "\x00"])
def test_what_is_no_state_is_refused(saved: Path, text: str, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(found(saved)[0].path, tmp_path / "step-00000003")
    (checkpoint / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"state\.json"):
        read_state(checkpoint)


def test_names_in_the_checksums_stay_in_the_folder(saved: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(found(saved)[0].path, tmp_path / "step-00000003")
    (checkpoint / CHECKSUMS).write_text(checksums_json({"../../etc/passwd": Checksum(1, "")}))
    assert problems(checkpoint) == ["checksums.json has changed since it was written"]
    assert json.loads((checkpoint / CHECKSUMS).read_text())["files"]


def test_a_box_of_a_tensor(saved: Path, pool: Pool, tmp_path: Path) -> None:
    checkpoint = found(saved)[0].path
    whole = read_tensor(checkpoint, "model.layers.1.mlp.up.weight")
    box = read_tensor(checkpoint, "model.layers.1.mlp.up.weight", (30, 3), (5, 20))
    assert box.equal(whole[30:35, 3:23])
    with pytest.raises(CheckpointError, match=r"has no model\.nothing"):
        read_tensor(checkpoint, "model.nothing")
    pool.run(2, save_step, str(tmp_path), 7)
    assert read_tensor(found(tmp_path)[0].path, "model.x").shape == (ROWS, 256)
