"""Settings of pairs of images and captions, and of the tower that reads captions.

This module does not know torch.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from engine.recipes.settings import Settings
from engine.secret_urls import SafeUrl


class TokenizerName(StrEnum):
    """How a caption becomes token ids."""

    WORDS = "words"
    """The most frequent words of the training captions; a rarer word is one unknown token."""

    BPE = "bpe"
    """Byte-level BPE trained on the training captions, by the package tokenizers."""


class ContrastiveSettings(Settings):
    """Pairs of images and captions, and what the image tower of ``model`` is trained beside."""

    target_url: SafeUrl | None = None
    """Folder of clean held-out pairs, in the formats of arguments.url: the task that counts. Empty
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

    vocabulary: Annotated[int, Field(ge=4, le=2**20)] = 1000
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
    arguments.url is there too; false counts such cells as broken."""

    max_broken: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the pairs of the shards that may be broken or incomplete; they are left out and
    counted, and more of them are refused."""
