"""Causal language models of ``transformers``, as modules that map tokens to logits.

Attention is the eager kind, which can be differentiated twice. All dropout has the probability
``arguments.model.dropout``, also that of a pretrained model, so that a recipe says what is dropped.
Tied weights are one parameter. Padding stands at the end, where no token that counts can see it, so
no attention mask is given and the model makes its own causal one.
"""

import warnings
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from engine.errors import ConfigurationError
from engine.models.build import check_model, initialization
from engine.problems.texts.packages import extra
from engine.problems.texts.pretrained_files import refuse_depth, refuse_pretrained_files
from engine.recipes.arguments.model import ModelSettings
from engine.recipes.arguments.text import Architecture, LanguageSettings
from engine.routine.number_format import SameNumbers
from engine.secret_urls import redacted


class LanguageModel(nn.Module):
    """A model of ``transformers`` that maps tokens to logits."""

    def __init__(self, network: nn.Module, output_scale: float) -> None:
        super().__init__()
        self.network = network
        self.output_scale = output_scale

    def forward(
        self,
        tokens: Int64[Tensor, "batch tokens"],
        shifts: Float[Tensor, "batch tokens width"] | None = None,
    ) -> Float[Tensor, "batch tokens vocabulary"]:
        """Return the logits of the token that follows each token.

        Args:
            tokens: What is read.
            shifts: Added to the embedded tokens; none by default.
        """
        with self._format():
            given = (
                {"input_ids": tokens}
                if shifts is None
                else {"inputs_embeds": self._embed(tokens) + shifts}
            )
            logits = self.network(**given, use_cache=False).logits
        return logits if self.output_scale == 1 else logits * self.output_scale

    def _embed(self, tokens: Tensor) -> Tensor:
        network: Any = self.network  # of transformers, whose types do not say it
        return network.get_input_embeddings()(tokens)

    def _format(self) -> AbstractContextManager[Any]:
        """Keep a float64 model in float64: many compute norms and softmaxes in float32."""
        dtype = next(self.network.parameters()).dtype
        return SameNumbers(dtype) if dtype is torch.float64 else nullcontext()


def embedding(model: nn.Module) -> Tensor:
    """Return the embeddings of all tokens that a ``LanguageModel`` knows."""
    assert isinstance(model, LanguageModel)
    return model.network.get_input_embeddings().weight  # pyright: ignore[reportCallIssue] (of transformers)


def build_language_model(
    model: ModelSettings,
    language: LanguageSettings,
    *,
    vocabulary: int,
    num_positions: int,
    seed: int,
    dtype: torch.dtype,
) -> LanguageModel:
    """Build a new or a pretrained model on the CPU, with adapters if there are to be any.

    Args:
        model: Sizes of a new model, and dropout.
        language: Architecture or pretrained model, and adapters.
        vocabulary: Tokens.
        num_positions: Longest sequence.
        seed: Seeds new parameters, those of adapters among them.
        dtype: Number format of the parameters.

    Raises:
        ConfigurationError: If a package is missing, or the settings do not fit together.
    """
    check_model(model, (num_positions,))
    transformers = extra("transformers")
    with initialization(seed):
        if language.pretrained is None:
            config = _config(transformers, model, language, vocabulary, num_positions)
            network = transformers.AutoModelForCausalLM.from_config(
                config, attn_implementation="eager", dtype=torch.float32
            )
        else:
            network = _pretrained(transformers, model, language.pretrained, num_positions)
        if language.lora_rank:
            network = _with_adapters(network, model, language)
    return LanguageModel(network, model.output_scale).to(dtype)


def origin(language: LanguageSettings) -> tuple[str, ...]:
    """Return the packages that a model's bits depend on, for the keys of stages."""
    packages = ["transformers", *(["peft"] if language.lora_rank else [])]
    return tuple(f"{name} {version(name)}" for name in packages)


