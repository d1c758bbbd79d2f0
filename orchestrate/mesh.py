"""From a placement to process groups: who each process is, and whom it talks to along every axis."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store
from torch.distributed.device_mesh import DeviceMesh

from orchestrate.config import Schedule
from orchestrate.plan.layout import Coordinates, ParallelDims
from orchestrate.plan.plan import Plan
from orchestrate.topology.cluster import Device


@dataclass(frozen=True)
class Axis:
    """This process's neighbours along one axis of the mesh."""

    name: str
    rank: int
    size: int
    ranks: tuple[int, ...]
    """Ranks in axis order; ``ranks[rank]`` is this process."""
    group: dist.ProcessGroup | None = None
    """None where the axis has one member: there is nobody to talk to."""


@dataclass(frozen=True)
class ParallelContext:
    """Where this process stands. Passed to whoever needs it, never global."""

    dims: ParallelDims
    rank: int
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
    kv_replicas: Axis
    """TP ranks with the same key-value head: more than one where tp exceeds the key-value heads."""
    tied: Axis
    """The two ranks that hold a copy each of tied embeddings, where those are on two stages."""


def join_world(plan: Plan, here: Device, device: torch.device, store: Store, timeout_s: float) -> None:
    """Initialise ``torch.distributed`` with the rank that the plan gives to the device ``here``.

    The rank follows from the placement alone, so the order in which processes started, or in which
    a scheduler named the nodes, has no say in who talks to whom.

    Raises:
        ValueError: the plan places no rank on ``here``.
    """
    dist.init_process_group(
        backend="nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=plan.placement.rank_of(here),
        world_size=plan.dims.world,
        timeout=timedelta(seconds=timeout_s),
        device_id=device if device.type == "cuda" else None,
    )


def build_context(plan: Plan, device: torch.device) -> ParallelContext:
    """Build the mesh of ``plan``: a collective over a world whose ranks are the plan's.

    Raises:
        RuntimeError: the world has another size than the plan.
    """
    if dist.get_world_size() != plan.dims.world:
        raise RuntimeError(
            f"the plan places {plan.dims.world} ranks, but {dist.get_world_size()} have joined"
        )
    assert_tensor_parallel_is_local(plan)
    dims, rank = plan.dims, dist.get_rank()
    # A mesh varies its last axis fastest; the order of the dims names the fastest first.
    names = tuple(reversed(dims.order))
    ranks = torch.arange(dims.world).view([dims.degree(axis) for axis in names])
    mesh = DeviceMesh(device.type, ranks, mesh_dim_names=names)

    def axis(name: str) -> Axis:
        mine = next(group for group in dims.groups(name) if rank in group)
        return Axis(name, mine.index(rank), len(mine), mine, mesh.get_group(name) if len(mine) > 1 else None)

    everyone = tuple(range(dims.world))
    return ParallelContext(
        dims=dims,
        rank=rank,
        coordinates=dims.coordinates(rank),
        device=device,
        mesh=mesh,
        tp=axis("tp"),
        cp=axis("cp"),
        dp=axis("dp"),
        pp=axis("pp"),
        model=_subgroup("model", dims.model_groups()),
        world=Axis("world", rank, dims.world, everyone, dist.group.WORLD if dims.world > 1 else None),
        kv_replicas=_subgroup("kv_replicas", _key_value_replicas(plan)),
        tied=_subgroup("tied", _tied_pairs(plan)),
    )


def assert_tensor_parallel_is_local(plan: Plan) -> None:
    """Assert that each TP group sits inside one fast-link domain, unless the plan lets it leave."""
    if plan.tp_across_domains:
        return
    for group in plan.dims.groups("tp"):
        domains = {plan.cluster.domain_of(plan.placement.devices[rank]) for rank in group}
        assert len(domains) == 1, f"TP group {group} would leave its fast-link domain: {sorted(domains)}"


def _subgroup(name: str, groups: Iterable[tuple[int, ...]]) -> Axis:
    """Groups that are no axis of the mesh. Every rank creates all of them, in the same order."""
    rank, mine = dist.get_rank(), Axis(name, 0, 1, (dist.get_rank(),))
    for ranks in groups:
        group = dist.new_group(list(ranks)) if len(ranks) > 1 else None
        if rank in ranks:
            mine = Axis(name, ranks.index(rank), len(ranks), ranks, group)
    return mine


def _key_value_replicas(plan: Plan) -> Iterable[tuple[int, ...]]:
    copies = max(1, plan.dims.tp // plan.model.key_value_heads)
    for group in plan.dims.groups("tp"):
        yield from (group[i : i + copies] for i in range(0, plan.dims.tp, copies))


def _tied_pairs(plan: Plan) -> Iterable[tuple[int, ...]]:
    # ZBV folds the pipeline, so that the first and the last stage share a rank, and the parameter.
    if plan.model.tied_embeddings and plan.dims.pp > 1 and plan.schedule is not Schedule.zbv:
        for group in plan.dims.groups("pp"):
            yield (group[0], group[-1])
