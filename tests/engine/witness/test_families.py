"""Small models of many families of transformers, each beside trainings by torch alone."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from engine.routine.number_format import SameNumbers
from tests.strangers.plain import NUM_EXAMPLES, Variant, by_engine, by_trainings

transformers = pytest.importorskip("transformers")

WORDS, LENGTH = 40, 8
SMALL = {
    **{"vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
    **{"intermediate_size": 32, "max_position_embeddings": 16},
    **{"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2},
}
PAIRED, WIDE = {"num_key_value_heads": 2}, {"head_dim": 8, "num_key_value_heads": 2}
OLD = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16}
FAMILIES = {
    "gpt2": OLD,
    "llama": {},
    "mistral": PAIRED,
    "qwen3": WIDE,
    "gemma2": WIDE,
    "gemma3_text": WIDE,
    "phi": {},
    "gpt_neox": {},
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 16},
    "bloom": {"n_layer": 2, "n_head": 2},
    "falcon": {},
    "gptj": {**OLD, "rotary_dim": 4},
    "gpt_bigcode": OLD,
    "mixtral": {**PAIRED, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {**PAIRED, "num_experts": 4, "moe_intermediate_size": 16},
    "olmo2": {},
    "stablelm": PAIRED,
    "starcoder2": {},
    "granite": {},
    "cohere": {},
    "codegen": {**OLD, "n_head": 4, "rotary_dim": 4},
}


def _model(family: str) -> nn.Module:
    config = transformers.AutoConfig.for_model(family, **(SMALL | FAMILIES[family]))
    config._experts_implementation = "eager"  # torch groups products in float32 alone
    return transformers.AutoModelForCausalLM.from_config(config).double()


def _texts() -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(0)
    words = torch.randint(3, WORDS, (2 * NUM_EXAMPLES, LENGTH), generator=drawn)
    return words[:, :-1], words[:, 1:]


def _loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    with SameNumbers(torch.float64):  # many norms compute in float32, whose differences are noise
        logits = model(input_ids=batch[0], use_cache=False).logits
    return cross_entropy(logits.mT, batch[1], reduction="none").mean(1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "family",
    [
        pytest.param(name, marks=() if name in ("llama", "mixtral") else pytest.mark.exhaustive)
        for name in FAMILIES
    ],
)
def test_every_family_is_right(family):
    """Attention, norms and experts of others, in the loop that everybody writes."""
    variant = Variant(
        lambda: _model(family), loss=lambda _: _loss, examples=_texts, rate=0.3, steps=4
    )

    found, value = by_engine(variant)

    wanted, output = by_trainings(variant)
    assert value == pytest.approx(output, rel=1e-8)
    assert found == pytest.approx(wanted, rel=1e-4)
