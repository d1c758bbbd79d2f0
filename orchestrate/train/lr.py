"""The learning rate, as a pure function of the update's number.

With ``N`` updates in all, ``W`` of them warm-up, peak ``P`` and floor ``F = min_lr_ratio * P``, update
``t`` (1 … N) uses

- warm-up (t <= W):  ``P * t / W``
- cosine:            ``F + (P - F) * (1 + cos(pi * (t - W) / (N - W))) / 2``
  (Loshchilov & Hutter, "SGDR", arXiv:1608.03983, one period)
- wsd:               ``P`` up to ``S``, then ``F + (P - F) * (1 - sqrt((t - S) / (N - S)))``
  where the last ``decay_share * N`` updates decay, never before the warm-up is over: ``S >= W``
  (warm-up-stable-decay with the 1-sqrt tail of Hägele et al., arXiv:2405.18392)
- constant:          ``P``

So the peak is met exactly at ``t = W`` and the floor exactly at ``t = N``.
"""

from __future__ import annotations

import math

from orchestrate.config import Decay, OptimConfig


def learning_rate(optim: OptimConfig, step: int, steps: int) -> float:
    """The rate that update ``step`` of ``steps`` uses; updates count from 1.

    A step past the last one keeps the last one's rate, so a run that is extended by a few steps
    does not start a second decay.

    Raises:
        ValueError: ``step`` is below 1.
    """
    if step < 1:
        raise ValueError(f"step={step}: updates count from 1")
    peak, floor, warmup = optim.lr, optim.lr * optim.min_lr_ratio, optim.warmup_steps
    step = min(step, max(steps, 1))
    if step <= warmup:
        return peak * step / warmup
    if optim.decay is Decay.cosine:
        return floor + (peak - floor) * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2
    if optim.decay is Decay.wsd:
        stable_until = max(warmup, steps - round(optim.decay_share * steps))
        if step <= stable_until:
            return peak
        return floor + (peak - floor) * (1 - math.sqrt((step - stable_until) / (steps - stable_until)))
    return peak
