"""When a deputy acts, and where it sits."""

from __future__ import annotations

import pytest

from launchers.slurm.deputy import Seen, chosen
from orchestrate.errors import ConfigError

SHOWN = (
    "JobId=7 JobName=x JobState={state} Reason=None Requeue=1 Restarts=2 BatchFlag=1 ReqNodeList=(null)"
    " ExcNodeList=gpu-01 NodeList={nodes} BatchHost=gpu-01 NumNodes=3"
)


@pytest.mark.parametrize(
    ("state", "nodes", "lost"),
    [
        ("RUNNING", "gpu-[01-03]", False),
        ("RUNNING", "gpu-[02-03]", True),
        ("RUNNING", "(null)", False),
        ("COMPLETING", "gpu-[02-03]", False),
        ("PENDING", "(null)", False),
        ("COMPLETED", "gpu-[02-03]", False),
    ],
)
def test_a_batch_step_is_lost_once_its_running_job_has_its_node_no_more(
    state: str, nodes: str, lost: bool
) -> None:
    seen = Seen.of(SHOWN.format(state=state, nodes=nodes))
    assert seen.lost("gpu-01") is lost
    assert (seen.restarts, seen.returns) == (2, True)


@pytest.mark.parametrize("text", ["", "slurm_load_jobs error: Invalid job id specified", "JobState=RUNNING"])
def test_no_answer_is_none(text: str) -> None:
    with pytest.raises(ConfigError):
        Seen.of(text)


@pytest.mark.parametrize(("nodes", "deputies"), [(1, []), (2, [1]), (4, [1, 2, 3]), (8, [1, 4, 7])])
def test_deputies_are_few_and_sit_apart(nodes: int, deputies: list[int]) -> None:
    names = [f"gpu-{number}" for number in range(nodes)]
    assert chosen(names, "gpu-0") == [names[number] for number in deputies]
