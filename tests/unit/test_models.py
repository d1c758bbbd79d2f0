"""Presets have the published sizes, and counting agrees with the modules that are built."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrate.checks import problems
from orchestrate.config import Activation, ModelConfig, Norm, Position
from orchestrate.plan.memory.model import stage_parameters
from orchestrate.plan.parameters import count_parameters, local_key_value_heads, padded_vocab
from orchestrate.plan.pipeline.stages import from_sizes
from tests.unit.plan_cases import MODELS, make_config
from tests.unit.stage_modules import parameters_of_stages

EXACT = {
    "gpt2_124m": 124_439_808,  # openai-community/gpt2: elements of the released checkpoint
    "llama3_8b": 8_030_261_248,  # meta-llama/Meta-Llama-3-8B: safetensors total
    "llama3_70b": 70_553_706_496,  # meta-llama/Meta-Llama-3-70B: safetensors total
    "llama3_405b": 405_853_388_800,  # meta-llama/Llama-3.1-405B: safetensors total
}
ROUNDED = {
    # Brown et al. 2020 (arXiv:2005.14165), table D.1, column "Params (M)".
    "gpt3_1p3b": (1_320e6, 10e6),
    "gpt3_6p7b": (6_660e6, 10e6),
    "gpt3_13b": (12_850e6, 10e6),
    "gpt3_175b": (174_600e6, 100e6),
    # Smith et al. 2022 (arXiv:2201.11990): "530 billion parameters".
    "mt_nlg_530b": (530e9, 1e9),
    # Narayanan et al. 2021 (arXiv:2104.04473), table 1: 1008.0 billion.
    "gpt_1t": (1008.0e9, 0.1e9),
}


@pytest.mark.parametrize(("name", "published"), EXACT.items())
def test_published_count_is_met_exactly(name: str, published: int) -> None:
    assert count_parameters(make_config(model=name).model).total == published


@pytest.mark.parametrize(("name", "published"), ROUNDED.items())
def test_published_count_is_met_as_rounded(name: str, published: tuple[float, float]) -> None:
    size, rounding = published
    assert abs(count_parameters(make_config(model=name).model).total - size) <= rounding


@pytest.mark.parametrize("name", MODELS)
def test_preset_obeys_every_rule_and_carries_its_name(name: str) -> None:
    config = make_config(model=name, **{"parallel.tp": 1})
    assert config.model.name == name
    assert list(problems(config)) == []


def test_tiny_model_is_small_enough_for_a_laptop() -> None:
    assert count_parameters(make_config(model="gpt_tiny").model).total < 1_000_000


@pytest.mark.parametrize(
    ("vocab", "tp", "padded"), [(50257, 1, 50257), (50257, 8, 50264), (257, 2, 258), (256, 4, 256)]
)
def test_vocabulary_is_padded_up_to_a_multiple_of_tp(vocab: int, tp: int, padded: int) -> None:
    assert padded_vocab(vocab, tp) == padded


def test_key_value_heads_are_shared_where_tp_exceeds_them() -> None:
    model = make_config(model="llama3_70b").model
    assert [local_key_value_heads(model, tp) for tp in (1, 8, 16)] == [8, 1, 1]


GPT = ModelConfig("gpt", layers=3, hidden=32, heads=8, ffn_hidden=64, vocab=50, seq=16)
LLAMA = replace(
    GPT,
    kv_heads=2,
    norm=Norm.rmsnorm,
    activation=Activation.swiglu,
    position=Position.rotary,
    bias=False,
    tied_embeddings=False,
)


@pytest.mark.parametrize(
    "model", [GPT, LLAMA, replace(LLAMA, bias=True), replace(GPT, tied_embeddings=False)]
)
@pytest.mark.parametrize("tp", [1, 2, 4])
@pytest.mark.parametrize("sizes", [(3,), (1, 2)])
def test_counting_agrees_with_the_modules(model: ModelConfig, tp: int, sizes: tuple[int, ...]) -> None:
    stages = from_sizes(sizes)
    count = count_parameters(model, tp)
    counted = [stage_parameters(model, count, stages, (s,)) for s in range(len(stages))]
    assert counted == parameters_of_stages(model, tp, sizes)
