"""Bytes of weights, gradients and optimizer on one rank, and of the buffers they travel in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from orchestrate.config import DType, ZeroBackend
from orchestrate.plan.buckets import bucket_elements
from orchestrate.plan.choice import Layout
from orchestrate.plan.memory_traits import TRAITS, MemoryTraits
from orchestrate.plan.parameters import ParameterCount
from orchestrate.plan.toolkits import Toolkit

BUCKETS_IN_FLIGHT = 2
"""Gradient buckets that exist at once: one travels while the next is filled."""


@dataclass(frozen=True)
class ModelState:
    """What ``layout`` keeps of a rank's parameters, cut over dp as ZeRO says (Rajbhandari et al. 2020,
    arXiv:1910.02054, section 5)."""

    dtype: DType
    layout: Layout
    count: ParameterCount
    """Of one tensor-parallel rank."""
    toolkit: Toolkit
    fp32_gradients: bool | None
    """None: in the precision that is the toolkit's habit."""

    def terms(self, parameters: int) -> dict[str, float]:
        """Bytes by term, all step long, on a rank that holds ``parameters`` elements."""
        element, precise = self.dtype.bytes, self.precise
        stage, shards, engine = self.layout.zero_stage, self.shards, self._engine
        optimizer = parameters / shards if stage >= 1 else parameters
        terms = {
            "weights": parameters * element / (shards if stage >= 3 else 1),
            "gradients": parameters * self.gradient_bytes / (shards if stage >= 2 else 1),
            # Both ZeRO engines update a copy of their share, even where weights are precise already.
            "master weights": optimizer * precise if element < 4 or engine else 0.0,
            "optimizer": 2 * optimizer * precise,
        }
        if engine is ZeroBackend.fsdp2:
            # FSDP reduces layer by layer; in stage 3 its masters are all the weights it keeps.
            terms["gradient buckets"] = BUCKETS_IN_FLIGHT * self.largest * precise
            if stage == 3:
                terms["weights"] = 0.0
        elif self.layout.dims.dp > 1:
            terms["gradient buckets"] = self._buckets(parameters)
        if self.toolkit is Toolkit.orchestrate and engine is ZeroBackend.deepspeed and stage == 1:
            # The averaged share stands beside the whole gradients until the update.
            terms["gradient share"] = optimizer * precise
        if stage == 3:
            # The layer at work and the next one, gathered.
            terms["gathered layers"] = 2 * self.largest * element
        if self._traits.flat_gather and stage == 1 and shards > 1:
            terms["gathered weights"] = parameters * element
        return terms

    def passing(self, parameters: int) -> float:
        """Bytes of gradients that one backward pass leaves for a moment beside those that accumulate."""
        twice = self._traits.passing_gradients and self.gradient_bytes > self.dtype.bytes
        return parameters * self.dtype.bytes if twice else 0.0

    def update(self, parameters: int) -> float:
        """Bytes that exist during the update alone: gradients copied to fp32."""
        if self.gradient_bytes >= self.precise:
            return 0.0
        return parameters * self.precise / (self.shards if self.layout.zero_stage >= 1 else 1)

    def built(self, parameters: int) -> float:
        """Bytes while the stage is built: whole in the weights' type, and one layer in fp32 where FSDP
        takes it over, before it is cut."""
        converted = self.largest * self.precise if self._engine is ZeroBackend.fsdp2 else 0
        return parameters * self.dtype.bytes + converted

    def _buckets(self, parameters: int) -> float:
        if self.toolkit is Toolkit.orchestrate:
            return BUCKETS_IN_FLIGHT * bucket_elements(parameters) * self.precise
        if self._traits.replica_buckets and self.layout.zero_stage == 0:
            return parameters * self.dtype.bytes
        return 0.0

    @cached_property
    def precise(self) -> int:
        """Bytes of an element that is kept in at least fp32."""
        return max(4, self.dtype.bytes)

    @cached_property
    def gradient_bytes(self) -> int:
        """Bytes of an element of the gradients that accumulate over a step."""
        wide = self.dtype in self._traits.fp32_gradients
        if self.fp32_gradients is not None:
            wide = self.fp32_gradients
        return self.precise if wide else self.dtype.bytes

    @cached_property
    def shards(self) -> int:
        """Ranks that ZeRO cuts over."""
        dims = self.layout.dims
        return dims.dp * dims.cp if self._traits.shards_over_cp else dims.dp

    @cached_property
    def largest(self) -> int:
        """Elements of the largest part that is gathered or reduced at once."""
        return max(self.count.layer, self.count.word)

    @cached_property
    def _engine(self) -> ZeroBackend | None:
        return self.layout.zero_engine if self.layout.zero_stage > 0 else None

    @cached_property
    def _traits(self) -> MemoryTraits:
        return TRAITS[self.toolkit]
