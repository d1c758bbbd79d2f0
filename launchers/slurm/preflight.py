"""A look at every node of a job before training: which must not be used, and why."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from launchers.slurm.allocation import Allocation
from launchers.slurm.probes import Answer, Link, ask
from orchestrate.config import Config, DeviceKind
from orchestrate.plan.plan import Plan
from orchestrate.plan.units import GIB

_MEMORY_SHARE = 0.9
"""Of the cluster file's memory that a device must report: drivers keep some for themselves."""


@dataclass(frozen=True)
class Verdict:
    bad: Mapping[str, str]
    """Hosts not to be used, and why."""
    addresses: Mapping[str, str]
    """By host, its address on the interface that was asked for."""
    slowest: tuple[str, str, float] | None = None
    """The two ends and GB/s of the slowest link among the good ones."""
    seconds: float = 0.0
    answers: Mapping[str, Answer] = field(default_factory=dict)


def look(plan: Plan, config: Config, allocation: Allocation, run_dir: Path, name: str) -> Verdict:
    """Ask every node of ``allocation``, and judge; takes ``launcher.preflight_timeout_s`` at most.

    Args:
        name: of this look, a folder in the run's ``preflight``.
    """
    began = time.monotonic()
    silent = allocation.silent(allocation.names)
    bad = {host: f"Slurm's daemon does not answer at {allocation.daemons[host].address}" for host in silent}
    hosts = tuple(host for host in allocation.names if host not in bad)
    deadline = began + config.launcher.preflight_timeout_s
    answers = ask(plan, config, allocation, hosts, run_dir, name, deadline)
    found = judge(plan, config, hosts, answers, run_dir)
    return replace(found, bad={**bad, **found.bad}, seconds=time.monotonic() - began, answers=answers)


def judge(
    plan: Plan, config: Config, hosts: Sequence[str], answers: Mapping[str, Answer], run_dir: Path
) -> Verdict:
    """Which of ``hosts`` must not be used."""
    bad: dict[str, str] = {}
    for host in hosts:
        answer, log = answers.get(host), run_dir / "logs" / f"preflight-{host}.log"
        if answer is None:
            bad[host] = (
                f"it said nothing: it does not see {run_dir}, or Python does not start there; see {log}"
            )
        elif answer.links is None:
            bad[host] = f"it never came to the end of measuring its links; see {log}"
        elif problem := _own_problem(plan, config, answer):
            bad[host] = problem
    good = {host: answers[host] for host in hosts if host not in bad}
    bad |= _odd_ones(good)
    good = {host: answer for host, answer in good.items() if host not in bad}
    bad |= _wrong_clocks(good, config.launcher.preflight_clock_s)
    network = plan.cluster.network
    least = network.bandwidth_gbps * network.efficiency * config.launcher.preflight_bandwidth
    measured = [
        (host, link)
        for host, answer in good.items()
        if host not in bad
        for link in answer.links or ()
        if link.peer in good
    ]
    bad |= _behind_bad_links(measured, bad, least, network.bandwidth_gbps)
    speeds = [
        (host, link.peer, link.gbps)
        for host, link in measured
        if link.gbps is not None and not {host, link.peer} & bad.keys()
    ]
    return Verdict(
        bad=bad,
        addresses={host: a.address for host, a in answers.items() if a.address is not None},
        slowest=min(speeds, key=lambda speed: speed[2], default=None),
    )


def _own_problem(plan: Plan, config: Config, answer: Answer) -> str:
    launcher, device = config.launcher, plan.cluster.device
    wanted = max(node.devices for node in plan.cluster.nodes)
    if device.kind is DeviceKind.cuda:
        if answer.devices < wanted:
            return f"{answer.devices} GPUs where the plan needs {wanted}"
        if answer.memory_gib < device.memory_gib * _MEMORY_SHARE:
            return f"a GPU of {answer.memory_gib:.0f} GiB where the cluster file has {device.memory_gib:g}"
    else:
        needed = wanted * max((stage.total for stage in plan.memory), default=0.0) / GIB
        if answer.memory_gib < needed:
            return f"{answer.memory_gib:.1f} GiB of memory free where {wanted} ranks need {needed:.1f}"
    for folder, free in answer.disk_gib.items():
        if free < launcher.preflight_disk_gib:
            least = f"launcher.preflight_disk_gib={launcher.preflight_disk_gib:g}"
            return f"{free:.2g} GiB free in {folder}, less than {least}"
    if launcher.interface is not None and answer.address is None:
        return f"no address on launcher.interface={launcher.interface}"
    return ""


def _odd_ones(answers: Mapping[str, Answer]) -> dict[str, str]:
    """Those that differ from most."""
    bad: dict[str, str] = {}
    kinds = Counter((a.device_name, a.driver) for a in answers.values())
    contents = Counter(a.content for a in answers.values())
    for host, answer in answers.items():
        (name, driver), _ = kinds.most_common(1)[0]
        if answer.content != contents.most_common(1)[0][0]:
            bad[host] = "it sees other files in the run's folder than the other nodes"
        elif answer.driver != driver:
            bad[host] = f"driver {answer.driver or 'unknown'} where most nodes have {driver or 'none'}"
        elif answer.device_name != name:
            bad[host] = f"a {answer.device_name} where most nodes have a {name}"
    return bad


def _wrong_clocks(answers: Mapping[str, Answer], most_s: float) -> dict[str, str]:
    """Those whose clock is off, as far as neighbours can tell: from node to node along the links."""
    offsets: dict[str, float] = {}
    for host in answers:
        if host not in offsets:
            offsets[host] = 0.0
            todo = [host]
            while todo:
                here = todo.pop()
                for link in answers[here].links or ():
                    if link.ahead_s is not None and link.peer in answers and link.peer not in offsets:
                        offsets[link.peer] = offsets[here] + link.ahead_s
                        todo.append(link.peer)
    if not offsets:
        return {}
    middle = sorted(offsets.values())[len(offsets) // 2]
    off = {host: ahead - middle for host, ahead in offsets.items() if abs(ahead - middle) > most_s}
    return {
        host: f"its clock is {abs(ahead):.1f} s {'ahead' if ahead > 0 else 'behind'},"
        f" more than launcher.preflight_clock_s={most_s:g}"
        for host, ahead in off.items()
    }


def _behind_bad_links(
    measured: Sequence[tuple[str, Link]], out: Mapping[str, str], least: float, expected: float
) -> dict[str, str]:
    """The fewest hosts without which no link is bad: those with most bad links first."""
    bad: dict[str, str] = {}
    while True:
        problems: dict[str, dict[str, str]] = {}
        for host, link in measured:
            if {host, link.peer} & (bad.keys() | out.keys()):
                continue
            if link.problem:
                problem = link.problem
            elif link.gbps is not None and link.gbps < least:
                problem = f"{link.gbps:.3g} GB/s where the cluster file has {expected:g}"
            else:
                continue
            problems.setdefault(host, {})[link.peer] = problem
            problems.setdefault(link.peer, {})[host] = problem
        if not problems:
            return bad
        worst = max(problems, key=lambda host: (len(problems[host]), list(problems).index(host)))
        bad[worst] = "; ".join(f"to {peer} {problem}" for peer, problem in problems[worst].items())
