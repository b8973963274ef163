"""Captions: made from class names, and as token ids.

A tokenizer is trained on the training captions and is a pure function of them. Ids 0 to 3 mean the
same under each: padding, beginning, end, unknown.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

import torch
from jaxtyping import Int64
from torch import Tensor

from engine.errors import ConfigurationError
from engine.extras import install
from engine.recipes.arguments.pairs import ContrastiveSettings, TokenizerName

PADDING, BEGIN, END, UNKNOWN = range(4)

FASHION_CLASSES = (
    *("t-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
"""Names of the classes of Fashion-MNIST, by label."""

TEMPLATES = (
    "a photo of a {}",
    "a small grey picture of one {}",
    "this is a {} from the shop",
    "{} on a plain background",
    "product image : {}",
    "a blurry photo of the {}",
)
"""Captions of a class; which one a picture gets is drawn."""

_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class CaptionTokenizer:
    """Maps captions to token ids.

    Attributes:
        split: Maps a caption to ids, without beginning and end.
        size: Ids run from 0 to ``size - 1``.
        context: Tokens of a caption, beginning, end and padding included.
    """

    split: Callable[[str], list[int]]
    size: int
    context: int

    def __call__(self, captions: Sequence[str]) -> Int64[Tensor, "captions tokens"]:
        """Return the ids of captions: beginning, tokens as far as they fit, end, padding."""
        rows = torch.full((len(captions), self.context), PADDING)
        for row, caption in zip(rows, captions, strict=True):
            ids = [BEGIN, *self.split(caption)[: self.context - 2], END]
            row[: len(ids)] = torch.tensor(ids)
        return rows


def train_tokenizer(captions: Iterable[str], settings: ContrastiveSettings) -> CaptionTokenizer:
    """Train the tokenizer that a recipe asks for.

    Raises:
        ConfigurationError: If its package is not installed.
    """
    if settings.tokenizer is TokenizerName.WORDS:
        return _words(captions, settings)
    return _bpe(captions, settings)


def _words(captions: Iterable[str], settings: ContrastiveSettings) -> CaptionTokenizer:
    counts = Counter(word for caption in captions for word in _split_words(caption))
    # Equally frequent words by the alphabet, so that the order of the captions does not count.
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    first = UNKNOWN + 1
    ids = {word: first + place for place, word in enumerate(ranked[: settings.vocabulary - first])}
    size = first + len(ids)
    return CaptionTokenizer(
        lambda text: [ids.get(word, UNKNOWN) for word in _split_words(text)], size, settings.context
    )


def _split_words(caption: str) -> list[str]:
    return _WORD.findall(caption.lower())


def _bpe(captions: Iterable[str], settings: ContrastiveSettings) -> CaptionTokenizer:
    if find_spec("tokenizers") is None:
        raise ConfigurationError(
            "arguments.contrastive.tokenizer is bpe, but the package tokenizers is not installed. "
            f"Run: {install('clip')}. Or use arguments.contrastive.tokenizer=words."
        )
    package = import_module("tokenizers")  # by name, because it is an extra
    special = ["<padding>", "<begin>", "<end>", "<unknown>"]
    alphabet = sorted(import_module("tokenizers.pre_tokenizers").ByteLevel.alphabet())
    smallest = len(special) + len(alphabet)
    if settings.vocabulary < smallest:
        raise ConfigurationError(
            f"arguments.contrastive.vocabulary is {settings.vocabulary}, but byte-level BPE begins "
            "with "
            f"{smallest} ids, one for each byte. Raise it, or use "
            "arguments.contrastive.tokenizer=words."
        )
    made = package.Tokenizer(package.models.BPE(unk_token=special[UNKNOWN]))
    made.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.normalizer = package.normalizers.Lowercase()
    trainer = package.trainers.BpeTrainer(
        vocab_size=settings.vocabulary,
        special_tokens=special,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    made.train_from_iterator(captions, trainer)
    return CaptionTokenizer(
        lambda text: made.encode(text).ids, made.get_vocab_size(), settings.context
    )


def class_captions(
    labels: Int64[Tensor, " examples"], names: Sequence[str], drawn: torch.Generator
) -> list[str]:
    """Return a caption for each label, its template drawn uniformly."""
    chosen = torch.randint(len(TEMPLATES), labels.shape, generator=drawn)
    return [
        TEMPLATES[template].format(names[label])
        for label, template in zip(labels.tolist(), chosen.tolist(), strict=True)
    ]
