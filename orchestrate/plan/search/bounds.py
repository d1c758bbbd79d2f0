"""Bounds from below on the time and the memory of all layouts under a node of the tree.

What they leave out only adds: a layout never takes less than its bound, so what a bound turns down is
turned down for certain. A test holds both against every layout of small spaces.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import ge
from typing import NamedTuple

from orchestrate.config import Config, DType, Recompute, Schedule, ZeroBackend
from orchestrate.plan.choice import fixed
from orchestrate.plan.layout import stages_by_rank
from orchestrate.plan.memory.activations import LayerActivations, layer_activations
from orchestrate.plan.memory.state import bytes_per_parameter
from orchestrate.plan.parameters import ParameterCount, count_parameters
from orchestrate.plan.pipeline.schedule import in_flight
from orchestrate.plan.search.candidate import Models, lone_replica
from orchestrate.plan.search.space import Space, TreeNode
from orchestrate.plan.units import GIB

ROUNDING = 1 - 1e-9
"""The models add the same numbers up in another order."""


class _Work(NamedTuple):
    """Seconds of one micro-batch, forward and backward, on all of a replica's layers in turn."""

    layer: float
    """One layer."""
    ends: float
    """Embedding, head and loss."""


class _Load(NamedTuple):
    """Layers that one pipeline rank holds, and those before them, through which the first micro-batch has
    to come and the last one's gradients have to go: in all, and computed again of them."""

    layers: int
    again: int
    layers_before: int
    again_before: int


class _Loads(NamedTuple):
    again: int
    """Layers computed again, of all ranks."""
    last: _Load
    """Of the rank that all others come before."""
    heaviest: tuple[_Load, ...]
    """Of the ranks of which no other has at least as much of everything."""
    first_stages: tuple[tuple[int, int], ...]
    """By virtual stage of rank 0: layers, and computed again of them."""


class Bounds:
    """Bounds for the nodes of ``space``; cheap, because nodes share most of what they rest on."""

    def __init__(self, space: Space, models: Models) -> None:
        self._space, self._models = space, models
        self._works: dict[tuple[int, int, bool, int, Recompute], _Work] = {}
        self._loads: dict[tuple[object, ...], _Loads] = {}
        self._in_flight: dict[tuple[object, ...], tuple[float, float]] = {}
        self._layers: dict[tuple[int, bool], LayerActivations] = {}
        self._counts: dict[int, ParameterCount] = {}
        self._states: dict[tuple[tuple[int, ...], int], float] = {}

    def seconds(self, node: TreeNode) -> float:
        """No layout under ``node`` steps in less time.

        The busiest rank works at least the mean, which is all there is where the schedule is open. Then
        a rank of a pipeline does its own work; without weight gradients put off it also waits for the
        first micro-batch to reach it, and after its last backward pass for the stages before: all quicker
        where it then has the cores that others wait on.
        """
        crowding = self._models.cluster.device.crowding
        m, layers = self._space.micro_batches(node), self._models.model.layers
        mode = Recompute.none
        if node.recompute is not None and node.recompute.mode is not None:
            mode = node.recompute.mode
        layer, ends = self._work(node, Recompute.none)
        if node.schedule is None:
            return ROUNDING * m * (layers * layer + ends) / node.pp
        again = self._work(node, mode).layer - layer
        loads = self._loads_of(node)
        whole = layers * layer + loads.again * again + ends
        bound = m * whole / node.pp
        for load in loads.heaviest:
            own = m * (load.layers * layer + load.again * again)
            before = load.layers_before * layer + load.again_before * again
            bound = max(bound, (before + own) / crowding)
        if node.schedule in (Schedule.gpipe, Schedule.one_f_one_b):
            # The last rank waits for all others, wherever embedding and head are.
            rest = (m - 1) * (loads.last.layers * layer + loads.last.again * again)
            bound = max(bound, (whole + rest) / crowding)
        return ROUNDING * bound

    def bytes(self, node: TreeNode) -> float:
        """No layout under ``node`` holds less on its fullest rank: weights, gradients and optimizer, the
        fewest that any ZeRO stage leaves, and what is kept for the micro-batches in flight on rank 0."""
        models, stage = self._models, node.zero_stage
        if (count := self._counts.get(node.tp)) is None:
            count = self._counts[node.tp] = count_parameters(models.model, node.tp)
        stages = self._space.zero_stages(node) if stage is None else (stage,)
        each = self._state(stages, node.dp)
        held = count.total / node.pp * each
        if node.schedule is not None:
            layers = self._loads_of(node).first_stages
            first = sum(whole for whole, _again in layers) * count.layer * each + self._kept(node)
            held = max(held, first)
        return ROUNDING * (held + models.cluster.device.reserved_gib * GIB)

    def _state(self, stages: tuple[int, ...], dp: int) -> float:
        """Bytes per parameter over ``dp`` replicas with that of the ZeRO ``stages`` that leaves least."""
        if (found := self._states.get((stages, dp))) is None:
            dtype, engine = self._models.dtype, self._space.start.zero_engine
            found = min((_state(dtype, stage, engine, dp) for stage in stages), default=0.0)
            self._states[stages, dp] = found
        return found

    def _kept(self, node: TreeNode) -> float:
        """Bytes that rank 0 keeps of the layers' activations."""
        assert node.micro_batch is not None
        models = self._models
        shape = node.tp, bool(node.sequence_parallel)
        if (layer := self._layers.get(shape)) is None:
            device = models.cluster.device
            layer = layer_activations(models.model, *shape, models.dtype.bytes, device.kind)
            self._layers[shape] = layer
        whole, again = self._in_flight_of(node)
        if node.recompute is None or node.recompute.mode is None:
            kept = whole * min(layer.under(mode) for mode in Recompute)
        else:
            kept = whole * layer.kept + again * layer.under(node.recompute.mode)
        return kept * node.micro_batch * models.model.seq / node.cp

    def _in_flight_of(self, node: TreeNode) -> tuple[float, float]:
        """Layers times micro-batches that rank 0 keeps activations of: whole, and to be computed again."""
        assert node.schedule is not None
        assert node.vpp is not None
        m = self._space.micro_batches(node)
        key = node.tp, node.cp, node.pp, node.schedule, node.vpp, node.recompute, m
        if (found := self._in_flight.get(key)) is None:
            alive = in_flight(node.schedule, node.pp, node.vpp, 0, m)
            stages = list(zip(alive, self._loads_of(node).first_stages, strict=True))
            found = (
                sum(times * (layers - again) for times, (layers, again) in stages),
                sum(times * again for times, (_layers, again) in stages),
            )
            self._in_flight[key] = found
        return found

    def _work(self, node: TreeNode, mode: Recompute) -> _Work:
        assert node.micro_batch is not None
        key = node.tp, node.cp, bool(node.sequence_parallel), node.micro_batch, mode
        if (work := self._works.get(key)) is None:
            parts = self._models.cost(lone_replica(*key)).micro_batch
            layer, ends = parts.layer, (parts.embedding, parts.head)
            work = _Work(layer.forward + layer.backward, sum(end.forward + end.backward for end in ends))
            self._works[key] = work
        return work

    def _loads_of(self, node: TreeNode) -> _Loads:
        assert node.schedule is not None
        assert node.vpp is not None
        key = node.tp, node.cp, node.pp, node.schedule, node.vpp, node.recompute
        if (found := self._loads.get(key)) is None:
            stages = self._models.stages(node.tp, node.cp, node.pp * node.vpp)
            sizes = [(len(stage), _again(node, len(stage))) for stage in stages]
            held = stages_by_rank(node.schedule, node.pp, len(stages))
            # What ZBV puts off fills the time that a rank would wait.
            before = [0] * node.pp if node.schedule is Schedule.zbv else [mine[0] for mine in held]
            loads = [
                _Load(*_total(sizes[s] for s in mine), *_total(sizes[:first]))
                for mine, first in zip(held, before, strict=True)
            ]
            again = sum(load.again for load in loads)
            first = tuple(sizes[s] for s in held[0])
            found = self._loads[key] = _Loads(again, loads[-1], _heaviest(loads), first)
        return found


