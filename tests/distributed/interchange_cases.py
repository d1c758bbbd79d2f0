"""What ranks of the pool do with models that ``transformers`` loads or wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrate.config import CheckpointConfig, ModelConfig
from tests.distributed.checkpoint_cases import FINGERPRINT, Words, config_for
from tests.equivalence.layouts import GLOBAL_BATCH, Layout, plan_of


def tokens_of(model: ModelConfig, step: int) -> Any:
    """Token ids [GLOBAL_BATCH, seq + 1] of a global batch, as `checkpoint_cases.train` takes them."""
    import numpy as np

    words = Words(Layout(model))
    return np.stack([words.sample(step * GLOBAL_BATCH + n) for n in range(GLOBAL_BATCH)])


def logits_here(layout: Layout, run_dir: str) -> Any:
    """Logits [GLOBAL_BATCH, seq, vocab] of the first batch by the newest checkpoint of ``run_dir``."""
    import torch

    from orchestrate.mesh import build_context
    from orchestrate.train.checkpoint.resume import resume
    from orchestrate.train.setup import build_replica

    plan, config = plan_of(layout), config_for(layout, CheckpointConfig())
    replica = build_replica(plan, config, build_context(plan, torch.device("cpu")))
    resume(Path(run_dir), config, replica.zero, FINGERPRINT)
    (stage,) = replica.stages
    seen: list[Any] = []
    head: Any = stage.embedding if layout.model.tied_embeddings else stage.head
    # Copied: the cross-entropy that follows works in place.
    head.word.register_forward_hook(lambda _module, _args, out: seen.append(out.detach().clone()))
    tokens = torch.from_numpy(tokens_of(layout.model, 0))
    with torch.no_grad():
        stage.eval()(tokens[:, :-1], labels=tokens[:, 1:], samples=torch.arange(GLOBAL_BATCH))
    return seen[-1].transpose(0, 1).numpy()


def logits_there(folder: str, model: ModelConfig) -> Any:
    """The same by the model that ``transformers`` loads from ``folder``, as it says it is to be loaded."""
    import torch
    import transformers

    theirs, loading = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values()), loading
    with torch.no_grad():
        return theirs.eval()(torch.from_numpy(tokens_of(model, 0)[:, :-1])).logits.float().numpy()


def write_there(folder: str, model: ModelConfig) -> list[float]:
    """Have ``transformers`` make a model and save it to ``folder``; its loss on the first two batches."""
    import torch
    import transformers

    from orchestrate.config import DType
    from orchestrate.interchange.architecture import describe

    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(**describe(model, DType.fp32, None))
    )
    with torch.no_grad():
        # The initial biases and norms are all alike, which would hide a swap.
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    theirs.save_pretrained(folder, max_shard_size="30KB")
    losses = []
    for step in range(2):
        tokens = torch.from_numpy(tokens_of(model, step))
        with torch.no_grad():
            logits = theirs.eval()(tokens[:, :-1]).logits
        losses.append(torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item())
    return losses
