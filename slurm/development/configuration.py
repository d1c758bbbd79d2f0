"""The files that Slurm reads. Version 22.05 and later of Debian and Ubuntu are content with them."""

from __future__ import annotations

import os
import stat

from .spec import Spec


def write(spec: Spec) -> None:
    """Write what the cluster's daemons read into its folder: keys, devices, and what becomes /etc/slurm."""
    for folder in ("etc/slurm", "log", "munge", "run", "state", "gpus"):
        (spec.folder / folder).mkdir(parents=True)
    key = spec.folder / "munge" / "key"
    key.touch(mode=0o400)
    key.write_bytes(os.urandom(128))
    for index in range(spec.gpus):
        # Slurm counts devices only where there are character devices: these lead to /dev/null.
        os.mknod(spec.folder / "gpus" / str(index), stat.S_IFCHR | 0o666, os.makedev(1, 3))
    files = {"slurm": _slurm(spec), "gres": _gres(spec), "topology": _topology(spec)}
    # Named, it is content where no cgroup is mounted; left to choose, it is not.
    files["cgroup"] = ["CgroupPlugin=cgroup/v1"]
    for name, lines in files.items():
        (spec.folder / "etc" / "slurm" / f"{name}.conf").write_text("".join(f"{line}\n" for line in lines))


def _slurm(spec: Spec) -> list[str]:
    folder = spec.folder
    gres = f" Gres=gpu:{spec.gpus}" if spec.gpus else ""
    return [
        f"ClusterName={spec.name}",
        f"SlurmctldHost={spec.login}({spec.address(spec.login)})",
        "SlurmUser=root",
        "SlurmdUser=root",
        "AuthType=auth/munge",
        f"AuthInfo=socket={folder}/munge/socket",
        "CredType=cred/munge",
        f"StateSaveLocation={folder}/state",
        f"SlurmctldPidFile={folder}/run/slurmctld.pid",
        f"SlurmctldLogFile={folder}/log/slurmctld.log",
        f"SlurmdPidFile={folder}/run/slurmd.%n.pid",
        f"SlurmdLogFile={folder}/log/slurmd.%n.log",
        f"SlurmdSpoolDir={folder}/spool.%n",
        "MailProg=/bin/true",
        "MpiDefault=none",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "JobAcctGatherType=jobacct_gather/linux",
        "AccountingStorageType=accounting_storage/none",
        "JobCompType=jobcomp/filetxt",
        f"JobCompLoc={folder}/log/jobs.txt",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core",
        # A job is looked at as soon as it comes, not at the next round.
        "SchedulerType=sched/backfill",
        "SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0,batch_sched_delay=0",
        "TopologyPlugin=topology/tree",
        "GresTypes=gpu",
        # A node that was lost and comes back is used again; it is missed after SlurmdTimeout seconds.
        "ReturnToService=2",
        "SlurmdTimeout=10",
        "SlurmctldTimeout=10",
        "MessageTimeout=10",
        "InactiveLimit=0",
        "KillWait=5",
        "MinJobAge=3600",
        "JobRequeue=1",
        # What can never run is refused, as most sites have it, instead of waiting for ever.
        "EnforcePartLimits=ALL",
        # More processors and memory than the machine has.
        "SlurmdParameters=config_overrides",
        *(
            f"NodeName={host} NodeAddr={spec.address(host)} CPUs={spec.cpus} Boards=1 SocketsPerBoard=1"
            f" CoresPerSocket={spec.cpus} ThreadsPerCore=1 RealMemory={spec.memory_mib}{gres}"
            for host in spec.hosts
        ),
        "PartitionName=main Nodes=ALL Default=YES DefaultTime=60 MaxTime=INFINITE State=UP",
    ]


def _gres(spec: Spec) -> list[str]:
    return [f"Name=gpu File={spec.folder}/gpus/[0-{spec.gpus - 1}]"] if spec.gpus else []


def _topology(spec: Spec) -> list[str]:
    leaves = range(spec.leaves)
    lines = [f"SwitchName=leaf{i + 1} Nodes={','.join(spec.leaf(i))}" for i in leaves]
    return [*lines, f"SwitchName=spine Switches={','.join(f'leaf{i + 1}' for i in leaves)}"]
