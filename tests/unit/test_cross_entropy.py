"""The cut cross-entropy on one rank is torch's own; over several ranks tests/equivalence compares it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from orchestrate.mesh import Axis
from orchestrate.model.cross_entropy import vocab_parallel_cross_entropy

ALONE = Axis("tp", 0, 1, (0,))


@pytest.mark.parametrize("padding", [0, 3])
def test_loss_and_gradient_are_torchs_and_padding_is_never_predicted(padding: int) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = 11
    logits = torch.randn(7, rows + padding, dtype=torch.float64, generator=generator) * 5
    labels = torch.randint(0, rows, (7,), generator=generator)

    reference = logits.clone().requires_grad_()
    expected = F.cross_entropy(reference[:, :rows], labels)
    expected.backward()

    ours = logits.clone().requires_grad_()
    # The function overwrites its logits, as it may an activation; a leaf must not be written.
    loss = vocab_parallel_cross_entropy(ours.clone(), labels, ALONE, 0, rows)
    (loss * 1.0).backward()
    torch.testing.assert_close(loss, expected, rtol=1e-14, atol=0)
    assert ours.grad is not None
    torch.testing.assert_close(ours.grad, reference.grad, rtol=1e-12, atol=1e-16)
    assert not ours.grad[:, rows:].any()


def test_very_large_logits_stay_finite() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = vocab_parallel_cross_entropy(logits.clone(), torch.tensor([1]), ALONE, 0, 3)
    assert loss.item() == pytest.approx(2e4)
