"""Tokens of passages: a byte-level BPE tokenizer of the user's own text, or a pretrained model's.

A sequence is [start] prompt completion [end]. The inputs are all of its tokens but the last, and
the label of each is the token that follows it; labels inside the prompt and after the end are
``IGNORED``. So the loss is that of the completion and its end, and padding has no part in it.
A dialogue goes on: after the end comes what is read only, up to the next completion with its end.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from engine.errors import DataError
from engine.models.losses import IGNORED
from engine.problems.passage import Passage
from engine.problems.texts.packages import extra
from engine.problems.texts.pretrained_files import refuse_pretrained_files
from engine.secret_urls import beginning, redacted

logger = logging.getLogger(__name__)


MOST_CHARACTERS = 2**22
"""Of one text. A tokenizer takes some 60 bytes for each, and a book has a million."""


@dataclass(frozen=True)
class Tokenizer:
    """What texts are cut by.

    Attributes:
        encode: Maps a text to its tokens, without start and end.
        size: Tokens that it knows, numbered from 0.
        start: Token before every sequence.
        end: Token after every sequence; None where the tokenizer has none.
    """

    encode: Callable[[str], list[int]]
    size: int
    start: int
    end: int | None


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Train a byte-level BPE tokenizer; it knows every byte, so no text is foreign to it.

    Args:
        texts: Texts that the tokenizer is trained on.
        vocabulary: Most tokens that it may have, start and end among them; few texts give fewer.

    Raises:
        DataError: If a text is too long to be cut in one piece.
    """
    tokenizers = extra("tokenizers")
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary - 2,  # start and end are no text, so the tokenizer does not know them
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(map(_bounded, texts), trainer)
    known = inner.get_vocab_size()
    return Tokenizer(lambda text: inner.encode(_bounded(text)).ids, known + 2, known, known + 1)


def _bounded(text: str) -> str:
    """Return a text; refuse one at which a tokenizer takes all memory, and ends the process."""
    if len(text) > MOST_CHARACTERS:
        raise DataError(
            f"The text that begins {beginning(text, 60)!r} has {len(text)} characters, and at most "
            f"{MOST_CHARACTERS} are read as one prompt, completion or passage. Cut it into "
            "several, or remove it."
        )
    return text


def pretrained_tokenizer(name: str) -> Tokenizer:
    """Return the tokenizer of a pretrained model, from a folder or the hub.

    Raises:
        DataError: If there is none there.
    """
    transformers = extra("transformers")
    try:
        refuse_pretrained_files(name)
        inner = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # libraries of three languages read these files
        raise DataError(
            f"arguments.language.pretrained is {name}, where no tokenizer can be read "
            f"({redacted(_first_line(error))}). Name a folder that holds model and tokenizer, or "
            "a model of the hub that can be reached from here."
        ) from error
    start = inner.bos_token_id if inner.bos_token_id is not None else inner.eos_token_id
    if start is None:
        raise DataError(
            f"The tokenizer of {name} has neither a token for the start of a text nor one for its "
            "end, so the first token of a completion has nothing to follow. Use another model."
        )
    rows = _rows(transformers, name)
    found = Tokenizer(
        lambda text: _cut(inner, _bounded(text), name),
        len(inner),
        start,
        inner.eos_token_id,
    )
    return found if rows is None else replace(found, encode=_checked(found, name, rows))


def _cut(inner: Any, text: str, name: str) -> list[int]:  # noqa: ANN401 (of transformers)
    """Return the tokens of a text.

    Raises:
        DataError: If the tokenizer fails, as a pattern of a stranger's does that takes for ever.
    """
    try:
        return inner(text, add_special_tokens=False)["input_ids"]
    except BaseException as error:  # a panic of Rust's is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise DataError(
            f"The tokenizer of arguments.language.pretrained={name} cannot cut the text that "
            f"begins {beginning(text, 60)!r} ({redacted(_first_line(error))}). Use another model, "
            "or remove the text."
        ) from error


def _rows(transformers: Any, name: str) -> int | None:  # noqa: ANN401 (a module)
    """Return how many tokens a pretrained model has embeddings for, if its settings say so."""
    try:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        return getattr(config.get_text_config(), "vocab_size", None)
    except Exception:  # what is wrong with it is said where the model is read
        logger.debug("The settings of %s cannot be read.", name, exc_info=True)
        return None


