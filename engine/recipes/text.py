"""Settings of texts and of a causal language model. This module does not know torch."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from engine.recipes.model import ModelConfig, ModelName
from engine.recipes.settings import Settings
from engine.secret_urls import SafeUrl

if TYPE_CHECKING:
    from engine.recipes.data import DataConfig


class Passages(StrEnum):
    """What one example is in a plain text; each is a completion with an empty prompt."""

    LINE = "line"
    """A line."""

    PARAGRAPH = "paragraph"
    """Lines between empty ones."""

    FORTUNE = "fortune"
    """Lines between those that hold a percent sign only, as in the files of ``fortune``."""


class Architecture(StrEnum):
    """Causal language models of ``transformers`` that can be built from a few sizes."""

    GPT2 = "gpt2"
    LLAMA = "llama"
    QWEN2 = "qwen2"
    GEMMA = "gemma"


class TextConfig(Settings):
    """Which texts are trained on, and which ones are the task."""

    sources: tuple[SafeUrl, ...] = ()
    """Files of candidates, one for each source corpus: paths or fsspec URLs; relative paths are
    those in data.url; if that is empty, in the folder where Debian puts fortunes, if passages says
    so. A file of JSON has an object with prompt, completion and perhaps source on each line, or an
    array of them; any other is plain text. What a file is, and how it is compressed, is seen by its
    content."""

    target: SafeUrl | None = None
    """File of the task, from which objective, validation and test examples are drawn; it may be one
    of the sources, and then the candidates are what is left of it."""

    passages: Passages = Passages.LINE
    """What one example is in a plain text."""

    separator: str = "\n"
    """Put between a prompt and its completion."""

    max_tokens: Annotated[int, Field(ge=3)] = 128
    """Longest sequence, with the tokens that mark start and end; a longer one is cut at its end."""

    vocabulary: Annotated[int, Field(ge=260)] = 1024
    """Tokens of the byte-level BPE tokenizer that is trained on the candidates; a pretrained model
    has its own, and does not read this."""


class LanguageConfig(Settings):
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
    data: "DataConfig", model: ModelConfig, text: TextConfig, language: LanguageConfig
) -> None:
    """Refuse texts without a language model, and the other way round.

    Raises:
        ValueError: With the value, the reason and the remedy.
    """
    reads_text = data.name == "text"
    if reads_text != (model.name is ModelName.TRANSFORMERS):
        raise ValueError(
            f"data.name is {data.name.value}, but model.name is {model.name.value}: texts are read "
            "by language models, and by nothing else. Use data.name=text together with "
            "model.name=transformers, or neither."
        )
    if not reads_text:
        return
    if not text.sources or text.target is None:
        missing = "sources" if not text.sources else "target"
        raise ValueError(
            f"text.{missing} is empty, but data.name is text, which has no texts of its own. Name "
            "the files."
        )
    if len(set(text.sources)) < len(text.sources):
        raise ValueError(
            f"text.sources names a file twice: {', '.join(text.sources)}. Name each once."
        )
    if data.flip_fraction or data.target_classes:
        setting = "flip_fraction" if data.flip_fraction else "target_classes"
        raise ValueError(
            f"data.{setting} is set, but texts have no classes. Leave it out; the task is "
            "text.target."
        )
    sizes = ("width", "depth", "heads", "activation")
    changed = [
        name for name in sizes if getattr(model, name) != ModelConfig.model_fields[name].default
    ]
    if language.pretrained is not None and changed:
        raise ValueError(
            f"model.{changed[0]} is {getattr(model, changed[0])}, but {language.pretrained} has "
            "its own. Leave it out, or leave language.pretrained empty."
        )
    if language.lora_targets and not language.lora_rank:
        raise ValueError(
            f"language.lora_targets names {language.lora_targets[0]}, but language.lora_rank is 0, "
            "so there are no adapters. Set a rank."
        )
