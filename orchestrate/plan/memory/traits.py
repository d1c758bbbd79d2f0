"""What differs between toolkits in memory: what they keep, in which precision, and what they report.

Every switch is a design that can be read in the toolkit's public source; the few sizes say where they
were measured. What all toolkits share is in `orchestrate.plan.memory.model`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from orchestrate.config import DType
from orchestrate.plan.toolkits import Toolkit

HELD_AT_MOST = 48
"""Inputs of asynchronous collectives that wait for the device at once: its queue holds 1,024 kernels, and
one of some 21 is a reduce-scatter. Fitted to nanotron's runs; those of its 1B and its 8B model agree."""
LAYER_START_S = 2e-3
"""Seconds that nanotron's host takes for a layer's forward pass: in a pipeline, where it waits for every
message, it is ahead only of a device that takes longer than that."""


class Counted(str, Enum):
    """What a toolkit's published memory figures count."""

    allocated = "allocated"
    """Tensors: ``torch.cuda.max_memory_allocated``."""
    cached = "cached"
    """Also what torch's allocator has taken from the device and not given back:
    ``torch.cuda.max_memory_reserved``."""


@dataclass(frozen=True)
class MemoryTraits:
    """How one toolkit spends memory."""

    # Model state
    fp32_gradients: tuple[DType, ...] = (DType.bf16, DType.fp16)
    """Of which 16-bit weights gradients accumulate in fp32 over a step; of others in the weights' type, and
    are copied to fp32 for the update."""
    passing_gradients: bool = False
    """Whether a backward pass leaves gradients in the weights' type, which are then added to the fp32 ones:
    for a moment both are there."""
    bf16_sharded: bool = False
    """Whether bf16 training cuts the optimizer over the replicas without ZeRO too."""
    replica_buckets: bool = False
    """Whether torch's DistributedDataParallel, without ZeRO, holds a second copy of the gradients of one
    backward pass to send them from (``gradient_as_bucket_view=False``)."""
    flat_reduction: int = 0
    """Elements that DeepSpeed copies into one flat tensor to reduce gradients over replicas: what activations
    left in the allocator is cut smaller."""
    flat_gather: bool = False
    """Whether ZeRO-1 gathers all updated weights into one flat buffer, which nothing that the activations
    left in the allocator is large enough for."""
    shards_over_cp: bool = True
    """Whether ZeRO cuts over the context-parallel ranks as well, which hold the same weights."""

    # Activations
    gated_tensors: int = 4
    """Tensors as wide as the feed-forward layer that SwiGLU keeps: the joint product counts as two; a fused
    kernel keeps only its result beside that, eager mode the activated gate too."""
    turned_projection: int = 0
    """Of query, key and value before rotary positions, how many stay beside the turned ones because the
    values are a view into the same memory: 0 none, 1 the keys, 2 queries and keys."""
    precise_probabilities: bool = False
    """Whether unfused attention keeps its probabilities in at least fp32, else in the activations' type."""
    passing_scores: int = 2
    """Tensors as large as the attention scores that exist while unfused attention is at work, beside the
    kept ones: the scores before and the gradients after the softmax."""
    mask_counters: bool = False
    """Whether dropout masks are made from three 64-bit counters per element, which makes them independent
    of the layout (`orchestrate.model.dropout`)."""
    kept_logits: int = 4
    """Bytes per logit that the loss keeps for its gradient: 4 the probabilities in fp32, 2 the logits
    themselves, which a fused loss turns into their gradient in place."""
    passing_logits: int = 2
    """Bytes per logit beside those while the loss is at work: 2 the 16-bit logits, 4 a second set of fp32
    ones."""
    gather_buffers: int = 0
    """Tensors of a whole micro-batch's hidden state that sequence parallelism keeps for its gathers."""

    scattered_outputs: bool = False
    """Whether what a stage sends on is cut over tp, and only that piece waits for the backward pass."""

    # The allocator and the device
    runs_ahead: bool = False
    """Whether collectives of tensor parallelism run asynchronously on tensors that are then dropped. The
    allocator gives such memory away again only when the device is done with it, and without a pipeline
    nothing stops the host from being a whole launch queue ahead."""
    slack: float = 0.1
    """What torch's allocator takes beyond the tensors, relative to all that comes and goes in a step. From
    1,027 runs of nanotron's: 0.08 suits those of its 1B model best, 0.1 those of its 8B."""
    groups: int = 0
    """Communicators beside those of the axes."""
    libraries_gib: float = 0.05
    """Workspaces of cuBLAS and the like, through torch's allocator: torch's are 8 MiB, on H100 32 MiB, for
    each stream; 0.2 is what is left over in the figures of toolkits with kernels of their own."""

    tolerated_risk: float = 0.5
    """Of running out of memory, up to which a run is said to fit: what is more likely."""

    # What is published
    counted: Counted = Counted.cached
    first_stage: bool = False
    """Whether figures are those of global rank 0, which is in the first stage; else the fullest rank's."""
    spread: float = 0.06
    """Standard deviation of the relative error of this model; of toolkits without published figures the
    median error of nanotron's, whose allocator is the same."""


