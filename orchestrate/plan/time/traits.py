"""What differs between toolkits in time: how they start operators, fuse them, and hide communication."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import inf

from orchestrate.config import DType, ZeroBackend
from orchestrate.plan.toolkits import Toolkit

UNFUSED_LOSS = 52.0
"""Bytes per logit of a cross-entropy in fp32 whose operators each read and write: cast 6, maximum 4,
difference 8, exponential 8, sum 4, quotient 8, gradient 8, cast 6."""
FUSED_LOSS = 20.0
"""The same in three fused operators: cast and maximum 6, exponential and sum 8, gradient 6."""


class Sums(Enum):
    """How a micro-batch's gradients are added to those before, and the memory traffic of that."""

    fused = "fused"
    """By the product that makes them."""
    apart = "apart"
    """By an operator of its own: reads both, writes the sum."""
    cast = "cast"
    """The same, after a cast to the sum's precision."""

    def bytes(self, gradient: int, total: int) -> int:
        """Moved per parameter, with gradients of ``gradient`` bytes and sums of ``total``."""
        if self is Sums.fused:
            return 0
        apart = gradient + 2 * total
        return apart + 2 * total if self is Sums.cast and total > gradient else apart


@dataclass(frozen=True)
class TimeTraits:
    """How one toolkit spends time. Shares are fitted to its published runs; switches are its design."""

    launch_us: float | None = None
    """Host's time for each operator; None: the device's."""
    engines: bool = False
    """Whether its ZeRO engines cost the host what `orchestrate.plan.time.engines` says."""
    tp_launch_us: float = 0.0
    """Host's time beside that for each layer's pass and each further tensor-parallel rank: at every
    collective all wait for the host that comes last, and more hosts come later."""
    elementwise: float = 1.0
    """Memory traffic of norms, dropout and residuals over what they must read and write once."""
    scores_row: float = inf
    """Tokens in a row of unfused attention's scores at which softmax and dropout take twice the memory
    traffic that they must: a kernel that holds whole rows in registers has room for fewer of them the
    longer they are."""
    loss_bytes: float = FUSED_LOSS
    """Bytes moved per logit in the loss."""
    flash_forward: float = 0.73
    """Share of a large matrix product's speed that fused attention reaches."""
    flash_backward: float = 0.6
    tp_hidden: float = 0.0
    """Share of tensor-parallel communication that runs behind matrix products."""
    pp_hidden: bool = False
    """Whether stages compute while they send and receive."""
    pp_scattered: bool = False
    """Whether what goes between stages is cut over tp on the way (arXiv:2104.04473, section 4.1)."""
    dp_hidden: bool = False
    """Whether gradients travel during the last backward and weights during the first forward pass."""
    whole_sums: frozenset[ZeroBackend] = frozenset()
    """Engines under which every replica gets the sum of all gradients in ZeRO-1 and 2, and drops what is not
    its share."""
    bucketed: bool = False
    """Whether gradients travel in messages of `orchestrate.plan.buckets`, one after another."""
    sums: Sums = Sums.apart
    """How the gradients of micro-batches are added up."""
    sums_fused_with_sp: bool = False
    """Whether releases that know sequence parallelism fuse the sums."""
    fp32_gradients: frozenset[DType] = frozenset()
    """Precisions of weights whose gradients are reduced in fp32; the others' in their own."""
    bf16_sharded: bool = False
    """Whether an optimizer of its own for bf16 cuts its state over the replicas whatever the ZeRO stage, but
    has every replica get the sum of all gradients first."""


_HALVES = frozenset({DType.bf16, DType.fp16})

_CORE = TimeTraits(
    sums=Sums.fused,
    elementwise=0.8,
    tp_hidden=0.45,
    flash_forward=0.73,
    flash_backward=0.73,
    pp_hidden=True,
    dp_hidden=True,
)
"""Megatron-Core with Transformer Engine: fused norms, products cut so that their collectives overlap,
gradients and weights travelling behind computation."""

MEGATRON_ROW = 3_800.0
"""Of Megatron's fused softmax; fitted to runs with sequences of 1,024 and 2,048."""

TRAITS: dict[Toolkit, TimeTraits] = {
    # torch starts operators asynchronously; reduction starts when the last backward pass has ended.
    # DeepSpeed reduces what belongs to several ranks with one all-reduce (`average_tensor`, by its default).
    Toolkit.orchestrate: TimeTraits(
        engines=True,
        loss_bytes=UNFUSED_LOSS,
        sums=Sums.cast,
        fp32_gradients=_HALVES,
        whole_sums=frozenset({ZeroBackend.deepspeed}),
        bucketed=True,
    ),
    Toolkit.megatron_lm: TimeTraits(
        sums_fused_with_sp=True,
        scores_row=MEGATRON_ROW,
        loss_bytes=UNFUSED_LOSS,
        pp_scattered=True,
        fp32_gradients=frozenset({DType.bf16}),
    ),
    # DeepSpeed's pipeline cuts activations over tp between stages, as Megatron-LM does. Its host is slow:
    # layers of width 1,024 take some 3 ms whatever the micro-batch, up to 5 with tp 8 (vTrain's runs). Its
    # bf16 optimizer keeps and reduces gradients in fp32, its fp16 optimizer does not.
    Toolkit.megatron_deepspeed: TimeTraits(
        launch_us=38.9,
        tp_launch_us=31.0,
        scores_row=MEGATRON_ROW,
        loss_bytes=UNFUSED_LOSS,
        pp_scattered=True,
        fp32_gradients=frozenset({DType.bf16}),
        bf16_sharded=True,
    ),
    Toolkit.megatron_core: _CORE,
    Toolkit.nemo: _CORE,
    Toolkit.megascale: _CORE,
    Toolkit.nanotron: TimeTraits(loss_bytes=UNFUSED_LOSS, fp32_gradients=_HALVES),
    # FSDP adds up shards. Norms and residuals run in fp32, each operator on its own; the fused attention is
    # Triton's first, whose backward pass is slow.
    Toolkit.mpt_fsdp: TimeTraits(
        sums=Sums.fused,
        elementwise=2.8,
        loss_bytes=UNFUSED_LOSS,
        flash_forward=0.73,
        flash_backward=0.34,
        dp_hidden=True,
    ),
}