def _checked(tokenizer: Tokenizer, name: str, rows: int) -> Callable[[str], list[int]]:
    """Return the tokenizer's function; a token without an embedding is refused."""

    def refuse(token: int, where: str) -> None:
        raise DataError(
            f"The tokenizer of arguments.language.pretrained={name} makes token {token} of "
            f"{where}, but "
            f"the model has embeddings for tokens 0 to {rows - 1} only. They do not belong "
            "together, or tokens were added without resize_token_embeddings. Use the tokenizer "
            "that the model was saved with."
        )

    for token in (tokenizer.start, tokenizer.end):
        if token is not None and token >= rows:
            refuse(token, "the start or the end of a text")

    def encode(text: str) -> list[int]:
        tokens = tokenizer.encode(text)
        if max(tokens, default=0) >= rows:
            refuse(max(tokens), repr(beginning(text, 60)))
        return tokens

    return encode


class Encoded(NamedTuple):
    """Passages as tokens."""

    columns: dict[str, tuple[Tensor, Tensor]]
    """Split to inputs and labels, each of shape (examples, tokens)."""

    unanswered: int
    """Passages with a prompt whose completion, or the last of its turns, does not fit whole."""


def encode(
    splits: Mapping[str, Sequence[Passage]],
    tokenizer: Tokenizer,
    *,
    separator: str,
    max_tokens: int,
) -> Encoded:
    """Return inputs and labels of each split, padded at their ends to one length for all.

    Args:
        splits: Split to passages.
        tokenizer: Tokenizer that the passages are cut by.
        separator: Put between a prompt that is not empty and its completion.
        max_tokens: Longest sequence, with start and end.

    Raises:
        DataError: If nothing is left of a completion.
    """
    cut, unanswered, found = 0, 0, {}
    for name, passages in splits.items():
        rows = []
        for passage in passages:
            tokens, learned = _sequence(passage, tokenizer, separator)
            first = learned.index(True)
            if first >= max_tokens:
                raise DataError(
                    f"The prompt on {passage.place} has {first} tokens with its start, so nothing "
                    f"of the completion is left within arguments.max_tokens={max_tokens}. Raise "
                    "it, or "
                    "shorten or remove that prompt."
                )
            cut += len(tokens) > max_tokens
            unanswered += len(tokens) > max_tokens and bool(passage.prompt)
            rows.append((tokens[:max_tokens], learned[:max_tokens]))
        found[name] = rows
    if cut:
        total = sum(map(len, found.values()))
        logger.info("%d of %d passages are cut at %d tokens.", cut, total, max_tokens)
    width = max(len(tokens) for rows in found.values() for tokens, _ in rows) - 1
    return Encoded(
        {name: _padded(rows, width, pad=tokenizer.start) for name, rows in found.items()},
        unanswered,
    )


def _sequence(
    passage: Passage, tokenizer: Tokenizer, separator: str
) -> tuple[list[int], list[bool]]:
    """Return all tokens of a passage, and which of them are learned."""
    end = [] if tokenizer.end is None else [tokenizer.end]
    tokens, learned = [tokenizer.start], [False]
    for text, is_learned in [
        *([(passage.prompt, False)] if passage.prompt else []),
        *(passage.turns or [(passage.completion, True)]),
    ]:
        part = [*tokenizer.encode(text), *end] if is_learned else tokenizer.encode(text + separator)
        tokens += part
        learned += [is_learned] * len(part)
    return tokens, learned


def _padded(
    rows: list[tuple[list[int], list[bool]]], width: int, *, pad: int
) -> tuple[Tensor, Tensor]:
    inputs = torch.full((len(rows), width), pad, dtype=torch.int64)
    labels = torch.full((len(rows), width), IGNORED, dtype=torch.int64)
    for row, (tokens, learned) in enumerate(rows):
        following = torch.tensor(tokens[1:])
        inputs[row, : len(tokens) - 1] = torch.tensor(tokens[:-1])
        labels[row, : len(tokens) - 1] = following.where(torch.tensor(learned[1:]), IGNORED)
    return inputs, labels


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