def least_state(config: Config, world: int) -> float:
    """Bytes of weights, gradients and optimizer below which no layout that ``config`` allows comes on any
    of ``world`` devices of its kind; for telling at once that a cluster is too small."""
    start, model, cluster = fixed(config), config.model, config.cluster
    domain = cluster.nvlink_domain or cluster.gpus_per_node
    tp = start.tp or (model.heads if config.parallel.allow_tp_across_nodes else min(domain, model.heads))
    parts = min(world, tp * (start.pp or model.layers))
    stages = range(4) if start.zero_stage is None else (start.zero_stage,)
    dtype, engine = config.precision.dtype, start.zero_engine
    each = min(_state(dtype, stage, engine, world / parts) for stage in stages)
    return count_parameters(model).total * each / parts


def _state(dtype: DType, stage: int, engine: ZeroBackend, replicas: float) -> float:
    """Bytes per parameter that this toolkit, whose gradients accumulate in at least fp32, keeps under ZeRO
    ``stage`` over ``replicas``."""
    used = engine if stage > 0 else None
    return sum(bytes_per_parameter(dtype, stage, used, replicas, max(4, dtype.bytes)).values())


def _again(node: TreeNode, layers: int) -> int:
    """Of a stage's ``layers``, those that are computed again, whole or in part."""
    if node.recompute is None or node.recompute.mode is Recompute.none:
        return 0
    return layers if node.recompute.layers is None else min(node.recompute.layers, layers)


def _total(sizes: Iterable[tuple[int, int]]) -> tuple[int, int]:
    listed = list(sizes)
    return sum(layers for layers, _again in listed), sum(again for _layers, again in listed)


def _heaviest(loads: Sequence[_Load]) -> tuple[_Load, ...]:
    """Those of which no other has at least as much of everything."""
    different = set(loads)
    return tuple(
        load
        for load in different
        if not any(other != load and all(map(ge, other, load)) for other in different)
    )
