"""The seam between training and the ways of holding optimizer state, gradients and weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

Observer = Callable[[dict[str, Tensor]], None]
"""Gets, by parameter name, the gradient of the local TP slice in at least fp32: mean over dp,
partial sums summed, unscaled, not clipped. The tensors are valid during the call alone."""


@dataclass(frozen=True)
class Update:
    """What one optimizer step did."""

    grad_norm: float
    """Global gradient norm before clipping; infinite or nan where the step was skipped."""
    skipped: bool
    """Gradients were not finite: weights are as before, and the loss scale of fp16 went down."""
    loss_scale: float
    """The scale that the gradients of this step were computed with; 1 unless fp16."""


class ZeroEngine(Protocol):
    """Owns gradients after backward, optimizer state, and the fp32 master weights.

    The same calls in the same order on every rank: all but `backward` are collective.
    """

    works_from_grad: bool
    """Whether `step` needs no more than what has accumulated in ``.grad`` by then: nothing watches it
    grow, so gradients may be added to it past autograd."""
    bucket_elements: int
    """Most gradient elements in one message (a larger parameter travels alone)."""

    @property
    def loss_scale(self) -> float:
        """Factor that the loss of the next backward is multiplied by; 1 unless fp16."""

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of one micro-batch's scaled ``loss`` []; for one pipeline stage."""

    def step(self, lr: float, observe: Observer | None = None) -> Update:
        """Reduce, clip and apply the accumulated gradients at learning rate ``lr``, then clear them."""

    def parameters(self) -> dict[str, Tensor]:
        """The local TP slice of every parameter by name, whole over dp, in at least fp32."""
