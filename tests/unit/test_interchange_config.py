"""``config.json`` of Hugging Face and the architecture here, both ways; what is refused, by key."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrate.config import DType, ModelConfig, Norm
from orchestrate.errors import ExchangeError
from orchestrate.interchange.architecture import describe, read_config, understand
from orchestrate.interchange.names import counterparts, parameters
from orchestrate.plan.parameters import count_parameters
from tests.equivalence.layouts import GPT, LLAMA

MODELS = [
    replace(GPT, dropout=0.1, attention_dropout=0.2, init_std=0.01, norm_eps=1e-6),
    replace(GPT, name="gpt-untied", tied_embeddings=False),
    LLAMA,
    replace(LLAMA, name="llama-tied", tied_embeddings=True, kv_heads=None, attention_dropout=0.1),
    replace(LLAMA, name="llama-biased", bias=True, kv_heads=1, rope_theta=5e5),
]


def ids(model: ModelConfig) -> str:
    return model.name


@pytest.mark.parametrize("model", MODELS, ids=ids)
def test_a_model_comes_back_as_it_was(model: ModelConfig, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(describe(model, DType.bf16, end=7)))
    assert read_config(tmp_path, model.name) == model


@pytest.mark.parametrize("model", MODELS, ids=ids)
def test_transformers_reads_the_same_model(model: ModelConfig, tmp_path: Path) -> None:
    import transformers

    (tmp_path / "config.json").write_text(json.dumps(describe(model, DType.bf16, end=7)))
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert (theirs.eos_token_id, str(theirs.dtype)) == (7, "torch.bfloat16")
    theirs.save_pretrained(tmp_path)
    assert read_config(tmp_path, model.name) == model


@pytest.mark.parametrize("model", MODELS, ids=ids)
def test_the_tensors_are_all_parameters_of_the_model(model: ModelConfig) -> None:
    tensors = counterparts(model)
    total = count_parameters(model).total
    assert sum(tensor.elements for tensor in tensors) == total
    assert sum(parameter.elements for parameter in parameters(tensors)) == total
    assert len({tensor.name for tensor in tensors}) == len(tensors)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (replace(GPT, norm=Norm.rmsnorm), "model.norm=rmsnorm: Hugging Face's GPT-2 and Llama have no such"),
        (replace(GPT, kv_heads=2), "model.kv_heads=2: Hugging Face's GPT-2"),
        (replace(GPT, bias=False), "the nearer is GPT-2, with model.bias=true"),
    ],
)
def test_a_model_of_neither_family_is_refused(model: ModelConfig, told: str) -> None:
    with pytest.raises(ExchangeError) as caught:
        counterparts(model)
    assert told in str(caught.value)


GPT2: dict[str, Any] = describe(GPT, DType.fp32, None)
LLAMA2: dict[str, Any] = describe(LLAMA, DType.fp32, None)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({**GPT2, "model_type": "mamba"}, "model_type='mamba': no such family here; choices: gpt2, llama"),
        (
            {**GPT2, "activation_function": "gelu"},
            'activation_function="gelu": the model here has only "gelu_new"',
        ),
        ({**GPT2, "scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=true"),
        ({**GPT2, "embd_pdrop": 0.5}, "embd_pdrop=0.5: is 0.5, but resid_pdrop is 0.0"),
        ({**GPT2, "n_layer": "12"}, 'n_layer="12": must be a whole number of at least 1'),
        ({**GPT2, "n_layer": True}, "n_layer=true: must be a whole number"),
        ({**GPT2, "n_embd": -4}, "n_embd=-4: must be a whole number"),
        ({**GPT2, "layer_norm_epsilon": 10**400}, "layer_norm_epsilon=1"),
        ({**GPT2, "attn_pdrop": 1.0}, "attn_pdrop=1.0: must be at least 0 and below 1"),
        ({**GPT2, "tie_word_embeddings": "yes"}, 'tie_word_embeddings="yes": must be true or false'),
        ({**GPT2, "quantization_config": {"bits": 4}}, 'quantization_config={"bits": 4}: the model here has'),
        ({**GPT2, "auto_map": {"AutoModel": "x.Y"}}, "auto_map="),
        ({**LLAMA2, "hidden_act": "relu"}, 'hidden_act="relu": the model here has only "silu" or "swish"'),
        ({**LLAMA2, "sliding_window": 4096}, "sliding_window=4096: the model here has only null"),
        ({**LLAMA2, "rope_scaling": {"type": "linear", "factor": 2}}, 'rope_scaling.type="linear"'),
        ({**LLAMA2, "rope_scaling": {"rope_type": "llama3"}}, 'rope_scaling.rope_type="llama3"'),
        ({**LLAMA2, "rope_parameters": {"rope_type": "yarn"}}, 'rope_parameters.rope_type="yarn"'),
        ({**LLAMA2, "rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5"),
        ({**LLAMA2, "rope_parameters": [1]}, "rope_parameters=[1]: must be a mapping"),
        ({**LLAMA2, "attention_bias": True}, "but attention_bias is true: the model here has one for both"),
        ({**LLAMA2, "head_dim": 64}, "head_dim=64: the model here has only null or 8"),
        ({**LLAMA2, "rope_theta": float("nan")}, "rope_theta=NaN: must be a number above 0"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_what_the_model_here_does_not_do_is_refused_by_key(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ExchangeError) as caught:
        understand(values, "imported", "config.json")
    assert told in str(caught.value)
    assert str(caught.value).startswith("config.json: ")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "extra",
    [
        {"rope_scaling": None, "sliding_window": None, "pretraining_tp": 1, "use_cache": True},
        {"rope_scaling": {"rope_type": "default"}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "rope_theta": 7.0},
        {"head_dim": None, "num_key_value_heads": 2, "torch_dtype": "float16"},
    ],
)
def test_what_changes_nothing_is_read_over(extra: dict[str, Any]) -> None:
    assert understand({**LLAMA2, **extra}, "llama", "config.json") == LLAMA


def test_missing_keys_have_the_defaults_of_transformers() -> None:
    import transformers

    for theirs in (transformers.GPT2Config(), transformers.LlamaConfig()):
        whole = understand(theirs.to_dict(), "model", "config.json")
        assert understand({"model_type": theirs.model_type}, "model", "config.json") == whole


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "not a folder in Hugging Face's form"),
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "holds no keys, but list"),
    ],
    ids=["missing", "cut", "binary", "deep", "list"],
)
def test_a_damaged_config_is_one_line(content: bytes | None, told: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ExchangeError) as caught:
        read_config(tmp_path, "model")
    assert told in str(caught.value)
