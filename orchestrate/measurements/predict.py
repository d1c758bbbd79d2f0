"""What the planner's models of time and memory say of measured runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice

from orchestrate.measurements.clusters import Clusters
from orchestrate.measurements.layout import Setup, layout_of, setup
from orchestrate.measurements.schema import Run
from orchestrate.plan.cost import CostModel
from orchestrate.plan.layout import AXES, ParallelDims
from orchestrate.plan.memory import GIB, MemoryModel
from orchestrate.plan.placement import Reach, place, reach
from orchestrate.plan.plan import MemoryEstimate, TimeEstimate
from orchestrate.topology.cluster import Cluster


@dataclass(frozen=True)
class Prediction:
    """What one run should take."""

    run: Run
    time: TimeEstimate
    memory: MemoryEstimate
    """Of the fullest pipeline rank."""

    @property
    def iter_time_s(self) -> float:
        """Seconds of one optimizer step."""
        return self.time.step

    @property
    def memory_gib(self) -> float:
        return self.memory.total / GIB

    @property
    def fits(self) -> bool:
        return self.memory.fits


@dataclass(frozen=True)
class Predictor:
    """Predicts runs one by one; clusters, and what groups of ranks span in them, are worked out once."""

    clusters: Clusters = field(default_factory=Clusters)
    _reaches: dict[tuple[str, ParallelDims], dict[str, Reach]] = field(default_factory=dict)

    def predict(self, run: Run) -> Prediction:
        """Time and memory of ``run``.

        Raises:
            ConfigError: its cluster is unknown.
        """
        given = self.setup(run)
        memory = max(self.memory(given), key=lambda estimate: estimate.total)
        return Prediction(run, self.time(given), memory)

    def setup(self, run: Run) -> Setup:
        """``run`` as the planner's models see it."""
        cluster = self.clusters.cluster(run.cluster, run.gpus)
        return setup(run, cluster, self._reach(cluster, layout_of(run).dims))

    def time(self, given: Setup) -> TimeEstimate:
        """Seconds of one step."""
        cost = CostModel(
            given.cluster, given.model, given.dtype, given.layout, given.reach, toolkit=given.toolkit
        )
        return cost.estimate(given.stages)

    def memory(self, given: Setup) -> tuple[MemoryEstimate, ...]:
        """Bytes by pipeline rank."""
        model = MemoryModel(
            given.cluster, given.model, given.dtype, given.layout, given.stages, toolkit=given.toolkit
        )
        return model.estimate()

    def _reach(self, cluster: Cluster, dims: ParallelDims) -> dict[str, Reach]:
        key = cluster.name, dims
        if key not in self._reaches:
            placement = place(cluster, dims)
            # Nodes are alike and ranks placed in order, so the first group of an axis stands for all.
            self._reaches[key] = {
                axis: reach(cluster, placement, islice(dims.groups(axis), 1)) for axis in AXES
            }
        return self._reaches[key]


def predict_time(run: Run) -> TimeEstimate:
    """Seconds of one step of ``run``, by term."""
    predictor = Predictor()
    return predictor.time(predictor.setup(run))