def _config(
    transformers: Any,  # noqa: ANN401 (a module)
    model: ModelSettings,
    language: LanguageSettings,
    vocabulary: int,
    num_positions: int,
) -> Any:  # noqa: ANN401 (a configuration of transformers)
    if model.width % model.heads:
        raise ConfigurationError(
            f"arguments.model.width is {model.width} and arguments.model.heads is {model.heads}, "
            "but every head has an "
            "equal share of the width. Use a multiple."
        )
    sizes: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": model.width,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.heads,
        "max_position_embeddings": num_positions,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    if language.architecture is Architecture.GPT2:
        sizes["activation_function"] = model.activation.value
    else:
        sizes |= {
            "hidden_act": model.activation.value,
            "intermediate_size": 4 * model.width,
            "num_key_value_heads": model.heads,
            "head_dim": model.width // model.heads,
        }
    config = transformers.AutoConfig.for_model(language.architecture.value, **sizes)
    return _with_dropout(config, model.dropout)


def _with_dropout(config: Any, probability: float) -> Any:  # noqa: ANN401 (of transformers)
    for name, value in config.to_dict().items():
        if "drop" in name and isinstance(value, int | float) and not isinstance(value, bool):
            setattr(config, name, probability)
    return config


def _pretrained(
    transformers: Any,  # noqa: ANN401 (a module)
    model: ModelSettings,
    name: str,
    num_positions: int,
) -> nn.Module:
    transformers.logging.disable_progress_bar()  # it would stand between the lines of the run
    try:
        refuse_pretrained_files(name)
        # Code that a folder or a model of the hub brings is not run, and nobody is asked about it.
        found_config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        refuse_depth(found_config)
        config = _with_dropout(found_config, model.dropout)
        config.return_dict = True  # the network's own parts read each other's results by name
        network, found = transformers.AutoModelForCausalLM.from_pretrained(
            name,
            config=config,
            trust_remote_code=False,
            attn_implementation="eager",
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # libraries of three languages read these files
        reason = redacted((str(error).strip() or type(error).__name__).splitlines()[0])
        raise ConfigurationError(
            f"arguments.language.pretrained is {name}, where no causal language model can be read "
            f"({reason}). Name a folder that save_pretrained has filled, or a model of the hub "
            "that can be reached from here."
        ) from error
    if found["missing_keys"]:
        lost = sorted(found["missing_keys"])
        raise ConfigurationError(
            f"arguments.language.pretrained is {name}, whose files lack {len(lost)} of the "
            "model's weights, "
            f"{lost[0]} first, which would begin as random numbers. Copy it anew, or name a "
            "model that was saved whole, with its head for causal language modelling."
        )
    known = getattr(config, "max_position_embeddings", None)
    if known is not None and num_positions > known:
        raise ConfigurationError(
            f"The texts have up to {num_positions} tokens, but {name} knows {known} positions. "
            f"Lower arguments.max_tokens to {known + 1} or less."
        )
    return network


def _with_adapters(
    network: nn.Module, model: ModelSettings, language: LanguageSettings
) -> nn.Module:
    peft = extra("peft")
    settings = peft.LoraConfig(
        r=language.lora_rank,
        lora_alpha=language.lora_alpha,
        lora_dropout=model.dropout,
        target_modules=list(language.lora_targets) or "all-linear",
        task_type="CAUSAL_LM",
        # GPT-2 stores its linear layers transposed.
        fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in network.modules()),
    )
    try:
        with warnings.catch_warnings():  # of one package about another, which users cannot mend
            warnings.simplefilter("ignore", FutureWarning)
            return peft.get_peft_model(network, settings)
    except ValueError as error:
        layers = sorted(
            {
                name.rsplit(".", 1)[-1]
                for name, module in network.named_modules()
                if _is_linear(module)
            }
        )
        raise ConfigurationError(
            f"arguments.language.lora_targets is {list(language.lora_targets)}, which this model "
            "cannot have "
            f"adapters on. Its linear layers: {', '.join(layers)}."
        ) from error


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
