"""Seconds of one optimizer step, term by term."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from orchestrate.config import DType, ModelConfig, Recompute, Schedule
from orchestrate.plan.choice import Layout
from orchestrate.plan.collectives import Fabric, fabric, send
from orchestrate.plan.layer_time import LayerWork, embedding_seconds, head_work, layer_work
from orchestrate.plan.layout import pipeline_rank, stages_by_rank
from orchestrate.plan.memory import stage_parameters
from orchestrate.plan.operators import Processor, Work, processor
from orchestrate.plan.parameters import ParameterCount, count_parameters
from orchestrate.plan.placement import Reach
from orchestrate.plan.plan import StageLayers, TimeEstimate
from orchestrate.plan.simulate import StageTimes, makespan
from orchestrate.plan.time_traits import TRAITS, TimeTraits
from orchestrate.plan.toolkits import Toolkit
from orchestrate.topology.cluster import Cluster


@dataclass(frozen=True)
class PassTimes:
    """Seconds of one micro-batch in one layer, tensor- and context-parallel communication included."""

    forward: float
    backward: float
    """Recomputation included."""
    recompute: float
    """Of ``backward``."""
    tp: float
    """Exposed tensor-parallel communication of both, that of recomputation left out."""
    cp: float
    weights: float
    """Of ``backward``, what only makes gradients of weights."""


@dataclass(frozen=True)
class StageCosts:
    """Seconds of one micro-batch, forward and backward, without recomputation."""

    layer: float
    embedding: float
    head: float


@dataclass(frozen=True)
class CostModel:
    """The time of ``layout``; ``reach`` says by axis how its groups sit in the cluster."""

    cluster: Cluster
    model: ModelConfig
    dtype: DType
    layout: Layout
    reach: Mapping[str, Reach]
    toolkit: Toolkit = Toolkit.orchestrate
    fp32_gradients: bool = False
    """Whether gradients are reduced in fp32 whatever the toolkit's habit."""

    @cached_property
    def _traits(self) -> TimeTraits:
        return TRAITS[self.toolkit]

    @cached_property
    def _processor(self) -> Processor:
        return processor(self.cluster.device, self.dtype, self._traits.launch_us)

    @cached_property
    def _count(self) -> ParameterCount:
        return count_parameters(self.model, self.layout.dims.tp)

    @cached_property
    def _fabrics(self) -> dict[str, Fabric]:
        """By axis; ``replicas`` is dp and cp together, over which gradients are summed."""
        reach = self.reach
        dp, cp = reach["dp"], reach["cp"]
        replicas = dp
        if cp.size > 1:
            together = cp.size * dp.together if cp.local else cp.together
            replicas = Reach(
                cp.size * dp.size, together, network_share=min(cp.network_share, dp.network_share)
            )
        spans = {**{axis: reach[axis] for axis in ("tp", "cp", "dp")}, "replicas": replicas}
        return {name: fabric(self.cluster, span) for name, span in spans.items()}

    @cached_property
    def _hidden_bytes(self) -> float:
        """Of the hidden states of one micro-batch on one rank, whole over tp."""
        dims, model = self.layout.dims, self.model
        return float(self.layout.micro_batch * model.seq // dims.cp * model.hidden * self.dtype.bytes)

    @cached_property
    def _work(self) -> LayerWork:
        dims, layout = self.layout.dims, self.layout
        return layer_work(
            self._processor,
            self.model,
            self._traits,
            dims.tp,
            dims.cp,
            layout.micro_batch,
            layout.sequence_parallel,
        )

    @cached_property
    def _tp_messages(self) -> tuple[float, float]:
        """Exposed seconds of one layer's tensor-parallel collectives, forward and backward: two sums of
        the hidden states in each (Shoeybi et al. 2019, arXiv:1909.08053, section 3); with sequence
        parallelism each is a reduce-scatter and an all-gather. The inputs that are kept cut are gathered
        again behind the backward pass's products (arXiv:2205.05198, section 4.2.2)."""
        link, size = self._fabrics["tp"], self._hidden_bytes
        if link.size == 1:
            return 0.0, 0.0
        if self.layout.sequence_parallel:
            once = 2 * (link.reduce_scatter(size) + link.all_gather(size))
        else:
            once = 2 * link.all_reduce(size)
        return (once * (1 - self._traits.tp_hidden),) * 2

    @cached_property
    def _cp_messages(self) -> float:
        """Exposed seconds in a layer's forward pass of handing keys and values around the ring of cp
        ranks, behind the attention core (Liu et al. 2023, arXiv:2310.01889); twice that backward."""
        link, model, dims = self._fabrics["cp"], self.model, self.layout.dims
        if link.size == 1:
            return 0.0
        keys = 2 * max(1, model.key_value_heads // dims.tp) * model.head_dim
        block = self.layout.micro_batch * model.seq // dims.cp * keys * self.dtype.bytes
        ring = (link.size - 1) * (block / link.bandwidth + link.start)
        return max(0.0, ring - self._work.core_forward.seconds)

    @cached_property
    def layer(self) -> PassTimes:
        """One micro-batch in one layer."""
        work, device, traits = self._work, self._processor, self._traits
        forward_tp, backward_tp = self._tp_messages
        cp, tp = self._cp_messages, self.layout.dims.tp
        collectives = (4 if self.layout.sequence_parallel else 2) if tp > 1 else 0
        # The host starts collectives too, and toolkits differ in what else it does for each rank of tp.
        extra = collectives + (traits.tp_launch_us * 1e-6 * tp / device.launch if device.launch else 0.0)
        forward_work = work.forward + Work(forward_tp + cp, extra)
        backward_work = work.backward + Work(backward_tp + 2 * cp, extra)
        again = {
            Recompute.full: forward_work,
            Recompute.selective: work.core_forward if self.model.attention_dropout > 0 else Work(),
        }.get(self.layout.recompute.mode or Recompute.none, Work())
        alone = device.elapsed(backward_work)
        backward = device.elapsed(backward_work + again)
        return PassTimes(
            forward=device.elapsed(forward_work),
            backward=backward,
            recompute=backward - alone,
            tp=forward_tp + backward_tp,
            cp=3 * cp,
            weights=work.weights,
        )

    @cached_property
    def _head(self) -> tuple[float, float, float, float]:
        """Seconds of the head and the loss: forward, backward, of the latter for weights alone, and the
        exposed communication in both together."""
        dims, size = self.layout.dims, self._hidden_bytes
        forward, backward, weights = head_work(
            self._processor, self.model, self._traits, dims.tp, dims.cp, self.layout.micro_batch
        )
        link = self._fabrics["tp"]
        messages = 0.0
        if link.size > 1:
            whole = link.all_reduce(size)
            if self.layout.sequence_parallel:
                whole = link.all_gather(size) + link.reduce_scatter(size)
            # The head's input and its gradient; three fp32 numbers per token make up the loss.
            tokens = self.layout.micro_batch * self.model.seq // dims.cp
            messages = whole * (1 - self._traits.tp_hidden) + 3 * link.all_reduce(4.0 * tokens)
        return forward + messages / 2, backward + messages / 2, weights, messages

    @cached_property
    def _embedding(self) -> tuple[float, float]:
        """Seconds of the embedding, forward and backward, and the communication among them."""
        seconds = embedding_seconds(self._processor, self.model, self.layout.dims.cp, self.layout.micro_batch)
        messages = self._fabrics["tp"].all_reduce(self._hidden_bytes)
        return seconds + messages, messages

    @cached_property
    def stage_costs(self) -> StageCosts:
        """What a stage's parts cost, for cutting the layers into stages."""
        layer = self.layer
        forward, backward, _weights, _messages = self._head
        return StageCosts(
            layer=layer.forward + layer.backward - layer.recompute,
            embedding=self._embedding[0],
            head=forward + backward,
        )

    def stage_times(self, stages: tuple[StageLayers, ...]) -> StageTimes:
        """Seconds of every virtual stage for one micro-batch, and of what goes between them."""
        forward, backward, weight = [], [], []
        head_forward, head_backward, head_weights, _ = self._head
        for index, stage in enumerate(stages):
            again = self._recomputed(stage) * self.layer.recompute
            f = len(stage) * self.layer.forward
            b = len(stage) * (self.layer.backward - self.layer.recompute) + again
            w = len(stage) * self.layer.weights
            if index == 0:
                f, b = f + self._embedding[0] / 2, b + self._embedding[0] / 2
            if index == len(stages) - 1:
                f, b, w = f + head_forward, b + head_backward, w + head_weights
            forward.append(f)
            backward.append(b)
            weight.append(w)
        return StageTimes(tuple(forward), tuple(backward), tuple(weight), self._sends(stages))

    def _recomputed(self, stage: StageLayers) -> int:
        limit = self.layout.recompute.layers
        return len(stage) if limit is None else min(len(stage), limit)

    def _sends(self, stages: tuple[StageLayers, ...]) -> tuple[float, ...]:
        layout, span = self.layout, self.reach["pp"]
        dims = layout.dims
        if dims.pp == 1:
            return (0.0,) * (len(stages) - 1)
        cut = layout.sequence_parallel or self._traits.pp_scattered
        size = self._hidden_bytes / (dims.tp if cut else 1)
        gather = 0.0
        if cut and not layout.sequence_parallel:
            gather = self._fabrics["tp"].all_gather(self._hidden_bytes)
        leaves = span.leaves or (not span.local,) * dims.pp
        sends = []
        for stage in range(len(stages) - 1):
            a = pipeline_rank(layout.schedule, dims.pp, stage)
            b = pipeline_rank(layout.schedule, dims.pp, stage + 1)
            # A message back over the V's leg goes between the same two as the one forth.
            border = a if layout.schedule is not Schedule.zbv else min(a, b)
            sends.append(0.0 if a == b else send(self.cluster, span, size, leaves[border]) + gather)
        return tuple(sends)

    def estimate(self, stages: tuple[StageLayers, ...]) -> TimeEstimate:
        """The step with the layers cut into virtual ``stages``."""
        layout, layer = self.layout, self.layer
        pp, vpp, m = layout.dims.pp, layout.dims.vpp, layout.micro_batches
        held = stages_by_rank(layout.schedule, pp, len(stages))
        times = self.stage_times(stages)
        busy = [m * sum(times.forward[s] + times.backward[s] for s in mine) for mine in held]
        slowest = max(range(pp), key=busy.__getitem__)
        mine = held[slowest]
        layers = sum(len(stages[s]) for s in mine)
        again = sum(self._recomputed(stages[s]) for s in mine) * layer.recompute
        tp, cp = layers * layer.tp, layers * layer.cp
        if 0 in mine:
            tp += self._embedding[1]
        if len(stages) - 1 in mine:
            tp += self._head[3]
        waiting, sending = 0.0, 0.0
        if pp > 1:
            whole = makespan(layout.schedule, pp, vpp, m, times, blocking=not self._traits.pp_hidden)
            waiting = max(0.0, whole - busy[slowest])
            # A round trip to the next stage for every micro-batch and virtual stage, if nothing hides it.
            sending = min(waiting, 0.0 if self._traits.pp_hidden else 2 * m * vpp * max(times.send))
        share = busy[slowest] / m
        most = max(stage_parameters(self.model, self._count, stages, mine) for mine in held)
        terms = {
            "compute": m * (share - again - tp - cp),
            "recompute": m * again,
            "bubble": waiting - sending,
            "tp communication": m * tp,
            "cp communication": m * cp,
            "pp communication": sending,
            "dp communication": self._reduction(most, layers),
            "optimizer": self._update(most),
            "fixed": self.cluster.device.step_us * 1e-6,
        }
        return TimeEstimate({name: s for name, s in terms.items() if s > 0}, tuple(busy))

    @cached_property
    def _gradient_bytes(self) -> int:
        if self.fp32_gradients:
            return max(4, self.dtype.bytes)
        return max(self._traits.gradient_bytes or 0, self.dtype.bytes)

    def _reduction(self, parameters: int, layers: int) -> float:
        """Exposed seconds of averaging gradients and gathering weights over the replicas, with
        ``parameters`` on a rank in ``layers``; tied embeddings' sum between first and last stage."""
        link, m, layer = self._fabrics["replicas"], self.layout.micro_batches, self.layer
        weights, gradients = parameters * self.dtype.bytes, parameters * self._gradient_bytes
        total = 0.0
        if link.size > 1:
            behind_backward = layers * layer.backward if self._traits.dp_hidden else 0.0
            behind_forward = layers * layer.forward if self._traits.dp_hidden else 0.0
            reduce, gather = link.reduce_scatter(gradients), link.all_gather(weights)
            match self.layout.zero_stage:
                case 0:
                    total = max(0.0, link.all_reduce(gradients) - behind_backward)
                case 1:
                    total = max(0.0, reduce - behind_backward) + max(0.0, gather - behind_forward)
                case 2:  # gradients that are kept cut leave after every micro-batch
                    total = m * max(0.0, reduce - behind_backward) + max(0.0, gather - behind_forward)
                case _:
                    total = self._sharded(parameters, layers)
        if self.model.tied_embeddings and self.layout.dims.pp > 1:
            pair = Reach(2, 2 if self.reach["pp"].local else 1)
            total += fabric(self.cluster, pair).all_reduce(float(self._count.word * self._gradient_bytes))
        return total

    def _sharded(self, parameters: int, layers: int) -> float:
        """Exposed seconds under ZeRO-3: each layer's weights are gathered behind the layer before, for
        the forward and again for the backward pass, and its gradients reduced behind the next."""
        link, layer, m = self._fabrics["replicas"], self.layer, self.layout.micro_batches
        element, one = self.dtype.bytes, self._count.layer
        gather, reduce = link.all_gather(one * element), link.reduce_scatter(one * self._gradient_bytes)
        hidden = 1.0 if self._traits.dp_hidden else 0.0
        forward = max(0.0, gather - hidden * layer.forward)
        backward = max(0.0, gather + reduce - hidden * layer.backward)
        rest = max(0, parameters - layers * one)
        ends = 2 * link.all_gather(rest * element) + link.reduce_scatter(rest * self._gradient_bytes)
        return m * (layers * (forward + backward) + ends)

    def _update(self, parameters: int) -> float:
        """Seconds of clipping and AdamW: the norm reads the gradient; the update reads it again, reads
        and writes the master weight and two moments, and writes the weight."""
        dims = self.layout.dims
        share = parameters / (dims.dp * dims.cp if self.layout.zero_stage > 0 else 1)
        element = self.dtype.bytes
        precise = max(4, element)
        return share * (8 * precise + (element if element < 4 else 0)) / self._processor.bandwidth
