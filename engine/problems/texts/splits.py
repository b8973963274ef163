"""Splits of texts: candidates of several sources, and held-out examples of one task."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from engine.errors import DataError
from engine.problems.passage import Passage
from engine.problems.texts.passages import FORTUNES, locate, read_own, read_sources
from engine.problems.texts.tokens import Tokenizer, pretrained_tokenizer, train_tokenizer
from engine.recipes.arguments.data import HELD_OUT, DataSettings, check_drawn
from engine.recipes.arguments.text import LanguageSettings, Passages, TextSettings


class Drawn(NamedTuple):
    """Texts in splits."""

    splits: dict[str, list[Passage]]
    """Split to its passages; validation and test are left out where they are cut from the
    objective's."""

    ids: Tensor
    """Positions of the candidates among the passages of all sources, in the order of the files."""

    notes: tuple[str, ...]
    """What people should know of them."""


def draw_texts(data: DataSettings, text: TextSettings, own: Mapping[str, str | None]) -> Drawn:
    """Read texts and draw the splits, as a pure function of the files.

    The held-out splits that have no file of their own are drawn from the task's passages, and the
    candidates from those of the sources that are in no held-out split, whichever file they stand
    in.

    Args:
        data: How many are drawn, and by which seed.
        text: The files of candidates and task, and how they are cut.
        own: Held-out split to its own file, or to nothing.

    Raises:
        DataError: If the texts cannot be read, are damaged, or are too few.
        ConfigurationError: If a setting has no meaning beside files of one's own.
    """
    files = {name: url for name, url in own.items() if url is not None}
    drawn = check_drawn(data, files, ("arguments.target", text.target))
    folder = FORTUNES if data.url is None and text.passages is Passages.FORTUNE else data.url
    pool, target = read_sources(text, folder)
    given = {name: read_own(locate(url, folder), name, text) for name, url in files.items()}
    return _draw(pool, target, given, {name: getattr(data, f"num_{name}") for name in drawn}, data)


def tokenizer_of(
    text: TextSettings, language: LanguageSettings, candidates: list[Passage]
) -> Tokenizer:
    """Return the tokenizer of a pretrained model, or one that is trained on the candidates."""
    if language.pretrained is not None:
        return pretrained_tokenizer(language.pretrained)
    texts = [part for passage in candidates for part in passage.text if part]
    return train_tokenizer(texts, text.vocabulary)


def _draw(
    pool: list[Passage],
    target: list[Passage],
    given: dict[str, list[Passage]],
    sizes: dict[str, int | None],
    settings: DataSettings,
) -> Drawn:
    """Draw the held-out splits, then the candidates."""
    drawn = torch.Generator().manual_seed(settings.seed)
    # At least one, so that an empty test split is refused with the sizes that made it so.
    left = max(len(target) - sum(size or 0 for size in sizes.values()), 1)
    numbers = {name: left if size is None else size for name, size in sizes.items()}
    if sum(numbers.values()) > len(target):
        wanted = " + ".join(f"{size} ({name})" for name, size in numbers.items())
        files = dict.fromkeys(each.file for each in target)
        raise DataError(
            f"The held-out splits need {wanted} = {sum(numbers.values())} passages, but the task "
            f"in {', '.join(files)} has only {len(target)} different ones. Lower "
            f"{', '.join(f'arguments.num_{name}' for name in numbers)}."
        )
    with torch.device("cpu"):  # a notebook may have made another device the default
        splits = dict(given)
        if numbers:
            order = iter(torch.randperm(len(target), generator=drawn).tolist())
            for name, size in numbers.items():
                splits[name] = [target[next(order)] for _ in range(size)]
        held_out = {passage.text for passages in splits.values() for passage in passages}
        free = [place for place, passage in enumerate(pool) if passage.text not in held_out]
        if settings.num_train > len(free):
            raise DataError(
                f"arguments.num_train is {settings.num_train}, but the sources have only "
                f"{len(free)} passages that are in no held-out split. Lower arguments.num_train or "
                "arguments.num_test."
            )
        places = torch.randperm(len(free), generator=drawn)[: settings.num_train]
    ids = torch.tensor(free)[places]
    splits = {name: splits[name] for name in HELD_OUT if name in splits}
    train = [pool[place] for place in ids.tolist()]
    notes = (*_copies(pool, given), *_unused(pool, free))
    return Drawn({"train": train, **splits}, ids, notes)


def _unused(pool: list[Passage], free: list[int]) -> tuple[str, ...]:
    """Say of which files of the sources no text can be a candidate, because all are held out."""
    used = {pool[place].file for place in free}
    return tuple(
        f"All texts of {file} are in held-out splits, so none of them is a training candidate. "
        "A smaller arguments.num_test leaves some."
        for file in dict.fromkeys(each.file for each in pool)
        if file not in used
    )


def _copies(pool: list[Passage], given: dict[str, list[Passage]]) -> tuple[str, ...]:
    """Say how many texts of the sources stand in the files of held-out splits."""
    known = {passage.text for passage in pool}
    numbers = {
        name: sum(each.text in known for each in passages) for name, passages in given.items()
    }
    return tuple(
        f"{number} of {len(given[name])} {name} texts stand in the sources too, where they are no "
        "training candidates."
        for name, number in numbers.items()
        if number
    )
