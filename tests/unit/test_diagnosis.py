"""Which rank never came, from what four ranks left behind: two stages of two replicas."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from launchers.diagnosis import diagnose
from launchers.hang import HangWatch, State
from launchers.heartbeat import Heart

GROUPS = {
    "1": {"what": "dp", "ranks": [0, 1]},
    "2": {"what": "dp", "ranks": [2, 3]},
    "3": {"what": "model", "ranks": [0, 2]},
    "4": {"what": "model", "ranks": [1, 3]},
    "9": {"what": "control", "ranks": [0, 1, 2, 3]},
}
ELSEWHERE = "/site/torch/distributed/pipelining/schedules.py"
OWN = "/code/orchestrate/model/gpt.py"


def write(folder: Path, calls: dict[int, list[tuple[str, int, bool]]], **silent: str) -> Path:
    """Files of four ranks: by rank, (group, number, whether it still waits) of each collective.

    ``silent`` says ``stopped`` or ``dead`` of ``rank2`` and the like; ranks without a pending collective
    are in their own code, but for those that ``silent`` says ``message`` of.
    """
    states = []
    for rank in range(4):
        what = silent.get(f"rank{rank}", "")
        states.append(
            State(rank, rank, "node0", rank, 7, 30.0, what not in ("stopped", "dead"), what == "stopped")
        )
        if what in ("stopped", "dead"):
            continue
        entries: list[dict[str, Any]] = [
            {
                "process_group": [group, "undefined"],
                "collective_seq_id": number,
                "profiling_name": "gloo:all_reduce",
                "is_p2p": False,
                "retired": not pending,
            }
            for group, number, pending in calls[rank]
        ]
        mine = {name: group for name, group in GROUPS.items() if rank in group["ranks"]}  # type: ignore[operator]
        flight = {"groups": mine, "trace": {"entries": entries}}
        (folder / f"flight-{rank}.json").write_text(json.dumps(flight))
        waits = what == "message" or any(p for g, _, p in calls[rank] if g != "9")
        where = ELSEWHERE if waits else OWN
        stack = (
            'Thread 0x1 (most recent call first):\n  File "/lib/threading.py", line 1 in wait\n\n'
            f'Current thread 0x2 (most recent call first):\n  File "{where}", line 5 in f\n'
            '  File "/code/orchestrate/train/worker.py", line 9 in <module>\n'
            '  File "<frozen runpy>", line 88 in _run_code\n'
        )
        (folder / f"stacks-{rank}.txt").write_text(stack)
    (folder / "states.json").write_text(json.dumps([asdict(state) for state in states]))
    return folder


def test_a_stopped_rank_is_the_one(tmp_path: Path) -> None:
    calls = {0: [("1", 5, True)], 1: [], 2: [("2", 4, False), ("3", 8, True)], 3: [("4", 8, True)]}
    found = diagnose(write(tmp_path, calls, rank1="stopped"))
    assert found.missing == (1,)
    assert found.group is not None
    assert (found.group.name, found.waiting) in {("dp", (0,)), ("model", (3,))}
    assert "rank 1 on node0 device 1 never came; it is stopped; rank" in found.headline


def test_a_rank_that_does_not_answer_is_the_one(tmp_path: Path) -> None:
    calls = {0: [("1", 5, True)], 1: [("1", 5, True)], 2: [], 3: [("2", 5, True), ("9", 3, True)]}
    found = diagnose(write(tmp_path, calls, rank2="dead"))
    assert found.headline == (
        "rank 2 on node0 device 2 never came; it does not answer; rank 3 of group dp waits in"
        " all_reduce number 5"
    )


def test_who_waits_itself_is_not_to_blame(tmp_path: Path) -> None:
    # Rank 3 is in its own code. Rank 2 waits for it, and rank 0 for rank 2, with which it shares a group.
    calls = {
        0: [("1", 5, False), ("3", 8, True)],
        1: [("1", 5, False), ("4", 8, True)],
        2: [("2", 5, True), ("3", 7, False)],
        3: [("2", 4, False), ("4", 7, False)],
    }
    found = diagnose(write(tmp_path, calls))
    assert found.missing == (3,)
    assert found.group is not None
    assert found.group.ranks in ((2, 3), (1, 3))
    assert "gpt.py" in found.stacks[3][0]


def test_a_message_between_stages_is_a_wait_too(tmp_path: Path) -> None:
    calls = {0: [("1", 5, True)], 1: [("1", 4, False)], 2: [("2", 4, False)], 3: [("2", 4, False)]}
    found = diagnose(write(tmp_path, calls, rank2="message", rank3="message"))
    assert found.missing == (1,)
    assert found.waiting == (0,)


def test_where_all_have_come_nobody_is_blamed(tmp_path: Path) -> None:
    calls = {r: [("1" if r < 2 else "2", 5, True)] for r in range(4)}
    found = diagnose(write(tmp_path, calls))
    assert found.missing == ()
    assert found.headline.startswith("no rank stands out")


@pytest.mark.parametrize(
    "damage", ["", "{", '{"groups": 3, "trace": []}', "[]", '{"groups": {}, "trace": {}}']
)
def test_damaged_answers_are_passed_over(tmp_path: Path, damage: str) -> None:
    calls = {0: [("1", 5, True)], 1: [("1", 4, False)], 2: [("2", 5, True)], 3: [("2", 5, True)]}
    folder = write(tmp_path, calls)
    (folder / "flight-0.json").write_text(damage)
    (folder / "stacks-2.txt").write_bytes(b"\xff\x00")
    diagnose(folder)


def test_a_folder_without_answers_is_no_diagnosis(tmp_path: Path) -> None:
    with pytest.raises(OSError):  # noqa: PT011
        diagnose(tmp_path)


class Stopped:
    """Ranks of which the system holds number 1."""

    def ask(self, number: int) -> None:
        pass

    def held(self) -> set[int]:
        return {1}


def test_a_start_takes_its_time_but_not_while_it_is_stopped(tmp_path: Path) -> None:
    told: list[set[int]] = []
    watch = HangWatch(tmp_path, 1e-9, lambda running, ranks: told.append(set(running)))
    assert list(watch({0, 1, 2}, Stopped())) == [1]
    assert told == [{0, 1, 2}]
    Heart(tmp_path, 1).begin(1)
    assert list(watch({0, 1}, Stopped())) == []  # it shows a sign of life
    assert list(watch({0, 1}, Stopped())) == [1]