TRAITS: dict[Toolkit, MemoryTraits] = {
    # Checked term by term against what autograd keeps and what live tensors hold (tests/unit/test_memory.py,
    # tests/distributed/test_zero_memory.py). ``.grad`` itself is fp32.
    Toolkit.orchestrate: MemoryTraits(
        shards_over_cp=False,
        turned_projection=1,
        precise_probabilities=True,
        passing_scores=0,
        mask_counters=True,
        counted=Counted.allocated,
    ),
    # github.com/NVIDIA/Megatron-LM at v2.6 (2021), which takes bf16 only with fp32 gradients.
    Toolkit.megatron_lm: MemoryTraits(fp32_gradients=(DType.bf16,)),
    # github.com/bigscience-workshop/Megatron-DeepSpeed with DeepSpeed's pipeline and ZeRO-1: fp16 gradients
    # in place, bf16 ones added to fp32 by BF16_Optimizer, which shards whatever the stage; reduced in buckets
    # of MEMORY_OPT_ALLREDUCE_SIZE or reduce_bucket_size, both 5e8; outputs become PartitionedTensors. Its
    # report_memory prints allocated and reserved; reserved is taken for published figures.
    Toolkit.megatron_deepspeed: MemoryTraits(
        fp32_gradients=(DType.bf16,),
        passing_gradients=True,
        flat_reduction=500_000_000,
        bf16_sharded=True,
        shards_over_cp=False,
        scattered_outputs=True,
    ),
    # github.com/NVIDIA/Megatron-LM, core: weight gradients are added to fp32 ones by the product's own
    # kernel. Spread: 12 runs on B200 of SimuMax's release v1.2, largest error 1.4 %.
    Toolkit.megatron_core: MemoryTraits(
        gated_tensors=3,
        turned_projection=2,
        libraries_gib=0.2,
        counted=Counted.allocated,
        spread=0.02,
    ),
    # NeMo's recipes reduce gradients in bf16.
    Toolkit.nemo: MemoryTraits(fp32_gradients=(), gated_tensors=3, turned_projection=2, libraries_gib=0.2),
    Toolkit.megascale: MemoryTraits(gated_tensors=3, turned_projection=2, libraries_gib=0.2),
    # github.com/huggingface/nanotron at the end of 2024: FP32GradientAccumulator, DDP without ZeRO,
    # all_gather_coalesced after ZeRO's update, eager SwiGLU, logits cast to fp32 and subtracted from into a
    # second fp32 tensor, MemoryBuffer for gathers; groups of the world, of each node (its benchmark measures
    # both) and of a replica. The benchmark prints what rank 0's allocator holds.
    # Spread: of 1,027 runs of 1B and 8B of the Ultra-Scale Playbook's sweep, two thirds are as close as that.
    # Risk: of its 23 runs with one from 0.1 to 0.5, 19 failed. The error is taken to be normal, but what can
    # surprise an allocator that is nearly full are fragments and one peak more, never one less.
    Toolkit.nanotron: MemoryTraits(
        passing_gradients=True,
        replica_buckets=True,
        flat_gather=True,
        passing_logits=4,
        gather_buffers=2,
        runs_ahead=True,
        groups=3,
        libraries_gib=0.2,
        first_stage=True,
        spread=0.085,
        tolerated_risk=0.2,
    ),
    # PyTorch's FullyShardedDataParallel under llm-foundry: fp32 shards of weights, gradients and moments, and
    # the fused loss of flash-attn. Its runs were given the largest micro-batches that the cards held, which
    # leaves no more slack than this (139 runs on 40 and 80 GB).
    Toolkit.mpt_fsdp: MemoryTraits(kept_logits=2, slack=0.05),
}
