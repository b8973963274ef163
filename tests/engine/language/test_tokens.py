"""Tokens: what is learned, what is padding, and a tokenizer that the text determines."""

import pytest
import torch

from engine.errors import DataError
from engine.language.corpora import Passage
from engine.language.tokens import Tokenizer, encode, train_tokenizer
from engine.models import IGNORED
from tests.language import PAIRS

LETTERS = Tokenizer(lambda text: [ord(letter) for letter in text], 130, start=128, end=129)
"""A token for each letter, so that expected rows can be written down."""


def passage(prompt, completion, line=1):
    return Passage(prompt, completion, "mine", "mine.jsonl", line)


def rows(*passages, max_tokens=50, tokenizer=LETTERS, separator="|"):
    inputs, labels = encode(
        {"train": passages}, tokenizer, separator=separator, max_tokens=max_tokens
    )["train"]
    return inputs.tolist(), labels.tolist()


def test_labels_are_the_following_tokens_of_the_completion_and_its_end():
    """Neither the prompt nor what pads a shorter sequence has a part in the loss."""
    inputs, labels = rows(passage("ab", "cd"), passage("", "e"))

    a, b, c, d, e, bar = map(ord, "abcde|")
    no = IGNORED
    assert inputs == [[128, a, b, bar, c, d], [128, e, 128, 128, 128, 128]]
    assert labels == [[no, no, no, c, d, 129], [e, 129, no, no, no, no]]


def test_a_long_completion_is_cut_at_its_end():
    """The limit counts the tokens of start and end as well."""
    inputs, labels = rows(passage("ab", "cdef"), max_tokens=6)

    assert inputs == [[128, *map(ord, "ab|c")]]
    assert labels == [[IGNORED] * 3 + [ord("c"), ord("d")]]


def test_a_completion_that_is_cut_off_wholly_is_refused():
    """Its loss would be 0 / 0, and NaN in every metagradient."""
    with pytest.raises(DataError, match=r"line 7 of mine.jsonl.*text.max_tokens=4"):
        rows(passage("a", "b"), passage("abc", "d", line=7), max_tokens=4)


def test_the_trained_tokenizer_knows_every_text_and_is_made_by_it_alone():
    """A tokenizer that differed between two workers would give one stage two contents."""
    texts = [part for pair in PAIRS for part in pair] * 3
    first, second = (train_tokenizer(texts, 300) for _ in range(2))

    assert first.encode("capital of Paris, Ω\n") == second.encode("capital of Paris, Ω\n")
    assert len(first.encode("capital of Paris")) < len("capital of Paris") / 2
    assert max(first.encode("Ω\x00ÿ")) < first.size <= 300
    assert {first.start, first.end}.isdisjoint(first.encode("<start><end> abc"))


def test_padding_changes_no_loss_and_no_logit_that_counts():
    """Splits are padded to the longest passage of all, so this must not depend on company."""
    from engine.language.model import build_language_model
    from engine.language_config import LanguageConfig
    from engine.menu import ModelConfig
    from engine.models import per_example_cross_entropy

    model = build_language_model(
        ModelConfig(name="transformers", width=8, depth=2, heads=2),
        LanguageConfig(),
        vocabulary=130,
        num_positions=40,
        seed=0,
        dtype=torch.float64,
    )
    short = encode(
        {"train": [passage("ab", "cd"), passage("", "xyz")]}, LETTERS, separator="|", max_tokens=9
    )["train"]
    long = encode(
        {"train": [passage("ab", "cd"), passage("", "xyz"), passage("a" * 20, "b" * 9)]},
        LETTERS,
        separator="|",
        max_tokens=40,
    )["train"]

    alone = per_example_cross_entropy(model, short)
    padded = per_example_cross_entropy(model, long)[:2]

    assert long[0].shape[1] > 4 * short[0].shape[1]
    torch.testing.assert_close(padded, alone, rtol=1e-13, atol=0)
