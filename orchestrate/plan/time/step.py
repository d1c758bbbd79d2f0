"""Seconds of one optimizer step, term by term."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from operator import add, sub

from orchestrate.config import DType, ModelConfig, Recompute
from orchestrate.plan.buckets import bucket_elements
from orchestrate.plan.choice import Layout
from orchestrate.plan.layout import pipeline_rank, stages_by_rank
from orchestrate.plan.memory.model import stage_parameters
from orchestrate.plan.parameters import ParameterCount, count_parameters
from orchestrate.plan.pipeline.bound import lower_bound
from orchestrate.plan.pipeline.sharing import shared_makespan
from orchestrate.plan.pipeline.simulate import StageTimes, makespan
from orchestrate.plan.placement.place import Reach
from orchestrate.plan.plan import StageLayers, TimeEstimate
from orchestrate.plan.time.collectives import Fabric, fabric, send
from orchestrate.plan.time.engines import EngineHost, engine_host
from orchestrate.plan.time.micro_batch import MicroBatchCosts, micro_batch_costs
from orchestrate.plan.time.operators import Processor, Work, processor
from orchestrate.plan.time.replicas import Held, exposed
from orchestrate.plan.time.traits import TRAITS, TimeTraits
from orchestrate.plan.toolkits import Toolkit
from orchestrate.topology.cluster import Cluster

_ROUNDING = 1e-12
"""Of a sum, less than which it differs in another order."""


@dataclass(frozen=True)
class StageCosts:
    """Seconds of one micro-batch, forward and backward, without recomputation."""

    layer: float
    embedding: float
    head: float


@dataclass(frozen=True)
class CostModel:
    """The time of ``layout``; ``reach`` says by axis how its groups sit in the cluster (with cp also how
    those of dp and cp together do, as "replicas")."""

    cluster: Cluster
    model: ModelConfig
    dtype: DType
    layout: Layout
    reach: Mapping[str, Reach]
    toolkit: Toolkit = Toolkit.orchestrate
    fp32_gradients: bool = False
    """Whether gradients are reduced in fp32 whatever the toolkit's habit."""
    traits: TimeTraits | None = None
    """In place of the toolkit's own."""

    @cached_property
    def _traits(self) -> TimeTraits:
        return TRAITS[self.toolkit] if self.traits is None else self.traits

    @cached_property
    def _processor(self) -> Processor:
        return processor(self.cluster.device, self.dtype, self._traits.launch_us)

    @cached_property
    def _count(self) -> ParameterCount:
        return count_parameters(self.model, self.layout.dims.tp)

    @cached_property
    def _tp(self) -> Fabric:
        return fabric(self.cluster, self.reach["tp"])

    @cached_property
    def _replicas(self) -> Fabric:
        """Over which gradients are summed: dp and cp together."""
        together = "dp" if self.reach["cp"].size == 1 else "replicas"
        return fabric(self.cluster, self.reach[together])

    @cached_property
    def micro_batch(self) -> MicroBatchCosts:
        """What one micro-batch costs a rank in each part of the model."""
        layout = self.layout
        return micro_batch_costs(
            self._processor,
            self.model,
            self._traits,
            self._tp,
            fabric(self.cluster, self.reach["cp"]),
            layout.micro_batch,
            layout.sequence_parallel,
            layout.recompute.mode or Recompute.none,
            self._gradient_bytes,
            self._engine.passes,
        )

    @cached_property
    def _engine(self) -> EngineHost:
        """What the ZeRO engine costs the host; nothing where that is not known."""
        layout = self.layout
        return engine_host(layout.zero_engine, layout.zero_stage) if self._traits.engines else EngineHost()

    @cached_property
    def _gradient_bytes(self) -> int:
        """Of one element of a gradient that is added up and reduced."""
        precise = self.fp32_gradients or self.dtype in self._traits.fp32_gradients
        return max(4, self.dtype.bytes) if precise else self.dtype.bytes

    @property
    def _bf16_sharded(self) -> bool:
        return self.dtype is DType.bf16 and self._traits.bf16_sharded

    @property
    def _zero_stage(self) -> int:
        """As the toolkit understands it."""
        return max(1, self.layout.zero_stage) if self._bf16_sharded else self.layout.zero_stage

    @cached_property
    def stage_costs(self) -> StageCosts:
        """What a stage's parts cost, for cutting the layers into stages."""
        parts = self.micro_batch
        return StageCosts(parts.layer.once, parts.embedding.once, parts.head.once)

    def stage_times(self, stages: tuple[StageLayers, ...]) -> StageTimes:
        """Seconds of every virtual stage for one micro-batch, and of what goes between them."""
        parts = self.micro_batch
        layer = parts.layer
        forward = [len(stage) * layer.forward for stage in stages]
        backward = [
            len(stage) * (layer.backward - layer.recompute) + self._recomputed(stage) * layer.recompute
            for stage in stages
        ]
        weights = [len(stage) * layer.weights for stage in stages]
        for at, part in ((0, parts.embedding), (-1, parts.head)):
            forward[at] += part.forward
            backward[at] += part.backward
            weights[at] += part.weights
        return StageTimes(tuple(forward), tuple(backward), tuple(weights), self._sends(len(stages)))

    def _recomputed(self, stage: StageLayers) -> int:
        limit = self.layout.recompute.layers
        return len(stage) if limit is None else min(len(stage), limit)

    def _message(self, leaves: bool) -> float:
        """Seconds of a micro-batch's hidden states on their way to the next stage, which may be outside the
        fast-link domain."""
        hidden, tp = self.micro_batch.hidden_bytes, self.layout.dims.tp
        size, gathered = hidden, 0.0
        if self.layout.sequence_parallel:
            size = hidden / tp
        elif self._traits.pp_scattered:
            size, gathered = hidden / tp, self._tp.all_gather(hidden)
        return send(self.cluster, self.reach["pp"], size, leaves) + gathered

    def _sends(self, stages: int) -> tuple[float, ...]:
        span, pp = self.reach["pp"], self.layout.dims.pp
        if pp == 1:
            return (0.0,) * (stages - 1)
        leaves = span.leaves or (not span.local,) * pp
        held = [pipeline_rank(self.layout.schedule, pp, stage) for stage in range(stages)]
        near, far = self._message(leaves=False), self._message(leaves=True)
        return tuple(
            # Back along a V a message crosses what it crossed forth.
            0.0 if a == b else far if leaves[min(a, b) if abs(a - b) == 1 else a] else near
            for a, b in itertools.pairwise(held)
        )

    def estimate(self, stages: tuple[StageLayers, ...]) -> TimeEstimate:
        """The step with the layers cut into virtual ``stages``."""
        layout, parts = self.layout, self.micro_batch
        pp, vpp, m = layout.dims.pp, layout.dims.vpp, layout.micro_batches
        times = self.stage_times(stages)
        busy, slowest = self._busy(times)
        mine, ranks = self._counted(slowest, len(stages))
        layers = sum(len(stages[s]) for s in mine) / ranks
        again = m * sum(self._recomputed(stages[s]) for s in mine) * parts.layer.recompute / ranks
        tp, cp = layers * parts.layer.tp, layers * parts.layer.cp
        tp += parts.embedding.tp / ranks if 0 in mine else 0.0
        tp += parts.head.tp / ranks if len(stages) - 1 in mine else 0.0
        work = m * sum(times.forward[s] + times.backward[s] for s in mine) / ranks
        waiting = sending = 0.0
        if pp > 1:
            blocking = not self._traits.pp_hidden
            shape = layout.schedule, pp, vpp, m, times
            if self._crowding > 1:
                whole = shared_makespan(*shape, self._handled(times), self._crowding)
            else:
                whole = makespan(*shape, blocking=blocking)
            waiting = max(0.0, whole - work)
            sending = min(waiting, self._sending(times)) if blocking else 0.0
        terms = {
            "compute": work - again - m * (tp + cp),
            "recompute": again,
            "bubble": waiting - sending if waiting - sending > _ROUNDING * work else 0.0,
            "tp communication": m * tp,
            "cp communication": m * cp,
            "pp communication": sending,
            **self._once_a_step(stages, slowest),
        }
        return TimeEstimate({name: s for name, s in terms.items() if s > 0}, tuple(busy))

    def least(self, stages: tuple[StageLayers, ...]) -> float:
        """Seconds that the step of `estimate` is never below, many times cheaper: the pipeline is not run."""
        layout, times = self.layout, self.stage_times(stages)
        busy, slowest = self._busy(times)
        dims, m = layout.dims, layout.micro_batches
        pipeline, shape = busy[slowest], (layout.schedule, dims.pp, dims.vpp, m)
        if dims.pp > 1 and self._crowding > 1:
            # Shared cores are not done before they have done the work of all stages.
            cores = sum(busy) / len(busy) + self._sending(times)
            pipeline = max(cores, lower_bound(*shape, self._alone(times)))
        elif dims.pp > 1:
            blocking = not self._traits.pp_hidden
            pipeline = max(pipeline, lower_bound(*shape, times, blocking=blocking))
        return pipeline + sum(self._once_a_step(stages, slowest).values())

    def _counted(self, slowest: int, stages: int) -> tuple[Sequence[int], int]:
        """The virtual stages whose work a step consists of, and over how many ranks it is spread: those of
        the ``slowest``, which the others wait for; where ranks share cores, all of them."""
        pp = self.layout.dims.pp
        if self._crowding > 1:
            return range(stages), pp
        return stages_by_rank(self.layout.schedule, pp, stages)[slowest], 1

    @property
    def _crowding(self) -> float:
        return self.cluster.device.crowding

    def _alone(self, times: StageTimes) -> StageTimes:
        """``times``, which are of a crowd, with each action and message as quick as if nobody else worked."""
        handled = self._handled(times)
        forward, backward, weight, quicker = (
            tuple(seconds / self._crowding for seconds in part)
            for part in (times.forward, times.backward, times.weight, handled)
        )
        wire = map(sub, times.send, handled)
        return StageTimes(forward, backward, weight, tuple(map(add, wire, quicker)))

    def _handled(self, times: StageTimes) -> tuple[float, ...]:
        """Of each message between stages, what keeps the cores of a CPU busy: what it takes within a
        fast-link domain. While it is on a slower wire, they are free."""
        return tuple(min(seconds, self._message(leaves=False)) for seconds in times.send)

    def _sending(self, times: StageTimes) -> float:
        """Seconds that a rank sends and receives between stages if nothing hides it: for every micro-batch
        and virtual stage a round trip to the next; where ranks share cores, their mean, of every message's
        both sides."""
        dims, m = self.layout.dims, self.layout.micro_batches
        if self._crowding > 1:
            return 4 * m * sum(self._handled(times)) / dims.pp
        return 2 * m * dims.vpp * max(times.send)

    def _busy(self, times: StageTimes) -> tuple[list[float], int]:
        """By pipeline rank, the seconds that its micro-batches keep it; and the rank with the most."""
        layout = self.layout
        held = stages_by_rank(layout.schedule, layout.dims.pp, len(times.forward))
        busy = [
            layout.micro_batches * sum(times.forward[s] + times.backward[s] for s in mine) for mine in held
        ]
        return busy, max(range(len(busy)), key=busy.__getitem__)

    def _once_a_step(self, stages: tuple[StageLayers, ...], slowest: int) -> dict[str, float]:
        """The terms besides the micro-batches; the ``slowest`` rank hides of them what it can."""
        layout = self.layout
        held = stages_by_rank(layout.schedule, layout.dims.pp, len(stages))
        layers = sum(len(stages[s]) for s in held[slowest])
        most = max(stage_parameters(self.model, self._count, stages, mine) for mine in held)
        return {
            "dp communication": self._reduction(most, layers),
            "optimizer": self._update(most, layers),
            "fixed": self.cluster.device.step_us * 1e-6,
        }

    def _reduction(self, parameters: int, layers: int) -> float:
        """Exposed seconds of communication between replicas; and of summing what the first and the last
        stage made of the gradients of tied embeddings."""
        held = Held(parameters, layers, self._count.layer, self.dtype.bytes, self._gradient_bytes)
        traits, zero = self._traits, self._zero_stage
        total = exposed(
            self._replicas,
            held,
            self.micro_batch.layer,
            zero,
            self.layout.micro_batches,
            hidden=traits.dp_hidden,
            whole_sums=self.layout.zero_engine in traits.whole_sums or (self._bf16_sharded and zero == 1),
        )
        if traits.bucketed and zero < 3:
            messages = ceil(parameters / bucket_elements(parameters))
            total += (messages - 1) * self._replicas.all_reduce(0.0)
        if self.model.tied_embeddings and self.layout.dims.pp > 1:
            pair = Reach(2, 2 if self.reach["pp"].local else 1)
            total += fabric(self.cluster, pair).all_reduce(float(self._count.word * self._gradient_bytes))
        return total

    def _update(self, parameters: int, layers: int) -> float:
        """Seconds of clipping and AdamW: the norm reads the gradient; the update reads it again, reads
        and writes the master weight and two moments, and writes the weight."""
        element = self.dtype.bytes
        share = parameters / (self._replicas.size if self._zero_stage > 0 else 1)
        moved = 8 * max(4, element) + (element if element < 4 else 0)
        seconds = share * moved / self._processor.bandwidth
        return self._processor.elapsed(Work(seconds, self._engine.update + layers * self._engine.layer))
