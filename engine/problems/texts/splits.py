"""Texts as a data set: candidates of several sources, and held-out splits of one task."""

import torch
from torch import Tensor

from engine.errors import DataError
from engine.problems.passage import Passage, Texts
from engine.problems.splits import DataSet, Examples, check_examples, examples_fingerprint
from engine.problems.texts.passages import FORTUNES, read_sources
from engine.problems.texts.tokens import Tokenizer, encode, pretrained_tokenizer, train_tokenizer
from engine.recipes.arguments.data import DataSettings
from engine.recipes.arguments.text import LanguageSettings, Passages, TextSettings

HELD_OUT = ("objective", "validation", "test")


def load_texts(data: DataSettings, text: TextSettings, language: LanguageSettings) -> DataSet:
    """Read texts, draw the splits and cut them into tokens, as a pure function of the files.

    The held-out splits are drawn from the task's passages, and the candidates from those of the
    sources that are in no held-out split, whichever file they stand in.

    Returns:
        Inputs and labels of shape (examples, tokens), see ``engine.problems.texts.tokens``; ``ids``
        are positions among the passages of all sources, in the order of the files.

    Raises:
        DataError: If the texts cannot be read, are damaged, or are too few or too long.
    """
    own = FORTUNES if text.passages is Passages.FORTUNE else None
    pool, target = read_sources(text, own if data.url is None else data.url)
    splits, ids = _draw(pool, target, data)
    tokenizer = _tokenizer(text, language, splits["train"])
    columns = encode(splits, tokenizer, separator=text.separator, max_tokens=text.max_tokens)
    examples = {name: Examples(*both) for name, both in columns.items()}
    for name, each in examples.items():
        check_examples(each.inputs, each.labels, origin=f"the texts ({name})")
    return DataSet(
        splits=examples,
        num_classes=tokenizer.size,
        corrupted=torch.zeros(len(ids), dtype=torch.bool),
        fingerprint=examples_fingerprint(examples),
        ids=ids,
        texts=Texts.of(splits),
    )


def _tokenizer(
    text: TextSettings, language: LanguageSettings, candidates: list[Passage]
) -> Tokenizer:
    if language.pretrained is not None:
        return pretrained_tokenizer(language.pretrained)
    texts = [part for passage in candidates for part in passage.text if part]
    return train_tokenizer(texts, text.vocabulary)


def _draw(
    pool: list[Passage], target: list[Passage], settings: DataSettings
) -> tuple[dict[str, list[Passage]], Tensor]:
    """Draw the held-out splits, then the candidates; return them and the candidates' positions."""
    generator = torch.Generator().manual_seed(settings.seed)
    sizes = {name: getattr(settings, f"num_{name}") for name in HELD_OUT}
    if sizes["test"] is None:
        # At least one, so that an empty test split is refused with the sizes that made it so.
        sizes["test"] = max(len(target) - sizes["objective"] - sizes["validation"], 1)
    if sum(sizes.values()) > len(target):
        wanted = " + ".join(f"{size} ({name})" for name, size in sizes.items())
        raise DataError(
            f"The held-out splits need {wanted} = {sum(sizes.values())} passages, but the task in "
            f"{target[0].file} has only {len(target)} different ones. Lower "
            "arguments.num_objective, arguments.num_validation, arguments.num_test."
        )
    with torch.device("cpu"):  # a notebook may have made another device the default
        order = iter(torch.randperm(len(target), generator=generator).tolist())
        splits = {name: [target[next(order)] for _ in range(size)] for name, size in sizes.items()}
        held_out = {passage.text for passages in splits.values() for passage in passages}
        free = [place for place, passage in enumerate(pool) if passage.text not in held_out]
        if settings.num_train > len(free):
            raise DataError(
                f"arguments.num_train is {settings.num_train}, but the sources have only "
                f"{len(free)} passages that are in no held-out split. Lower arguments.num_train or "
                "arguments.num_test."
            )
        drawn = torch.randperm(len(free), generator=generator)[: settings.num_train]
    ids = torch.tensor(free)[drawn]
    return {"train": [pool[place] for place in ids.tolist()], **splits}, ids
