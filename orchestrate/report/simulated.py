"""The step of a plan, simulated for its picture."""

from __future__ import annotations

from orchestrate.config import DType
from orchestrate.plan.layout import AXES, Placement
from orchestrate.plan.pipeline.simulate import simulate
from orchestrate.plan.placement.arrangement import Reaches
from orchestrate.plan.placement.place import reach
from orchestrate.plan.placement.reach import Reach
from orchestrate.plan.plan import Plan
from orchestrate.plan.time.step import CostModel
from orchestrate.plan.time.traits import TRAITS
from orchestrate.plan.toolkits import Toolkit
from orchestrate.report.inputs import Drawing

MOST = 40_000
"""Actions that are simulated: some tenths of a second's work."""


def drawing(plan: Plan, dtype: DType) -> Drawing:
    """The actions of ``plan`` over one step, of fewer micro-batches where the step has too many actions."""
    dims = plan.dims
    times = CostModel(plan.cluster, plan.model, dtype, plan.layout, _spans(plan)).stage_times(plan.stages)
    micro_batches = plan.micro_batches
    if 3 * len(plan.stages) * micro_batches > MOST:
        # Whole rounds, as interleaving wants them, and twice as many as fill any schedule.
        rounds = max(4 * dims.vpp, MOST // (3 * len(plan.stages) * dims.pp))
        micro_batches = min(micro_batches, dims.pp * rounds)
    blocking = not TRAITS[Toolkit.orchestrate].pp_hidden
    timeline = simulate(plan.schedule, dims.pp, dims.vpp, micro_batches, times, blocking=blocking)
    return Drawing(timeline, micro_batches)


def _spans(plan: Plan) -> dict[str, Reach]:
    """By axis, what its groups span."""
    by_host = {node.host: node for node in plan.cluster.nodes}
    nodes = tuple(by_host[host] for host in dict.fromkeys(d.host for d in plan.placement.devices))
    if Placement(tuple(d for node in nodes for d in plan.cluster.devices_of(node))) == plan.placement:
        return Reaches(plan.cluster, nodes).of(plan.dims)
    # Devices in another order than their nodes', as only a plan that was written by hand has them.
    groups = plan.dims.groups
    return {axis: reach(plan.cluster, plan.placement, groups(axis), axis) for axis in AXES}
