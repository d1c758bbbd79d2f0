"""What the planner's models of time and memory say of measured runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from orchestrate.errors import ConfigError, DataError
from orchestrate.measurements.clusters import Clusters
from orchestrate.measurements.layout import Setup, dtype_of, layout_of, setup, why_not
from orchestrate.measurements.schema import Run
from orchestrate.plan.layout import ParallelDims
from orchestrate.plan.memory.model import MemoryModel
from orchestrate.plan.memory.published import published
from orchestrate.plan.memory.traits import TRAITS
from orchestrate.plan.placement.arrangement import Reaches
from orchestrate.plan.placement.reach import Reach
from orchestrate.plan.plan import MemoryEstimate, TimeEstimate
from orchestrate.plan.time.step import CostModel
from orchestrate.plan.toolkits import toolkit_of
from orchestrate.plan.units import GIB
from orchestrate.topology.cluster import Cluster


@dataclass(frozen=True)
class Prediction:
    """What one run should take."""

    run: Run
    time: TimeEstimate
    memory: tuple[MemoryEstimate, ...]
    """By pipeline rank."""
    why_not: str | None = None
    """Why the toolkit cannot train in this layout at all; None where it can."""

    @property
    def iter_time_s(self) -> float:
        """Seconds of one optimizer step."""
        return self.time.step

    @property
    def memory_gib(self) -> float:
        """What the toolkit itself would report: some count tensors, some what torch's allocator holds, some
        of the first rank alone."""
        return published(self.memory, toolkit_of(self.run.software)) / GIB

    @cached_property
    def fullest(self) -> MemoryEstimate:
        """All that is taken on the device of the fullest pipeline rank."""
        return max(self.memory, key=lambda estimate: estimate.total)

    @property
    def fits(self) -> bool:
        """Whether it should run: every rank's device is likely large enough, and the toolkit can do it."""
        tolerated = TRAITS[toolkit_of(self.run.software)].tolerated_risk
        return self.why_not is None and self.fullest.probability_of_running_out <= tolerated


@dataclass(frozen=True)
class Predictor:
    """Predicts runs one by one; clusters, and what groups of ranks span in them, are worked out once."""

    clusters: Clusters = field(default_factory=Clusters)
    _reaches: dict[tuple[str, int], Reaches] = field(default_factory=dict)

    def predict(self, run: Run) -> Prediction:
        """Time and memory of ``run``.

        Raises:
            DataError: its cluster is unknown, or cannot be; the message names the row.
        """
        given = self.setup(run)
        return Prediction(run, self.time(given), self.memory(given), why_not(run))

    def setup(self, run: Run) -> Setup:
        """``run`` as the planner's models see it."""
        try:
            cluster = self.clusters.cluster(run.cluster, run.gpus)
        except ConfigError as error:
            raise DataError(f"{run.where}: {error}") from None
        if dtype_of(run) not in cluster.device.peak_tflops:
            known = ", ".join(sorted(dtype.value for dtype in cluster.device.peak_tflops))
            raise DataError(
                f"{run.where}: precision={run.precision.value}: no peak is known for it on "
                f"{cluster.device.name}, only for {known}"
            )
        return setup(run, cluster, self._reach(cluster, layout_of(run).dims))

    def time(self, given: Setup) -> TimeEstimate:
        """Seconds of one step."""
        cost = CostModel(
            given.cluster,
            given.model,
            given.dtype,
            given.layout,
            given.reach,
            toolkit=given.toolkit,
            fp32_gradients=given.fp32_gradients,
        )
        return cost.estimate(given.stages)

    def memory(self, given: Setup) -> tuple[MemoryEstimate, ...]:
        """Bytes by pipeline rank."""
        model = MemoryModel(
            given.cluster,
            given.model,
            given.dtype,
            given.layout,
            given.stages,
            toolkit=given.toolkit,
            fp32_gradients=given.fp32_gradients or None,
        )
        return model.estimate()

    def _reach(self, cluster: Cluster, dims: ParallelDims) -> dict[str, Reach]:
        """What each axis spans with ranks in order, as these toolkits place them: tp over neighbouring
        devices, then cp, dp and pp."""
        key = cluster.name, cluster.world
        if key not in self._reaches:
            self._reaches[key] = Reaches(cluster, cluster.nodes)
        return self._reaches[key].of(dims)


def predict_time(run: Run) -> TimeEstimate:
    """Seconds of one step of ``run``, by term."""
    predictor = Predictor()
    return predictor.time(predictor.setup(run))
