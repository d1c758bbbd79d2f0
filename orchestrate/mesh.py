"""From a placement to process groups: who each process is, and whom it talks to along every axis."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from orchestrate.plan.layout import AXES, Coordinates, ParallelDims
from orchestrate.plan.plan import Plan
from orchestrate.topology.cluster import Device


@dataclass(frozen=True)
class Axis:
    """This process's neighbours along one axis of the mesh."""

    name: str
    rank: int
    size: int
    ranks: tuple[int, ...]
    """Process ranks in axis order; ``ranks[rank]`` is this process."""
    group: dist.ProcessGroup | None = None
    """None where the axis has one member: there is nobody to talk to."""


@dataclass(frozen=True)
class ParallelContext:
    """Where this process stands. Passed to whoever needs it, never global."""

    dims: ParallelDims
    rank: int
    """Logical rank: what the placement says of this device."""
    coordinates: Coordinates
    device: torch.device
    mesh: DeviceMesh
    tp: Axis
    cp: Axis
    dp: Axis
    pp: Axis
    model: Axis
    """All ranks that hold slices of this replica: tp, cp and pp together."""
    world: Axis
    """All ranks, in logical order."""


def build_context(plan: Plan, here: Device, device: torch.device) -> ParallelContext:
    """Build the mesh of ``plan`` on an initialised world; a collective over all processes.

    Args:
        here: the device that this process got, in the placement's words.
        device: the same device in torch's words.

    Raises:
        RuntimeError: the world has another size than the plan, or two processes got one device.
    """
    world = dist.get_world_size()
    if world != plan.dims.world:
        raise RuntimeError(f"the plan places {plan.dims.world} ranks, but {world} processes have started")
    rank = plan.placement.rank_of(here)
    process_of = _process_ranks(rank, world, device)
    assert_tensor_parallel_is_local(plan)

    # A mesh varies its last axis fastest; the order of the dims names the fastest first.
    names = tuple(reversed(plan.dims.order))
    grid = torch.tensor(process_of).view([plan.dims.degree(axis) for axis in names])
    mesh = DeviceMesh(device.type, grid, mesh_dim_names=names)
    model_groups = list(plan.dims.model_groups())
    model, _ = dist.new_subgroups_by_enumeration([[process_of[r] for r in group] for group in model_groups])
    model_ranks = next(group for group in model_groups if rank in group)

    def axis(name: str) -> Axis:
        ranks = next(group for group in plan.dims.groups(name) if rank in group)
        return _axis(name, ranks, rank, process_of, mesh.get_group(name))

    assert model is not None
    return ParallelContext(
        dims=plan.dims,
        rank=rank,
        coordinates=plan.dims.coordinates(rank),
        device=device,
        mesh=mesh,
        **{name: axis(name) for name in AXES},
        model=_axis("model", model_ranks, rank, process_of, model),
        world=_axis("world", tuple(range(world)), rank, process_of, dist.group.WORLD),
    )


def assert_tensor_parallel_is_local(plan: Plan) -> None:
    """Assert that each TP group that fits a fast-link domain sits inside one."""
    if plan.dims.tp > plan.cluster.nvlink_domain:
        return  # Allowed by the user: checked with parallel.allow_tp_across_nodes before the plan was made.
    for group in plan.dims.groups("tp"):
        domains = {plan.cluster.domain_of(plan.placement.devices[rank]) for rank in group}
        assert len(domains) == 1, f"TP group {group} would leave its fast-link domain: {sorted(domains)}"


def _axis(
    name: str, ranks: tuple[int, ...], rank: int, process_of: list[int], group: dist.ProcessGroup | None
) -> Axis:
    return Axis(
        name=name,
        rank=ranks.index(rank),
        size=len(ranks),
        ranks=tuple(process_of[r] for r in ranks),
        group=group if len(ranks) > 1 else None,
    )


def _process_ranks(rank: int, world: int, device: torch.device) -> list[int]:
    """The process that plays each logical rank, as all processes tell one another."""
    told = torch.zeros(world, dtype=torch.int64, device=device)
    dist.all_gather_into_tensor(told, torch.tensor([rank], device=device))
    logical = told.tolist()
    if sorted(logical) != list(range(world)):
        raise RuntimeError(f"two processes were given the same device: logical ranks {logical}")
    process_of = [0] * world
    for process, played in enumerate(logical):
        process_of[played] = process
    return process_of
