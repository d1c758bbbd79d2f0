"""What a job reads of what it was given."""

from __future__ import annotations

import pytest

from launchers.slurm.allocation import read_allocation
from launchers.slurm.commands import CommandError
from orchestrate.config import DeviceKind
from orchestrate.errors import ConfigError
from orchestrate.plan.placement.onto import Host

ENVIRONMENT = {
    "SLURM_JOB_ID": "12",
    "SLURM_JOB_NODELIST": "gpu-[08-10]",
    "SLURM_JOB_CPUS_PER_NODE": "64(x2),32",
    "SLURM_TASKS_PER_NODE": "4(x2),2",
}
ANSWERS = {
    "topology": "SwitchName=leaf1 Level=0 LinkSpeed=1 Nodes=gpu-[08-09]\n"
    "SwitchName=leaf2 Level=0 LinkSpeed=1 Nodes=gpu-[10-11]\n"
    "SwitchName=spine Level=1 LinkSpeed=1 Nodes=gpu-[08-11] Switches=leaf[1-2]\n",
    "job": "JobId=12 JobName=x\n   JOB_GRES=gpu:h100:20\n"
    "     Nodes=gpu-[08-09] CPU_IDs=0-63 Mem=0 GRES=gpu:h100:8(IDX:0-7)\n"
    "     Nodes=gpu-10 CPU_IDs=0-31 Mem=0 GRES=gpu:h100:4(IDX:0-3),nic:1\n",
    "config": "Configuration data\nSlurmdParameters        = (null)\nSlurmdPort              = 7003\n",
    "node": "NodeName=gpu-08 Arch=x86_64 NodeAddr=10.0.0.8 NodeHostName=gpu-08 Port=7004\n"
    "NodeName=gpu-09 Arch=x86_64 NodeAddr=10.0.0.9 NodeHostName=gpu-09\n",
}


def answer(*argv: str) -> str:
    return next(text for word, text in ANSWERS.items() if word in argv)


def test_hosts_have_the_gpus_and_switches_that_slurm_gave() -> None:
    found = read_allocation(DeviceKind.cuda, ENVIRONMENT, answer)
    assert found.hosts == (
        Host("gpu-08", 8, ("leaf1", "spine")),
        Host("gpu-09", 8, ("leaf1", "spine")),
        Host("gpu-10", 4, ("leaf2", "spine")),
    )
    assert found.cpus == {"gpu-08": 64, "gpu-09": 64, "gpu-10": 32}
    places = {host: (d.address, d.port) for host, d in found.daemons.items()}
    assert places == {"gpu-08": ("10.0.0.8", 7004), "gpu-09": ("10.0.0.9", 7003), "gpu-10": ("gpu-10", 7003)}


def test_a_job_of_an_array_is_not_taken_for_the_array() -> None:
    found = read_allocation(
        DeviceKind.cpu, {**ENVIRONMENT, "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}, answer
    )
    assert (found.job, found.number) == ("12_3", 12)


def test_without_gpus_tasks_are_devices() -> None:
    found = read_allocation(DeviceKind.cpu, ENVIRONMENT, answer)
    assert [host.devices for host in found.hosts] == [4, 4, 2]


def test_a_slurm_that_knows_of_no_switches_is_enough() -> None:
    def refuse(*argv: str) -> str:
        raise CommandError("scontrol: no")

    found = read_allocation(DeviceKind.cpu, ENVIRONMENT, refuse)
    assert [host.switches for host in found.hosts] == [(), (), ()]
    assert found.daemons["gpu-09"].address == "gpu-09"


@pytest.mark.parametrize("name", ["SLURM_JOB_ID", "SLURM_JOB_NODELIST", "SLURM_JOB_CPUS_PER_NODE"])
def test_outside_a_job_nothing_is_taken_for_granted(name: str) -> None:
    environment = {key: value for key, value in ENVIRONMENT.items() if key != name}
    with pytest.raises(ConfigError, match=f"{name} is not set: this runs in a job"):
        read_allocation(DeviceKind.cpu, environment, answer)
