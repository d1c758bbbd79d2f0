"""Bytes of weights, gradients and optimizer on one rank, and of the buffers they travel in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from orchestrate.config import DType, ZeroBackend
from orchestrate.plan.buckets import bucket_elements
from orchestrate.plan.choice import Layout
from orchestrate.plan.memory.traits import TRAITS, MemoryTraits
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
        terms = {name: parameters * each for name, each in self._each}
        terms.update(self._constant)
        if self._own_buckets:
            terms["gradient buckets"] = float(BUCKETS_IN_FLIGHT * bucket_elements(parameters) * self.precise)
        if (most := self._traits.flat_reduction) and self.layout.dims.dp > 1:
            terms["gradient buckets"] = float(min(parameters, most) * self.gradient_bytes)
        return terms

    @cached_property
    def _each(self) -> tuple[tuple[str, float], ...]:
        """Bytes per parameter by term."""
        element, precise = self.dtype.bytes, self.precise
        stage, engine = self._stage, self._engine
        each = bytes_per_parameter(self.dtype, stage, engine, self.shards, self.gradient_bytes)
        if self.toolkit is Toolkit.orchestrate and engine is ZeroBackend.deepspeed and stage == 1:
            # The averaged share stands beside the whole gradients until the update.
            each["gradient share"] = precise / self.shards
        if self._traits.replica_buckets and stage == 0 and self.layout.dims.dp > 1:
            each["gradient buckets"] = float(element)
        if self._traits.flat_gather and stage == 1 and self.shards > 1:
            each["gathered weights"] = float(element)
        return tuple((name, value) for name, value in each.items() if value)

    @cached_property
    def _constant(self) -> dict[str, float]:
        """Terms that do not depend on how much a rank holds."""
        constant = {}
        if self._engine is ZeroBackend.fsdp2:
            # FSDP reduces layer by layer.
            constant["gradient buckets"] = float(BUCKETS_IN_FLIGHT * self._largest * self.precise)
        if self.layout.zero_stage == 3:
            # The layer at work and the next one, gathered.
            constant["gathered layers"] = 2.0 * self._largest * self.dtype.bytes
        return constant

    @cached_property
    def _own_buckets(self) -> bool:
        ours = self.toolkit is Toolkit.orchestrate and self._engine is not ZeroBackend.fsdp2
        return ours and self.layout.dims.dp > 1

    @cached_property
    def passes(self) -> bool:
        """Whether a backward pass leaves gradients for a moment beside those that accumulate."""
        return self._traits.passing_gradients and self.gradient_bytes > self.dtype.bytes

    @cached_property
    def copies(self) -> bool:
        """Whether gradients are copied to fp32 for the update."""
        return self.gradient_bytes < self.precise

    def passing(self, parameters: int) -> float:
        """Bytes of the gradients that one backward pass leaves, where it `passes` any."""
        return float(parameters * self.dtype.bytes)

    def update(self, parameters: int) -> float:
        """Bytes of gradients copied to fp32 for the update, where they are."""
        return parameters * self.precise / (self.shards if self._stage >= 1 else 1)

    def saved(self, parameters: int) -> float:
        """Bytes of a rank's part of a checkpoint: of its parameters a replica's share, as masters and two
        moments, whatever the ZeRO stage."""
        return 3.0 * parameters * self.precise / self.layout.dims.dp

    def built(self, parameters: int) -> float:
        """Bytes while a stage is built whole in the weights' type, before it is cut."""
        return float(parameters * self.dtype.bytes)

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
    def _largest(self) -> int:
        """Elements of the largest part that is gathered or reduced at once."""
        return max(self.count.layer, self.count.word)

    @property
    def _stage(self) -> int:
        always = self._traits.bf16_sharded and self.dtype is DType.bf16
        return max(self.layout.zero_stage, int(always))

    @property
    def _engine(self) -> ZeroBackend | None:
        return self.layout.zero_engine if self.layout.zero_stage > 0 else None

    @cached_property
    def _traits(self) -> MemoryTraits:
        return TRAITS[self.toolkit]


def bytes_per_parameter(
    dtype: DType, stage: int, engine: ZeroBackend | None, shards: float, gradient_bytes: int
) -> dict[str, float]:
    """Bytes of state that every toolkit keeps for each parameter of a rank, by term, with ZeRO ``stage``
    of ``engine`` (None: without either) over so many ``shards`` and gradients of ``gradient_bytes``."""
    element, precise = dtype.bytes, max(4, dtype.bytes)
    optimizer, gradients, weights = (1 / shards if stage >= cut else 1.0 for cut in (1, 2, 3))
    return {
        # In FSDP's stage 3 the masters are all the weights that it keeps.
        "weights": weights * element if stage < 3 or engine is not ZeroBackend.fsdp2 else 0.0,
        "gradients": gradients * gradient_bytes,
        # Both ZeRO engines update a copy of their share, even where weights are precise already.
        "master weights": optimizer * precise if element < 4 or engine else 0.0,
        "optimizer": 2 * optimizer * precise,
    }
