"""Settings of texts and of a causal language model. This module does not know torch."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from engine.errors import ConfigurationError
from engine.recipes.arguments.model import ModelName, ModelSettings
from engine.recipes.settings import Settings
from engine.secret_urls import SafeUrl


class Passages(StrEnum):
    """What one example is in a plain text; each is a completion with an empty prompt."""

    LINE = "line"
    """A line."""

    PARAGRAPH = "paragraph"
    """Lines between empty ones."""

    FORTUNE = "fortune"
    """Lines between those that hold a percent sign only, as in the files of ``fortune``."""


class Responses(StrEnum):
    """Which messages of the assistant a language model learns of a dialogue."""

    ALL = "all"
    """Every one that something stands before."""

    LAST = "last"
    """The last one; those before it are read only."""


class Architecture(StrEnum):
    """Causal language models of ``transformers`` that can be built from a few sizes."""

    GPT2 = "gpt2"
    LLAMA = "llama"
    QWEN2 = "qwen2"
    GEMMA = "gemma"


class TextSettings(Settings):
    """Which texts are trained on, and which ones are the task."""

    sources: tuple[SafeUrl, ...] = ()
    """Files of candidates, one for each source corpus: paths or fsspec URLs; relative paths are
    those in arguments.url; if that is empty, in the folder where Debian puts fortunes, if passages
    says so. A file of JSON has an object with prompt, completion and perhaps source on each line,
    or an array of them; any other is plain text. What a file is, and how it is compressed, is seen
    by its content."""

    target: SafeUrl | None = None
    """File of the task, from which objective, validation and test examples are drawn that have no
    file of their own; it may be one of the sources, and then the candidates are what is left of it.
    Empty means all sources."""

    passages: Passages = Passages.LINE
    """What one example is in a plain text."""

    separator: str = "\n"
    """Put between a prompt and its completion."""

    max_tokens: Annotated[int, Field(ge=3)] = 128
    """Longest sequence, with the tokens that mark start and end; a longer one is cut at its end."""

    vocabulary: Annotated[int, Field(ge=260, le=2**20)] = 1024
    """Tokens of the byte-level BPE tokenizer that is trained on the candidates; a pretrained model
    has its own, and does not read this."""


class LanguageModelSettings(ModelSettings):
    """Sizes of a new language model."""

    name: ModelName = ModelName.TRANSFORMERS
    """A model of the package transformers, which language chooses."""


class LanguageSettings(Settings):
    """Which causal language model, and which of its weights are trained."""

    architecture: Architecture = Architecture.GPT2
    """Architecture of a new model, whose sizes are width, depth and heads of the model."""

    pretrained: SafeUrl | None = None
    """Folder or hub name of a pretrained model with its tokenizer; empty builds a new one."""

    lora_rank: Annotated[int, Field(ge=0)] = 0
    """Rank of low-rank adapters, which are then all that is trained; 0 trains every weight."""

    lora_alpha: Annotated[float, Field(gt=0)] = 16.0
    """The adapters' output is multiplied by lora_alpha / lora_rank."""

    lora_targets: tuple[str, ...] = ()
    """Names of the layers that get an adapter, e.g. q_proj; empty means all but the output."""


def check_language(
    model: ModelSettings | str, text: TextSettings, language: LanguageSettings
) -> None:
    """Refuse settings of texts that have no meaning together.

    Raises:
        ConfigurationError: If a setting is refused; names its value, the reason and the remedy.
    """
    if isinstance(model, str):
        _check_own(model, language)
    else:
        _check_shipped(model, language)
    if not text.sources:
        raise ConfigurationError("arguments.sources is empty. Name the files of the candidates.")
    if len(set(text.sources)) < len(text.sources):
        raise ConfigurationError(
            f"arguments.sources names a file twice: {', '.join(text.sources)}. Name each once."
        )


def _check_own(model: str, language: LanguageSettings) -> None:
    """Refuse settings of a language model where a user's own model has its place."""
    for name, value in language:
        if value != LanguageSettings.model_fields[name].default:
            raise ConfigurationError(
                f"arguments.language.{name} is {value}, but arguments.model is {model}, a model of "
                "your own, which no setting of arguments.language changes: architecture, weights "
                "and adapters are its own. Leave one of them out."
            )


def _check_shipped(model: ModelSettings, language: LanguageSettings) -> None:
    if model.name is not ModelName.TRANSFORMERS:
        raise ConfigurationError(
            f"arguments.model.name is {model.name.value}, but texts are read by language models, "
            "and by nothing else. Use transformers."
        )
    sizes = ("width", "depth", "heads", "activation")
    changed = [
        name for name in sizes if getattr(model, name) != ModelSettings.model_fields[name].default
    ]
    if language.pretrained is not None and changed:
        raise ConfigurationError(
            f"arguments.model.{changed[0]} is {getattr(model, changed[0])}, but "
            f"{language.pretrained} has its own. Leave it out, or leave "
            "arguments.language.pretrained empty."
        )
    if language.lora_targets and not language.lora_rank:
        raise ConfigurationError(
            f"arguments.language.lora_targets names {language.lora_targets[0]}, but lora_rank is "
            "0, so there are no adapters. Set a rank."
        )
