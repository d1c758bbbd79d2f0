"""A model's architecture as Hugging Face's ``config.json``, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from orchestrate.config import Activation, DType, ModelConfig, Norm, Position
from orchestrate.errors import ExchangeError
from orchestrate.interchange.keys import Keys, shown

CONFIG_FILE = "config.json"

TORCH_NAMES = {
    DType.bf16: "bfloat16",
    DType.fp16: "float16",
    DType.fp32: "float32",
    DType.fp64: "float64",
}
"""What ``config.json`` calls the type of the weights."""


class Family(str, Enum):
    """The two architectures that both sides know; the values are ``model_type`` there."""

    gpt2 = "gpt2"
    llama = "llama"


_TRAITS: dict[Family, dict[str, Any]] = {
    Family.gpt2: {
        "norm": Norm.layernorm,
        "activation": Activation.gelu,
        "position": Position.learned,
        "bias": True,
    },
    Family.llama: {"norm": Norm.rmsnorm, "activation": Activation.swiglu, "position": Position.rotary},
}
_TITLES = {Family.gpt2: "GPT-2", Family.llama: "Llama"}

_FIXED: dict[Family, dict[str, tuple[Any, ...]]] = {
    Family.gpt2: {
        # All three are the tanh approximation; plain "gelu" is not.
        "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
    Family.llama: {
        "hidden_act": ("silu", "swish"),
        "sliding_window": (None,),
        "partial_rotary_factor": (None, 1.0),
    },
}
"""Keys of ``config.json`` that change what the model computes, with the values that ours computes too. The
first is what a missing key stands for."""

_FIXED_EVERYWHERE: dict[str, tuple[Any, ...]] = {
    "quantization_config": (None,),
    "auto_map": (None,),
    "is_encoder_decoder": (False,),
    "pruned_heads": (None, {}),
}


def family_of(model: ModelConfig) -> Family:
    """The family that ``model`` belongs to.

    Raises:
        ExchangeError: neither; the message names the keys that set it apart from the nearer one.
    """
    apart = {
        family: [key for key, value in traits.items() if getattr(model, key) is not value]
        for family, traits in _TRAITS.items()
    }
    if model.key_value_heads != model.heads:
        apart[Family.gpt2].append("kv_heads")
    nearest = min(apart, key=lambda family: len(apart[family]))
    if not apart[nearest]:
        return nearest
    key = apart[nearest][0]
    wanted = _TRAITS[nearest].get(key)
    rule = "null" if key == "kv_heads" else shown(wanted)
    raise ExchangeError(
        f"model.{key}={shown(getattr(model, key))}: Hugging Face's GPT-2 and Llama have no such model; the "
        f"nearer is {_TITLES[nearest]}, with model.{key}={rule}"
    )


def describe(model: ModelConfig, dtype: DType, end: int | None) -> dict[str, Any]:
    """``config.json`` of ``model``.

    The keys are those that every version of ``transformers`` since 4.46 reads. Llama has no dropout but
    that of the attention; nothing else is lost.

    Args:
        dtype: of the weights in the files.
        end: the id of the token that ends a document, None where there is none.

    Raises:
        ExchangeError: the model belongs to neither family.
    """
    family = family_of(model)
    common = {
        "model_type": family.value,
        "vocab_size": model.vocab,
        "initializer_range": model.init_std,
        "tie_word_embeddings": model.tied_embeddings,
        "torch_dtype": TORCH_NAMES[dtype],
        "bos_token_id": end,
        "eos_token_id": end,
    }
    if family is Family.gpt2:
        return {
            "architectures": ["GPT2LMHeadModel"],
            **common,
            "n_positions": model.seq,
            "n_embd": model.hidden,
            "n_layer": model.layers,
            "n_head": model.heads,
            "n_inner": model.ffn_hidden,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": model.norm_eps,
            "resid_pdrop": model.dropout,
            "embd_pdrop": model.dropout,
            "attn_pdrop": model.attention_dropout,
        }
    return {
        "architectures": ["LlamaForCausalLM"],
        **common,
        "hidden_size": model.hidden,
        "intermediate_size": model.ffn_hidden,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.key_value_heads,
        "head_dim": model.head_dim,
        "max_position_embeddings": model.seq,
        "hidden_act": "silu",
        "rms_norm_eps": model.norm_eps,
        "rope_theta": model.rope_theta,
        "attention_bias": model.bias,
        "mlp_bias": model.bias,
        "attention_dropout": model.attention_dropout,
    }


def read_config(folder: Path, name: str) -> ModelConfig:
    """The model that ``config.json`` in ``folder`` describes, under the name ``name``.

    Raises:
        ExchangeError: the file is missing or damaged, or asks for what the model here does not do.
    """
    path = folder / CONFIG_FILE
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise ExchangeError(
            f"{path}: {error.strerror}: not a folder in Hugging Face's form, as `hf download MODEL"
            " --local-dir FOLDER` makes one"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ExchangeError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ExchangeError(f"{path} holds no keys, but {type(values).__name__}")
    return understand(values, name, str(path))


def understand(values: Mapping[str, Any], name: str, origin: str) -> ModelConfig:
    """The model that the ``config.json`` of plain ``values`` describes.

    Args:
        origin: where the values are from, for messages.

    Raises:
        ExchangeError: as `read_config`.
    """
    kind = values.get("model_type")
    if kind not in [family.value for family in Family]:
        choices = ", ".join(family.value for family in Family)
        raise ExchangeError(f"{origin}: model_type={kind!r}: no such family here; choices: {choices}")
    family = Family(kind)
    keys = Keys(values, origin)
    for key, accepted in {**_FIXED_EVERYWHERE, **_FIXED[family]}.items():
        keys.require(key, accepted)
    return _gpt2(keys, name) if family is Family.gpt2 else _llama(keys, name)


def _gpt2(keys: Keys, name: str) -> ModelConfig:
    hidden = keys.count("n_embd", 768)
    dropout = keys.share("resid_pdrop", 0.1)
    keys.equal("embd_pdrop", 0.1, "resid_pdrop", dropout)
    return ModelConfig(
        name=name,
        layers=keys.count("n_layer", 12),
        hidden=hidden,
        heads=keys.count("n_head", 12),
        ffn_hidden=keys.count("n_inner", 4 * hidden),
        vocab=keys.count("vocab_size", 50257),
        seq=keys.count("n_positions", 1024),
        norm_eps=keys.positive("layer_norm_epsilon", 1e-5),
        tied_embeddings=keys.flag("tie_word_embeddings", True),
        dropout=dropout,
        attention_dropout=keys.share("attn_pdrop", 0.1),
        init_std=keys.positive("initializer_range", 0.02),
    )


def _llama(keys: Keys, name: str) -> ModelConfig:
    hidden, heads = keys.count("hidden_size", 4096), keys.count("num_attention_heads", 32)
    kv_heads = keys.count("num_key_value_heads", heads)
    bias = keys.flag("attention_bias", False)
    keys.equal("mlp_bias", False, "attention_bias", bias)
    keys.require("head_dim", (None, hidden // heads))
    return ModelConfig(
        name=name,
        layers=keys.count("num_hidden_layers", 32),
        hidden=hidden,
        heads=heads,
        kv_heads=None if kv_heads == heads else kv_heads,
        ffn_hidden=keys.count("intermediate_size", 11008),
        vocab=keys.count("vocab_size", 32000),
        seq=keys.count("max_position_embeddings", 2048),
        norm=Norm.rmsnorm,
        norm_eps=keys.positive("rms_norm_eps", 1e-6),
        activation=Activation.swiglu,
        position=Position.rotary,
        rope_theta=_rope_theta(keys),
        bias=bias,
        tied_embeddings=keys.flag("tie_word_embeddings", False),
        attention_dropout=keys.share("attention_dropout", 0.0),
        init_std=keys.positive("initializer_range", 0.02),
    )


def _rope_theta(keys: Keys) -> float:
    """The base of the rotary angles: ``rope_parameters`` since version 5, two keys of the top before."""
    for section in ("rope_parameters", "rope_scaling"):
        inner = keys.section(section)
        if inner is None:
            continue
        for key in ("rope_type", "type"):
            inner.require(key, ("default",))
        inner.require("partial_rotary_factor", (None, 1.0))
        if "rope_theta" in inner.values:
            return inner.positive("rope_theta", 10000.0)
    return keys.positive("rope_theta", 10000.0)
