"""Every rule that a config breaks or keeps before any process starts, and without reading any data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from orchestrate.config import (
    Ask,
    Config,
    FaultsConfig,
    LauncherConfig,
    ModelConfig,
    Position,
    Recompute,
    SourceConfig,
)
from orchestrate.config.launcher_rules import text_problems
from orchestrate.errors import ConfigError
from orchestrate.plan.choice import pinned
from orchestrate.plan.layout import AXES
from orchestrate.plan.numbers import divisors, nearest
from orchestrate.plan.search.rules import trains_whole_sequences, violations
from orchestrate.topology.cluster import Cluster, build_cluster

MOST_LAYERS = 10_000
"""Of a model: ten times the deepest transformer trained (Wang et al. 2022, arXiv:2203.00555)."""


def check(config: Config, *, training: bool = True) -> None:
    """Make sure that ``config`` can be planned and, with ``training``, trained here, as far as the config
    alone can tell.

    Raises:
        ConfigError: the first rule that is broken: the value, the rule and the nearest valid choice.
    """
    for problem in problems(config, training=training):
        raise ConfigError(problem)


def check_parts(config: Config) -> None:
    """Make sure that the cluster and the model of ``config`` are possible, each by itself.

    Raises:
        ConfigError: the first rule that is broken, as with `check`.
    """
    cluster = build_cluster(config.cluster)
    for problem in (*_device(config, cluster), *_model(config.model)):
        raise ConfigError(problem)


def problems(config: Config, *, training: bool = True) -> Iterator[str]:
    """One line for every rule that ``config`` breaks."""
    cluster = build_cluster(config.cluster)
    yield from _device(config, cluster)
    yield from _model(config.model)
    yield from _parallel_order(config)
    if training and (problem := trains_whole_sequences(config.parallel.cp)) is not None:
        yield problem
    yield from (detail for _reason, detail in violations(config, cluster, pinned(config, cluster.world)))
    yield from _recompute(config)
    yield from _training(config)
    yield from _optimizer(config)
    yield from _data(config)
    yield from _planning(config)


def _below(key: str, value: float, least: float, *, above: bool = False) -> Iterator[str]:
    """Complain where ``value`` is below ``least``, or with ``above`` also where it equals it."""
    if not math.isfinite(value) or value < least or (above and value == least):
        yield f"{key}={value:g}: must be {'above' if above else 'at least'} {least:g}"


def _faults(faults: FaultsConfig) -> Iterator[str]:
    yield from _below("faults.tries", faults.tries, 0)
    yield from _below("faults.pause_s", faults.pause_s, 0)
    yield from _below("faults.hang_s", faults.hang_s, 0)
    yield from _below("faults.nonfinite_budget", faults.nonfinite_budget, 0)
    yield from _below("faults.replica_check_every", faults.replica_check_every, 0)
    if faults.spike_factor is not None:
        yield from _below("faults.spike_factor", faults.spike_factor, 1, above=True)


def _share(key: str, value: float, *, below_one: bool = True) -> Iterator[str]:
    """Complain where ``value`` is no share of a whole."""
    if not 0 <= value <= 1 or (below_one and value == 1):
        bound = "below 1" if below_one else "at most 1"
        yield f"{key}={value:g}: must be at least 0 and {bound}"


def _device(config: Config, cluster: Cluster) -> Iterator[str]:
    device, dtype = cluster.device, config.precision.dtype
    if not device.memory_gib > device.reserved_gib:
        yield (
            f"cluster.device.memory_gib={device.memory_gib:g}: must be above "
            f"cluster.device.reserved_gib={device.reserved_gib:g}"
        )
    yield from _below("cluster.device.reserved_gib", device.reserved_gib, 0)
    yield from _below("cluster.device.memory_bandwidth_gbps", device.memory_bandwidth_gbps, 0, above=True)
    yield from _share("cluster.device.matmul_efficiency", device.matmul_efficiency, below_one=False)
    yield from _below("cluster.device.matmul_efficiency", device.matmul_efficiency, 0, above=True)
    yield from _below("cluster.device.crowding", device.crowding, 1)
    yield from _below("cluster.nvlink.latency_us", cluster.nvlink.latency_us, 0)
    yield from _below("cluster.network.latency_us", cluster.network.latency_us, 0)
    for known, peak in device.peak_tflops.items():
        yield from _below(f"cluster.device.peak_tflops.{known.value}", peak, 0, above=True)
    if dtype not in device.peak_tflops:
        known_types = ", ".join(sorted(known.value for known in device.peak_tflops)) or "none"
        yield (
            f"precision.dtype={dtype.value}: cluster.device.peak_tflops of {device.name} does not have it, "
            f"only {known_types}"
        )


def _model(model: ModelConfig) -> Iterator[str]:
    sizes: dict[str, Any] = {
        name: getattr(model, name) for name in ("layers", "hidden", "heads", "ffn_hidden", "vocab", "seq")
    }
    if model.kv_heads is not None:
        sizes["kv_heads"] = model.kv_heads
    wrong = [line for name, size in sizes.items() for line in _below(f"model.{name}", size, 1)]
    if model.layers > MOST_LAYERS:
        wrong.append(f"model.layers={model.layers}: must be at most {MOST_LAYERS}")
    yield from wrong
    if wrong:
        return
    if model.hidden % model.heads:
        yield (
            f"model.hidden={model.hidden} is not divisible by model.heads={model.heads}: nearest is "
            f"model.heads={nearest(model.heads, divisors(model.hidden))}"
        )
    elif model.position is Position.rotary and model.head_dim % 2:
        yield (
            f"model.hidden={model.hidden} / model.heads={model.heads} = {model.head_dim} per head: rotary "
            "positions turn pairs and need an even number"
        )
    if model.heads % model.key_value_heads:
        yield (
            f"model.heads={model.heads} is not divisible by model.kv_heads={model.kv_heads}: nearest is "
            f"model.kv_heads={nearest(model.key_value_heads, divisors(model.heads))}"
        )
    yield from _share("model.dropout", model.dropout)
    yield from _share("model.attention_dropout", model.attention_dropout)
    yield from _below("model.norm_eps", model.norm_eps, 0, above=True)
    yield from _below("model.init_std", model.init_std, 0, above=True)
    yield from _below("model.rope_theta", model.rope_theta, 0, above=True)


def _parallel_order(config: Config) -> Iterator[str]:
    order = config.parallel.order
    if order is not None and sorted(order) != sorted(AXES):
        yield f"parallel.order={list(order)}: must name each of {', '.join(AXES)} once"


def _recompute(config: Config) -> Iterator[str]:
    layers = config.recompute.layers
    if layers is None:
        return
    yield from _below("recompute.layers", layers, 1)
    if config.recompute.mode is not Recompute.full:
        mode = config.recompute.mode.value if config.recompute.mode else "auto"
        yield f"recompute.layers={layers} needs recompute.mode=full, but it is {mode}"
    if layers > (most := config.model.layers):
        yield (
            f"recompute.layers={layers} is more than model.layers={most}: nearest is recompute.layers={most}"
        )


def _training(config: Config) -> Iterator[str]:
    train, precision = config.train, config.precision
    yield from _below("train.steps", train.steps, 1)
    yield from _below("train.clip", train.clip, 0)
    yield from _below("train.seed", train.seed, 0)
    yield from _below("train.log_every", train.log_every, 1)
    yield from _below("train.eval_every", train.eval_every, 0)
    yield from _below("train.eval_batches", train.eval_batches, 1)
    yield from _below("precision.initial_loss_scale", precision.initial_loss_scale, 1)
    yield from _below("precision.loss_scale_window", precision.loss_scale_window, 1)
    yield from _below("verify.steps", config.verify.steps, 1)
    if config.checkpoint.every is not None:
        yield from _below("checkpoint.every", config.checkpoint.every, 0)
    yield from _below("checkpoint.keep", config.checkpoint.keep, 0)
    yield from _below("checkpoint.keep_every", config.checkpoint.keep_every, 0)
    if config.verify.tolerance is not None:
        yield from _below("verify.tolerance", config.verify.tolerance, 0)
    yield from _below("verify.adam_eps", config.verify.adam_eps, 0)
    yield from _launcher(config.launcher)
    yield from _faults(config.faults)


def _launcher(launcher: LauncherConfig) -> Iterator[str]:
    least = {
        "threads": 1,
        "grace_s": 0,
        "cpus_per_task": 1,
        "switches": 0,
        "signal_s": 0,
        "chain": 1,
        "spare_nodes": 0,
        "preflight_bandwidth": 0,
        "preflight_disk_gib": 0,
        "preflight_clock_s": 0,
        "preflight_timeout_s": 0,
        "array_limit": 1,
    }
    for name, bound in least.items():
        if (value := getattr(launcher, name)) is not None:
            yield from _below(f"launcher.{name}", value, bound)
    yield from text_problems(launcher)


def _optimizer(config: Config) -> Iterator[str]:
    optim, steps = config.optim, config.train.steps
    yield from _below("optim.lr", optim.lr, 0, above=True)
    yield from _share("optim.min_lr_ratio", optim.min_lr_ratio, below_one=False)
    for index, beta in enumerate(optim.betas):
        yield from _share(f"optim.betas[{index}]", beta)
    yield from _below("optim.eps", optim.eps, 0, above=True)
    yield from _below("optim.weight_decay", optim.weight_decay, 0)
    yield from _share("optim.decay_share", optim.decay_share, below_one=False)
    yield from _below("optim.warmup_steps", optim.warmup_steps, 0)
    if optim.warmup_steps > steps:
        yield f"optim.warmup_steps={optim.warmup_steps} is more than train.steps={steps}: use at most {steps}"


def _planning(config: Config) -> Iterator[str]:
    plan = config.plan
    yield from _below("plan.top", plan.top, 1)
    yield from _share("plan.risk", plan.risk)
    if plan.lost_nodes is not None:
        yield from _below("plan.lost_nodes", plan.lost_nodes, 1)
        if plan.ask not in (None, Ask.lost_nodes):
            yield (
                f"plan.lost_nodes={plan.lost_nodes} goes with plan.ask=lost_nodes, but it is {plan.ask.value}"
            )
    if plan.ask is not None or plan.lost_nodes is not None:
        ask = "lost_nodes" if plan.ask is None else plan.ask.value
        for name in ("why", "out", "report"):
            if getattr(plan, name) is not None:
                yield f"plan.{name} is about one plan, and plan.ask={ask} makes none: ask for one of the two"
    if plan.tokens is not None:
        yield from _below("plan.tokens", plan.tokens, 0, above=True)


def _data(config: Config) -> Iterator[str]:
    data = config.data
    yield from _share("data.validation_fraction", data.validation_fraction)
    yield from _below("data.workers", data.workers, 0)
    yield from _source("data.source", data.source)


def _source(key: str, source: SourceConfig) -> Iterator[str]:
    yield from _below(f"{key}.bpe_vocab", source.bpe_vocab, 257)
    for index, entry in enumerate(source.blend):
        yield from _below(f"{key}.blend[{index}].weight", entry.weight, 0, above=True)
        yield from _source(f"{key}.blend[{index}].source", entry.source)
