"""A job's nodes before training: looked over, and the plan placed on those that are fit."""

from __future__ import annotations

from launchers.restart import replace_plan
from launchers.slurm import preflight
from launchers.slurm.allocation import Allocation
from launchers.slurm.launcher import Slurm
from launchers.slurm.placing import NoEqualPlacement, maps, place_on
from orchestrate.commands.job_log import JobLog
from orchestrate.config import Config
from orchestrate.errors import ConfigError
from orchestrate.plan import plan as plans
from orchestrate.plan.plan import Plan
from orchestrate.topology.discover.hostlist import compress


class NotTheNodes(ConfigError):
    """The nodes that Slurm gave will not do; others might."""


def look_over(log: JobLog, config: Config, planned: Plan, allocation: Allocation) -> Slurm:
    """What starts ranks on the nodes of ``allocation`` that are fit.

    Raises:
        NotTheNodes: more are not than there are spare ones.
    """
    launcher = config.launcher
    if not launcher.preflight:
        return Slurm(allocation)
    found = preflight.look(planned, config, allocation, log.run_dir, f"{log.job}-{log.restart}")
    for host, reason in found.bad.items():
        log.say(f"preflight: {host} is not fit: {reason}")
    slowest = "" if found.slowest is None else ", slowest link {} to {}: {:.3g} GB/s".format(*found.slowest)
    nodes = len(allocation.hosts)
    log.say(f"preflight: {nodes - len(found.bad)} of {nodes} nodes fit in {found.seconds:.1f} s{slowest}")
    if len(found.bad) > launcher.spare_nodes and not launcher.replan:
        raise NotTheNodes(
            f"preflight: {compress(sorted(found.bad))} must not be used, and launcher.spare_nodes="
            f"{launcher.spare_nodes}: leave such nodes out with launcher.exclude, ask for spare ones, or"
            " change what the reasons above name"
        )
    unfit = frozenset(found.bad)
    return Slurm(allocation, found.addresses, out=unfit, unfit=unfit)


def place(log: JobLog, config: Config, planned: Plan, launcher: Slurm) -> Plan:
    """``planned`` on the fit nodes, which then is the run's ``plan.yaml``.

    Raises:
        NotTheNodes: no placement there equals the plan's, and no plan may be made anew, or none fits.
    """
    allocation = launcher.allocation
    try:
        placed = place_on(planned, config, allocation, launcher.out)
    except NoEqualPlacement as error:
        log.say("the plan's nodes and the job's, with the devices of each:")
        fit = [host for host in allocation.hosts if host.name not in launcher.out]
        for left, right in [("planned", "given"), *maps(planned.cluster, fit)]:
            log.console.print(f"  {left:<50}  {right}", soft_wrap=True)
        raise NotTheNodes(str(error)) from None
    except ConfigError as error:
        raise NotTheNodes(str(error)) from None
    plan = placed.plan
    if placed.changed:
        log.say(f"no placement equals the plan's: planned anew for {plan.dims.world} devices")
    else:
        pairs = zip(planned.cluster.nodes_by_position, plan.cluster.nodes_by_position, strict=True)
        if where := ", ".join(f"{old.host} is {new.host}" for old, new in pairs if old.host != new.host):
            log.say(f"of the plan, {where}")
    used = {node.host for node in plan.cluster.nodes}
    if spare := [name for name in allocation.names if name not in used]:
        log.say(f"not used: {compress(spare)}")
    if plan != plans.load(log.run_dir / "plan.yaml"):
        replace_plan(log.run_dir, plan)
    return plan
