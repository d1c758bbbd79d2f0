"""The seam between training and the ways of holding optimizer state, gradients and weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from orchestrate.model.sharding import Sharding

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


@dataclass(frozen=True)
class Fragment:
    """What this rank holds of one parameter's training state: a run of elements of its TP slice.

    The three tensors are 1-D and equally long: elements ``first`` and on of the slice, row by row.
    They are views of what the engine trains with, so that what is written into them is loaded.
    """

    sharding: Sharding
    first: int
    master: Tensor
    """The weights that are updated, in at least fp32."""
    exp_avg: Tensor
    exp_avg_sq: Tensor
    written: range
    """The elements of the slice that are this rank's to save. Over the ranks that own a slice
    (`Sharding.owner`) every element of the parameter is one rank's."""


@dataclass(frozen=True)
class Counters:
    """The rest of an optimizer's state; the same on every rank."""

    updates: int
    """Updates made, those of skipped steps left out: what Adam corrects its moments by."""
    loss_scale: float
    good_steps: int
    """Steps in a row without overflow; counts in fp16 alone."""


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

    def fragments(self) -> dict[str, Fragment]:
        """This rank's part of the training state, by parameter name; no communication, no copies.

        Parameters of which it holds nothing are left out. Not collective.
        """

    def counters(self) -> Counters:
        """The counters that go with `fragments`. Not collective."""

    def restore(self, counters: Counters) -> None:
        """Train on with ``counters`` and with what has been written into the `fragments`."""
