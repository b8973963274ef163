"""Settings of pairs of images and captions, and of the tower that reads captions.

This module does not know torch.
"""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from engine.recipes.settings import Settings
from engine.secret_urls import SafeUrl


class TokenizerName(StrEnum):
    """How a caption becomes token ids."""

    WORDS = "words"
    """The most frequent words of the training captions; a rarer word is one unknown token."""

    BPE = "bpe"
    """Byte-level BPE trained on the training captions, by the package tokenizers."""


class ContrastiveConfig(Settings):
    """Pairs of images and captions, and what the image tower of ``model`` is trained beside."""

    target_url: SafeUrl | None = None
    """Folder of clean held-out pairs, in the formats of data.url: the task that counts. Empty
    cuts the held-out splits from the same pairs."""

    image_size: Annotated[int, Field(ge=8)] = 224
    """Height and width to which images of shards are cropped and scaled, in pixels."""

    in_memory: bool = True
    """Hold all decoded images in memory; false reads each batch from the shards."""

    image_column: str = "image"
    """Column of Parquet files with the images: their bytes, as binary or as numbers, or URLs, see
    fetch_images."""

    caption_column: str = "caption"
    """Column of Parquet files with the captions; of a list of them the first one counts."""

    tokenizer: TokenizerName = TokenizerName.WORDS
    """How a caption becomes token ids."""

    vocabulary: Annotated[int, Field(ge=4)] = 1000
    """Most token ids."""

    context: Annotated[int, Field(ge=3)] = 16
    """Tokens of a caption, its beginning and its end included; longer ones are cut off."""

    embedding: Annotated[int, Field(ge=2)] = 32
    """Size of the vectors that images and captions are compared by."""

    text_width: Annotated[int, Field(ge=1)] = 32
    """Embedding size of the text tower, a causal transformer."""

    text_depth: Annotated[int, Field(ge=1)] = 2
    """Blocks of the text tower."""

    text_heads: Annotated[int, Field(ge=1)] = 4
    """Attention heads of the text tower; must divide its width."""

    temperature: Annotated[float, Field(gt=0.01, le=1)] = 0.07
    """Temperature that the training starts from; it is learned."""

    min_temperature: Annotated[float, Field(ge=0.001, lt=1)] = 0.01
    """Temperature that a smooth bound keeps it above."""

    target_batch: Annotated[int | None, Field(ge=2)] = None
    """Held-out pairs among which a loss is taken; empty means training.batch_size."""

    max_pixels: Annotated[int, Field(ge=1)] = 2**26
    """Most pixels of an image of shards; one with more counts as broken, so that no small file can
    fill the memory."""

    fetch_images: bool = False
    """Fetch the images that cells of Parquet name: by HTTP from public addresses, and from S3 where
    data.url is there too; false counts such cells as broken."""

    max_broken: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the pairs of the shards that may be broken or incomplete; they are left out and
    counted, and more of them are refused."""


FITTING = ("counts", "weights", "learning-rate", "scalars", "initial-parameters")
"""Metaparameters of a contrastive training."""

_UNREAD = {
    "data.target_classes": ((), "pairs have captions and no classes"),
    "training.label_smoothing": (0, "a contrastive loss has no labels to smooth"),
    "model.output_scale": (1, "the output of the image tower is normalized"),
}


def check_pairs(content: dict[str, Any], are_pairs: bool) -> None:
    """Refuse settings that have no meaning for pairs, or only for pairs.

    Args:
        content: All settings of a recipe, as JSON values.
        are_pairs: Whether its data set has pairs.

    Raises:
        ValueError: With the value, the reason and the remedy.
    """
    data, kind = content["data"], content["metaparameters"]
    _check_pieces(content, are_pairs)
    if not are_pairs:
        default = ContrastiveConfig().model_dump(mode="json")
        changed = [name for name, value in content["contrastive"].items() if value != default[name]]
        if changed:
            raise ValueError(
                f"contrastive.{changed[0]} is {content['contrastive'][changed[0]]}, but "
                f"data.name is {data['name']}, which has no captions. Leave it out, or use "
                "data.name=image-text or fashion-captions."
            )
        return
    if content["kind"] in ("attribution", "canaries"):
        raise ValueError(
            f"kind is {content['kind']}, which asks for the loss of single examples, but "
            f"data.name is {data['name']}, where a loss is that of a pair among others. Use "
            "kind=descent."
        )
    if kind["name"] not in FITTING or (
        kind["name"] == "scalars" and "label_smoothing" in kind["scalars"]
    ):
        raise ValueError(
            f"metaparameters.name is {kind['name']}, which needs classes, but data.name is "
            f"{data['name']}. Use one of {', '.join(FITTING)}, without label_smoothing."
        )
    for key, (neutral, because) in _UNREAD.items():
        group, name = key.split(".")
        if (
            tuple(value) != neutral
            if isinstance(value := content[group][name], list)
            else value != neutral
        ):
            raise ValueError(f"{key} is {value}, but {because}. Leave it out.")
    if data["name"] == "image-text" and not data["url"]:
        raise ValueError(
            "data.name is image-text, but data.url is empty, so nobody knows where the pairs are. "
            "Set it to a folder of tar shards or Parquet files."
        )


def _check_pieces(content: dict[str, Any], are_pairs: bool) -> None:
    piece = content["training"]["piece"]
    if are_pairs and content["replay"]["micro_batch"] is not None:
        raise ValueError(
            f"replay.micro_batch is {content['replay']['micro_batch']}, but the pairs of a batch "
            "are each other's negatives, so pieces have other losses. Use training.piece."
        )
    if piece is None:
        return
    if not are_pairs:
        raise ValueError(
            f"training.piece is {piece}, but only a contrastive batch is embedded in pieces. Leave "
            "it out; replay.micro_batch reverses other examples a few at a time."
        )
    for group, name, neutral in (
        ("replay", "vjp", "reverse-over-reverse"),
        ("replay", "unroll", 1),
        ("training", "compile", False),
        ("training", "path", "plain"),
    ):
        value = content[group][name]
        if value != neutral:
            raise ValueError(
                f"{group}.{name} is {value}, which is not for a batch in pieces of training.piece "
                f"{piece}. Leave one of them out."
            )
