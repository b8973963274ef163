"""Tokens: what is learned, what is padding, and a tokenizer that the text determines."""

import pytest
import torch

from engine.errors import DataError, EngineError
from engine.models.losses import IGNORED
from engine.problems.passage import Passage
from engine.problems.texts.model import build_language_model
from engine.problems.texts.tokens import Tokenizer, encode, pretrained_tokenizer, train_tokenizer
from engine.recipes.arguments.model import ModelSettings
from engine.recipes.arguments.text import LanguageSettings
from tests.helpers.data.language import PAIRS, build_pretrained

LETTERS = Tokenizer(lambda text: [ord(letter) for letter in text], 130, start=128, end=129)
"""A token for each letter, so that expected rows can be written down."""


def passage(prompt, completion, line=1):
    return Passage(prompt, completion, "mine", "mine.jsonl", line)


def rows(*passages, max_tokens=50, tokenizer=LETTERS, separator="|"):
    inputs, labels = encode(
        {"train": passages}, tokenizer, separator=separator, max_tokens=max_tokens
    ).columns["train"]
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
    with pytest.raises(DataError, match=r"line 7 of mine.jsonl.*arguments.max_tokens=4"):
        rows(passage("a", "b"), passage("abc", "d", line=7), max_tokens=4)


def test_the_trained_tokenizer_knows_every_text_and_is_made_by_it_alone():
    """A tokenizer that differed between two workers would give one stage two contents."""
    texts = [part for pair in PAIRS for part in pair] * 3
    first, second = (train_tokenizer(texts, 300) for _ in range(2))

    assert first.encode("capital of Paris, Ω\n") == second.encode("capital of Paris, Ω\n")
    assert len(first.encode("capital of Paris")) < len("capital of Paris") / 2
    assert max(first.encode("Ω\x00ÿ")) < first.size <= 300
    assert {first.start, first.end}.isdisjoint(first.encode("<start><end> abc"))


def test_a_text_that_would_take_all_memory_is_refused(monkeypatch):
    """A library in Rust that gets no memory ends the process, and no message is printed."""
    monkeypatch.setattr("engine.problems.texts.tokens.MOST_CHARACTERS", 100)
    tokenizer = train_tokenizer(["some words", "x" * 100], 300)

    assert tokenizer.encode("y" * 100)
    with pytest.raises(DataError, match="'yyy.* has 101 characters"):
        tokenizer.encode("y" * 101)
    with pytest.raises(DataError, match="has 101 characters"):
        train_tokenizer(["some words", "x" * 101], 300)


def test_padding_changes_no_loss_and_no_logit_that_counts():
    """Splits are padded to the longest passage of all, so this must not depend on company."""
    from engine.models.losses import per_example_cross_entropy

    model = build_language_model(
        ModelSettings(name="transformers", width=8, depth=2, heads=2),
        LanguageSettings(),
        vocabulary=130,
        num_positions=40,
        seed=0,
        dtype=torch.float64,
    )
    short = encode(
        {"train": [passage("ab", "cd"), passage("", "xyz")]}, LETTERS, separator="|", max_tokens=9
    ).columns["train"]
    long = encode(
        {"train": [passage("ab", "cd"), passage("", "xyz"), passage("a" * 20, "b" * 9)]},
        LETTERS,
        separator="|",
        max_tokens=40,
    ).columns["train"]

    alone = per_example_cross_entropy(model, short)
    padded = per_example_cross_entropy(model, long)[:2]

    assert long[0].shape[1] > 4 * short[0].shape[1]
    torch.testing.assert_close(padded, alone, rtol=1e-13, atol=0)


@pytest.fixture
def pretrained(tmp_path):
    """A tiny pretrained model with its tokenizer in a folder, as transformers saves them."""
    import tokenizers
    import transformers

    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<s>": 0, "a": 1, "b": 2}, "<s>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="<s>", unk_token="<s>"
    )
    config = transformers.GPT2Config(vocab_size=3, n_positions=8, n_embd=4, n_layer=1, n_head=1)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path, tokenizer


def test_a_token_without_an_embedding_is_refused_with_the_text(pretrained):
    """It ended in an IndexError in the middle of a training, or in a device's assertion."""
    folder, tokenizer = pretrained
    assert pretrained_tokenizer(str(folder)).encode("a b") == [1, 2]
    tokenizer.add_tokens(["extra"])
    tokenizer.save_pretrained(folder)

    known = pretrained_tokenizer(str(folder))

    assert known.encode("a b") == [1, 2]
    with pytest.raises(DataError, match="makes token 3 of 'a extra'.*tokens 0 to 2 only"):
        known.encode("a extra")


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("model.safetensors", lambda content: content[:-40]),
        ("model.safetensors", lambda content: content[:20]),
        ("model.safetensors", lambda content: b""),
        ("model.safetensors", lambda content: b"\xff" * 200),
        ("config.json", lambda content: content[:30]),
        ("config.json", lambda content: b"[" * 100000),
        ("config.json", lambda content: content.replace(b'"n_embd": 4', b'"n_embd": 6')),
        ("config.json", lambda content: content.replace(b'"n_layer": 1', b'"n_layer": 9999999')),
        ("tokenizer.json", lambda content: content[:30]),
        ("tokenizer.json", lambda content: b"{}"),
    ],
)
def test_a_damaged_pretrained_folder_is_refused_in_one_message(pretrained, file, damage):
    """Libraries of three languages read these files, each with errors of its own."""
    folder, _ = pretrained
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(damage(content))

    assert damage(content) != content
    with pytest.raises(EngineError, match=r"^arguments\.language\.pretrained is .*can be read"):
        build(folder)


def test_a_pretrained_model_without_some_of_its_weights_is_refused(pretrained):
    """They would begin as random numbers, with a warning among others."""
    import safetensors.torch as safetensors

    folder, _ = pretrained
    loaded = safetensors.load_file(folder / "model.safetensors")
    name = next(name for name in loaded if name.endswith("mlp.c_fc.weight"))
    del loaded[name]
    safetensors.save_file(loaded, folder / "model.safetensors", {"format": "pt"})

    with pytest.raises(EngineError, match=r"lack 1 of the model's weights, .*mlp\.c_fc\.weight"):
        build(folder)


def build(folder):
    """Read tokenizer and model, as a recipe does."""
    pretrained_tokenizer(str(folder))
    return build_pretrained(folder)
