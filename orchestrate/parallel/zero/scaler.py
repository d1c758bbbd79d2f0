"""The dynamic loss scale of fp16 training (Micikevicius et al. 2018, section 3.2)."""

from __future__ import annotations

from orchestrate.config import DType, PrecisionConfig


class LossScaler:
    """Halves on overflow, doubles after ``window`` steps in a row without one.

    In other dtypes it stays 1, and a step whose gradients are not finite is skipped all the same.
    Every rank must report the same overflows; then every rank holds the same scale.
    """

    def __init__(self, precision: PrecisionConfig) -> None:
        self._dynamic = precision.dtype is DType.fp16
        self._window = precision.loss_scale_window
        self.good_steps = 0
        self.scale = precision.initial_loss_scale if self._dynamic else 1.0

    def update(self, finite: bool) -> bool:
        """Take note of one step's gradients; True where the step must be skipped."""
        if not self._dynamic:
            return not finite
        if not finite:
            self.scale = max(1.0, self.scale / 2)
            self.good_steps = 0
            return True
        self.good_steps += 1
        if self.good_steps == self._window:
            self.scale *= 2
            self.good_steps = 0
        return False

    def restore(self, scale: float, good_steps: int) -> None:
        """Go on where another scaler stood; in other dtypes than fp16 there is nothing to take over."""
        if self._dynamic:
            self.scale, self.good_steps = scale, good_steps
