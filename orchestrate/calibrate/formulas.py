"""The planner's own formulas for what calibration measures: what is fitted is what will be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from orchestrate.calibrate.cases import small_model
from orchestrate.calibrate.samples import Exchange, Operator, Pass, Product
from orchestrate.config import (
    DeviceConfig,
    DType,
    LinkConfig,
    ModelConfig,
    Recompute,
    RecomputeConfig,
    Schedule,
    ZeroBackend,
)
from orchestrate.plan.choice import Layout
from orchestrate.plan.layout import AXES, ParallelDims, Placement
from orchestrate.plan.placement.place import Reach, reach
from orchestrate.plan.plan import StageLayers
from orchestrate.plan.time.collectives import fabric, send
from orchestrate.plan.time.operators import Work, processor
from orchestrate.plan.time.step import CostModel
from orchestrate.topology.cluster import Cluster


@dataclass(frozen=True)
class Formulas:
    """Predictions for measured cases, at any values of the profile's parameters."""

    cluster: Cluster
    placement: Placement
    model: ModelConfig
    dtype: DType

    def product(self, device: DeviceConfig, case: Product, start_us: float | None = None) -> float:
        """Seconds of a matrix product, one after another; ``start_us`` replaces the host's time for each."""
        at = processor(device, self.dtype, start_us)
        return at.elapsed(Work(at.matmul(case.m, case.n, case.k), 1))

    def operator(self, device: DeviceConfig, case: Operator, start_us: float | None = None) -> float:
        """Seconds of an operator between the products, one after another."""
        at = processor(device, self.dtype, start_us)
        return at.elapsed(Work(at.stream(case.size), 1))

    def exchange(self, nvlink: LinkConfig, network: LinkConfig, case: Exchange, span: Reach) -> float:
        """Seconds of a message or a collective of groups that ``span`` describes."""
        cluster = replace(self.cluster, nvlink=nvlink, network=network)
        if case.kind == "send":
            return send(cluster, span, float(case.size), leaves=case.link == "network")
        return float(getattr(fabric(cluster, span), case.kind)(float(case.size)))

    def span(self, case: Exchange) -> Reach:
        """What the groups of `case` span."""
        return reach(self.cluster, self.placement, case.groups, "pp" if case.kind == "send" else "")

    def whole_pass(self, device: DeviceConfig, nvlink: LinkConfig, case: Pass) -> float:
        """Seconds of forward and backward of a small GPT on ``case.tp`` ranks by themselves."""
        model = small_model(self.model, case)
        layout = Layout(
            dims=ParallelDims(tp=case.tp),
            micro_batch=case.micro_batch,
            global_batch=case.micro_batch,
            schedule=Schedule.one_f_one_b,
            sequence_parallel=False,
            zero_stage=0,
            zero_engine=ZeroBackend.deepspeed,
            recompute=RecomputeConfig(Recompute.none),
        )
        spans: Mapping[str, Reach] = {axis: Reach(1, 1) for axis in AXES} | {"tp": Reach(case.tp, case.tp)}
        cluster = replace(self.cluster, device=device, nvlink=nvlink)
        terms = (
            CostModel(cluster, model, self.dtype, layout, spans)
            .estimate((StageLayers(0, model.layers),))
            .terms
        )
        return terms["compute"] + terms.get("tp communication", 0.0)
