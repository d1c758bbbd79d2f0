"""The model against one that nobody here wrote: GPT-2 and Llama of ``transformers``, same weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrate.config import DType, ModelConfig
from tests.distributed.pool import Pool
from tests.equivalence.layouts import GPT, LLAMA, Layout, batch_of, config_of, plan_of

TOLERANCE = {"gpt": 1e-10, "llama": 1e-6}
"""In fp64; but transformers' Llama takes its norms and rotations in fp32 whatever the weights are."""


@pytest.mark.parametrize(
    "model",
    [
        GPT,
        LLAMA,
        replace(LLAMA, kv_heads=None, tied_embeddings=True, name="llama-tied"),
        replace(LLAMA, kv_heads=1, rope_theta=500000.0, name="llama-multi-query"),
    ],
    ids=lambda model: model.name,
)
def test_logits_loss_and_gradients_are_those_of_transformers(pool: Pool, model: ModelConfig) -> None:
    (differences,) = pool.run(1, differences_from_transformers, model)
    assert differences.keys() >= {"logits", "loss", "embedding.word.weight", "layers.3.mlp.up.weight"}
    allowed = TOLERANCE[model.name.split("-")[0]]
    assert {name: d for name, d in differences.items() if not d <= allowed} == {}


def differences_from_transformers(model: ModelConfig) -> dict[str, float]:
    """Relative difference of the logits, the loss, and the gradient of every parameter here."""
    import torch

    from orchestrate.mesh import build_context
    from orchestrate.model.gpt import build_stages

    torch.manual_seed(0)
    layout = Layout(model, dtype=DType.fp64)
    context = build_context(plan_of(layout), torch.device("cpu"))
    (ours,) = build_stages(plan_of(layout), context, torch.float64, config_of(layout).train.seed)
    theirs = _reference(model).double().train()
    named = dict(ours.named_parameters())
    with torch.no_grad():
        # The initial biases and norms are all alike, which would hide a swap.
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
        for name, value in _translate(model, {n: p.data for n, p in theirs.named_parameters()}).items():
            named[name].copy_(value)

    batch = batch_of(model, 0, 0, 4)
    tokens, labels = batch.tokens[:, :-1], batch.tokens[:, 1:]
    seen: list[Any] = []
    ours_head = ours.embedding if model.tied_embeddings else ours.head
    # Copied: the cross-entropy that follows works in place.
    ours_head.word.register_forward_hook(lambda _module, _args, out: seen.append(out.detach().clone()))
    loss = ours(tokens, labels=labels, samples=batch.samples)
    loss.backward()

    logits = theirs(input_ids=tokens).logits
    wanted = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    wanted.backward()

    def apart(a: Any, b: Any) -> float:
        assert a.shape == b.shape
        return float((a - b).abs().max() / b.abs().max())

    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    assert None not in gradients.values()
    translated = _translate(model, gradients)
    assert translated.keys() == named.keys()
    return {
        "logits": apart(seen[-1].transpose(0, 1), logits),
        "loss": apart(loss, wanted),
        **{name: apart(named[name].grad, gradient) for name, gradient in translated.items()},
    }


def _reference(model: ModelConfig) -> Any:
    import transformers

    if model.bias:
        return transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                vocab_size=model.vocab,
                n_positions=model.seq,
                n_embd=model.hidden,
                n_layer=model.layers,
                n_head=model.heads,
                n_inner=model.ffn_hidden,
                layer_norm_epsilon=model.norm_eps,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                bos_token_id=0,
                eos_token_id=0,
            )
        )
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=model.vocab,
            hidden_size=model.hidden,
            intermediate_size=model.ffn_hidden,
            num_hidden_layers=model.layers,
            num_attention_heads=model.heads,
            num_key_value_heads=model.key_value_heads,
            max_position_embeddings=model.seq,
            rms_norm_eps=model.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": model.rope_theta},
            tie_word_embeddings=model.tied_embeddings,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def _translate(model: ModelConfig, theirs: dict[str, Any]) -> dict[str, Any]:
    """Their parameters (or gradients) under our names and in our shapes, as export and import map them."""
    from orchestrate.interchange.assemble import assemble_ours
    from orchestrate.interchange.names import Counterpart, counterparts, parameters

    def read(tensor: Counterpart, rows: slice) -> Any:
        return theirs[tensor.name][:, rows].t() if tensor.transposed else theirs[tensor.name][rows]

    return {parameter.name: assemble_ours(parameter, read) for parameter in parameters(counterparts(model))}
