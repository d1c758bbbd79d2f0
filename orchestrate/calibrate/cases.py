"""What to measure on a cluster, chosen before any process starts: the same list on every rank."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

from orchestrate.calibrate.samples import Exchange, Operator, Pass, Product
from orchestrate.config import Activation, DeviceConfig, DType, ModelConfig
from orchestrate.plan.layout import Placement
from orchestrate.topology.cluster import Cluster

LONGEST_S = 0.25
"""A case expected to take longer, by the profile so far, is left out."""
LONGEST_PASS_S = 1.0
"""The same of a pass: one as long as a training step's tells most about it."""
OPERATORS = {"copy": 2, "add": 3, "gelu": 2, "layer_norm": 2, "softmax": 2}
"""Operators between the products, and how many tensors each reads and writes."""

_LARGEST_BYTES = 1 << 28
_MEMORY_SHARE = 1 / 32
_SIDES = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_KINDS = ("all_reduce", "reduce_scatter", "all_gather", "send")


def products(model: ModelConfig, device: DeviceConfig, dtype: DType) -> tuple[Product, ...]:
    """Square products from small to large, and those of a layer of ``model`` as tensor parallelism cuts
    them, for one sequence and for four."""
    matrices = 2 if model.activation is Activation.swiglu else 1
    found = [Product(side, side, side) for side in _SIDES]
    for tokens in (model.seq, 4 * model.seq):
        for tp in (1, 2, 4, 8):
            ffn = max(1, model.ffn_hidden // tp)
            found.append(Product(tokens, model.hidden, max(1, model.hidden // tp)))
            found.append(Product(tokens, model.hidden, matrices * ffn))
            found.append(Product(tokens, ffn, model.hidden))
    rate = device.peak_tflops[dtype] * 1e12 * device.matmul_efficiency
    budget = device.memory_gib * 2**30 * _MEMORY_SHARE
    return tuple(
        case
        for case in dict.fromkeys(found)
        if 2 * case.m * case.k * case.n / rate < LONGEST_S
        and (case.m * case.k + case.k * case.n + case.m * case.n) * dtype.bytes < budget
    )


def operators(device: DeviceConfig) -> tuple[Operator, ...]:
    """The operators between the products, by the bytes of one tensor."""
    largest = min(_LARGEST_BYTES, int(device.memory_gib * 2**30 * _MEMORY_SHARE / 3))
    sizes = [size for size in (1 << power for power in range(10, 30, 3)) if size <= largest]
    return tuple(Operator(name, tensors * size) for name, tensors in OPERATORS.items() for size in sizes)


def passes(model: ModelConfig, device: DeviceConfig, dtype: DType, domain: int) -> tuple[Pass, ...]:
    """Short small GPTs, which tell what operators take to start; and some as long as ``model``, as wide as
    time allows and then as deep, because weights and gradients of many layers are in no cache. The latter
    also cut over tensor-parallel ranks, a pair and all of a ``domain`` of devices, because between
    computation ranks come to a sum one after another, as they never do in a row of sums."""

    def kept(case: Pass) -> bool:
        rate = device.peak_tflops[dtype] * 1e12 * device.matmul_efficiency
        budget = device.memory_gib * 2**30 * _MEMORY_SHARE * 4
        shape = small_model(model, case)
        tokens = case.seq * case.micro_batch
        weights = shape.layers * (4 * shape.hidden + 3 * shape.ffn_hidden) * shape.hidden
        weights += shape.vocab * shape.hidden
        held = tokens * dtype.bytes * (34 * shape.hidden * shape.layers + 3 * shape.vocab)
        return 6 * weights * tokens / rate < LONGEST_PASS_S * case.tp and 3 * 4 * weights + held < (
            budget * case.tp
        )

    widths = [
        (heads * model.head_dim, heads) for cut in (1, 2, 4, 8) for heads in [max(1, model.heads // cut)]
    ]
    found = [Pass(min(2, model.layers), *width, max(8, model.seq // 8), 1) for width in widths]
    found = list(filter(kept, found))
    for tp in sorted({1, 2, domain}):
        for micro_batch in (1, 4):
            of_its_length = (
                Pass(min(layers, model.layers), hidden, heads, model.seq, micro_batch, tp)
                for hidden, heads in widths
                for layers in (8, 4, 2)
                if domain % tp == 0 and heads % tp == 0
            )
            found += list(filter(kept, of_its_length))[:1]
    return tuple(dict.fromkeys(found))


def small_model(model: ModelConfig, case: Pass) -> ModelConfig:
    """``model`` in the size of ``case``: as wide a feed-forward and as many key-value heads for its width,
    dropout off."""
    ratio = case.hidden / model.hidden
    # Key-value heads divide the heads: as large a share of them as the model's.
    groups = model.heads // model.key_value_heads
    return replace(
        model,
        layers=case.layers,
        hidden=case.hidden,
        heads=case.heads,
        kv_heads=max(1, case.heads // groups) if case.heads % groups == 0 else case.heads,
        ffn_hidden=max(1, round(model.ffn_hidden * ratio)),
        seq=case.seq,
        dropout=0.0,
        attention_dropout=0.0,
    )


def exchanges(cluster: Cluster, placement: Placement) -> tuple[Exchange, ...]:
    """Every kind of exchange over both links, from a few bytes up; all groups of one axis at once.

    Of each kind, link and number of ranks the sizes ascend, so that a measurement may stop when they
    take too long.
    """
    largest = min(_LARGEST_BYTES, int(cluster.device.memory_gib * 2**30 * _MEMORY_SHARE))
    sizes = [size for size in (1 << power for power in range(9, 30, 3)) if size <= largest]
    return tuple(
        Exchange(kind, link, groups, size)
        for link, of_size in (
            ("nvlink", _inside(cluster, placement)),
            ("network", _across(cluster, placement)),
        )
        for groups in of_size
        for kind in _KINDS
        # Messages go between two; larger groups are for collectives.
        if kind != "send" or len(groups[0]) == 2
        for size in sizes
    )


Groups = tuple[tuple[int, ...], ...]


def _domains(cluster: Cluster, placement: Placement) -> list[tuple[int, ...]]:
    """Ranks by fast-link domain; of larger domains only as many as the smallest has."""
    ranks = sorted(range(len(placement.devices)), key=lambda rank: cluster.domain_of(placement.devices[rank]))
    found = [
        tuple(sorted(of))
        for _, of in groupby(ranks, key=lambda rank: cluster.domain_of(placement.devices[rank]))
    ]
    least = min(map(len, found))
    return sorted(of[:least] for of in found)


def _inside(cluster: Cluster, placement: Placement) -> list[Groups]:
    """Groups that stay in their domain: pairs, and all of it."""
    domains = _domains(cluster, placement)
    size = len(domains[0])
    return [
        tuple(of[i : i + each] for of in domains for i in range(0, size - each + 1, each))
        for each in sorted({2, size})
        if 2 <= each <= size
    ]


def _across(cluster: Cluster, placement: Placement) -> list[Groups]:
    """Groups with one member in each of their domains, of two domains and of all: every device takes part."""
    domains = _domains(cluster, placement)
    found = []
    for each in sorted({2, len(domains)}):
        if 2 <= each <= len(domains):
            # Neighbouring domains may hang on one leaf switch: distant ones pair up, so that the network
            # above the leaves takes part.
            stride = len(domains) // each
            found.append(
                tuple(
                    tuple(domains[first + step * stride][member] for step in range(each))
                    for first in range(stride)
                    for member in range(len(domains[0]))
                )
            )
    return found
