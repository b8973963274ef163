"""Instructions with their responses, and a language model that learns the responses only."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from engine.errors import DataError
from engine.numerics.determinism import generator
from engine.problems.base import Problem
from engine.problems.passage import Passage
from engine.problems.tables.files import read_table
from engine.problems.tables.groups import check_groups, groups_of
from engine.problems.texts.json_lines import check_characters, holds_json, read_json, stem
from engine.problems.texts.learner import Models
from engine.problems.texts.problem import language_problem
from engine.recipes.arguments.text import Responses, TextSettings, check_language
from engine.storage.content import decoded, unpacked
from engine.storage.reading import read_data

_PROMPTS = ("instruction", "prompt", "question")
_INPUTS = ("input", "context")
_RESPONSES = ("output", "response", "completion", "answer")
_DIALOGUES = ("messages", "conversations")
"""Names of fields that are known, the first that says something counts."""

_ANSWERS = ("assistant", "gpt", "model")
"""Who says what is learned of a dialogue."""

_SHOWN = 5
"""Rows that were left out, by place in a sentence."""


_READ = ("role", "from", "content", "value")
"""Fields of a message that are read, besides the weight of an answer."""

_NOT_LEARNED = (
    *("system", "developer", "user", "human", "tool", "function", "observation", "ipython"),
    *("function_call", "tool_call", "context"),
)
"""Who says what is read and not learned. Messages of others are, too, and that is told."""


_CALLS = ("tool_calls", "function_call")
"""Fields of a message that may stand in the place of its text."""


class Unlearned(NamedTuple):
    """What of the files is no part of what is learned."""

    rows: list[str]
    """Places of rows without a prompt or a response."""

    fields: Counter[str]
    """Names of fields that are not read, and in how many rows they stand."""

    roles: Counter[str]
    """Names of speakers that nobody knows, likewise."""


class RowSettings(NamedTuple):
    """What is read of the rows of a file."""

    responses: Responses = Responses.ALL
    """Which messages of the assistant are learned of a dialogue."""

    groups: tuple[str, ...] = ()
    """Fields that say of which group a candidate is, for mixtures."""


def instructions_problem(
    urls: dict[str, str | None],
    held_out: tuple[float, int],
    text: TextSettings,
    models: Models,
    wanted: RowSettings = RowSettings(),  # noqa: B008 (is never changed)
) -> Problem:
    """Return instructions with responses, and a language model that answers.

    Args:
        urls: ``train``, and ``objective``, ``validation`` and ``test`` where they have files.
        held_out: Share of the rows that are held out if ``objective`` has no file, and the seed.
        text: Separator, longest sequence and vocabulary.
        models: Sizes of a new model or a class of one's own, and which model it is.
        wanted: What is read of the rows.

    Raises:
        DataError: If a file cannot be read, has no known fields, or no row with a response.
    """
    assert urls["train"] is not None  # an argument of the problem
    check_groups(wanted.groups)
    lost = Unlearned([], Counter(), Counter())
    given = {name: url for name, url in urls.items() if url is not None}
    read = {name: _passages(url, name, lost, wanted) for name, url in given.items()}
    splits = {name: [passage for passage, _ in rows] for name, rows in read.items()}
    cells = {passage.text: found for passage, found in read["train"]}
    rows = len(splits["train"])
    splits["train"] = list({each.text: each for each in splits["train"]}.values())
    notes = [
        *left_out_notes(lost.rows, "prompt or response"),
        *_unread_notes(lost.fields),
        *_role_notes(lost.roles),
        *_repeated_notes(rows - len(splits["train"])),
    ]
    if "objective" not in splits:
        splits["train"], splits["objective"] = hold_out(splits["train"], *held_out)
    groups, missing = groups_of(
        {
            name: [cells[each.text][place] for each in splits["train"]]
            for place, name in enumerate(wanted.groups)
        }
    )
    return passages_problem(splits, text, models, (*notes, *missing), groups=groups)


def passages_problem(
    splits: dict[str, list[Passage]],
    text: TextSettings,
    models: Models,
    notes: tuple[str, ...] = (),
    groups: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Problem:
    """Return passages of each split as ``engine.problems.texts.problem.language_problem`` does.

    Args:
        splits: Split to its passages; ``train`` and ``objective``, and perhaps the others.
        text: Separator, longest sequence and vocabulary.
        models: Sizes of a new model or a class of one's own, and which model it is.
        notes: What people should know of the passages.
        groups: Name to the group of each candidate; those called source are its source.
    """
    check_language(models[0], text.model_copy(update={"sources": ("given",)}), models[1])
    if "source" in groups:
        train = zip(splits["train"], groups["source"], strict=True)
        splits = splits | {"train": [replace(each, source=source) for each, source in train]}
    train = splits["train"]
    return language_problem(
        splits,
        text,
        models,
        names=[each.name for each in train],
        show=lambda place: text.separator.join(each for each in train[place].text if each),
        notes=notes,
        groups=dict(groups),
    )


def hold_out(
    passages: list[Passage], share: float, seed: int
) -> tuple[list[Passage], list[Passage]]:
    """Return the passages that stay, and a share of them that is held out, drawn by the seed."""
    number = min(max(round(share * len(passages)), 1), len(passages) - 1)
    if number < 1:
        raise DataError(
            f"There are {len(passages)} different rows with a response, too few to hold any out. "
            "Give more, or a file of objective rows."
        )
    order = torch.randperm(len(passages), generator=generator(seed, "held-out rows")).tolist()
    kept, held = sorted(order[number:]), sorted(order[:number])
    return [passages[place] for place in kept], [passages[place] for place in held]


def left_out_notes(places: list[str], lack: str) -> tuple[str, ...]:
    """Say which rows were left out, because they lack something."""
    if not places:
        return ()
    shown = ", ".join(places[:_SHOWN]) + (", ..." if len(places) > _SHOWN else "")
    return (f"{len(places)} rows without a {lack} were left out: {shown}.",)


def _unread_notes(unread: Counter[str]) -> list[str]:
    """Say which fields of the rows are no part of what is learned, system prompts among them."""
    if not unread:
        return []
    return [f"Fields of the rows that are not read: {_counted(unread)}."]


def _role_notes(roles: Counter[str]) -> list[str]:
    """Say whose messages are not learned although they may be answers under another name."""
    if not roles:
        return []
    return [
        f"Messages of {_counted(roles)} are not learned, only those of {', '.join(_ANSWERS)} are. "
        "Rename the role if they are answers."
    ]


def _counted(names: Counter[str]) -> str:
    shown = ", ".join(f"{name} ({times} rows)" for name, times in names.most_common(_SHOWN))
    return shown + (", ..." if len(names) > _SHOWN else "")


def _repeated_notes(times: int) -> list[str]:
    return [f"{times} training rows repeat others to the letter, and count once."] if times else []


def _passages(
    url: str, split: str, unlearned: Unlearned, wanted: RowSettings
) -> list[tuple[Passage, list[Any]]]:
    """Return the rows of a file as passages, each with what its fields of groups hold.

    What has nothing to learn, or is not read, is noted.
    """
    grouped = wanted.groups if split == "train" else ()
    lost = list(grouped)
    found = []
    for line, row in _rows(url, split):
        place = Passage("", "", stem(url), url, line)
        prompt, *turns = _parts(row, place.place, wanted.responses)
        unlearned.fields.update(name for name in _unread(row) if name not in wanted.groups)
        unlearned.roles.update(_unknown(row))
        lost = [name for name in lost if name not in row]
        if prompt.strip() and turns and turns[0].strip():
            text = "\n".join(turns)
            learned = tuple((turn, number % 2 == 0) for number, turn in enumerate(turns))
            several = learned if len(turns) > 1 else ()
            passage = Passage(prompt, text, place.source, url, line, several)
            found.append((passage, [row.get(name) for name in grouped]))
        else:
            unlearned.rows.append(place.place)
    if not found:
        raise DataError(
            " ".join(
                (
                    f"{url} has {len(unlearned.rows)} rows, and none with a prompt and a response, "
                    "so there is nothing to learn from it.",
                    *(_role_notes(unlearned.roles) or ["Point at a file with some."]),
                )
            )
        )
    if lost:
        raise DataError(
            f"arguments.groups has {lost[0]!r}, but no row of {url} has a field of that name. "
            "Correct the name."
        )
    return found


def _rows(url: str, split: str) -> Iterator[tuple[int, Any]]:
    """Yield the rows of a file of JSON, or of a table, with the line or the number of each."""
    content = read_data(f"The file {url} of the {split} rows", url, "Correct the path.")
    if content[:4] not in (b"PAR1", b"PK\x03\x04"):
        text = decoded(unpacked(content, url), url)
        if holds_json(text, url):
            yield from read_json(text, url)
            return
    columns = read_table(url, split, texts=True)  # an answer may be a number
    for number, values in enumerate(zip(*columns.values(), strict=True), start=1):
        yield number, dict(zip(columns, values, strict=True))


def _parts(row: Any, place: str, responses: Responses) -> tuple[str, ...]:  # noqa: ANN401 (a JSON value)
    """Return prompt and response of a row, empty where it has none; of a dialogue more in turn."""
    if not isinstance(row, dict):
        raise DataError(
            f"{place} holds a {type(row).__name__}, but a row is an object with instruction and "
            "output, prompt and completion, or messages. Write it as one."
        )
    dialogue = next((row[name] for name in _DIALOGUES if row.get(name) is not None), None)
    if dialogue is not None:
        return _of_dialogue(dialogue, place, responses)
    prompt, response = _first(row, _PROMPTS), _first(row, _RESPONSES)
    if prompt is None or response is None:
        raise DataError(
            f"{place} has {', '.join(map(repr, row)) or 'no field'}, but a row has one of "
            f"{', '.join(_PROMPTS)} and one of {', '.join(_RESPONSES)} (and perhaps input), or "
            "messages. Rename the fields."
        )
    more = row.get(_first(row, _INPUTS) or "", "")
    parts = [_text(row[prompt], prompt, place), _text(more, "input", place)]
    return "\n\n".join(part for part in parts if part), _text(row[response], response, place)


def _first(row: dict[str, Any], names: tuple[str, ...]) -> str | None:
    """Return the first field that says something; the first that is there, if none does."""
    there = [name for name in names if name in row]
    return next(
        (name for name in there if row[name] not in (None, "")), there[0] if there else None
    )


def _unread(row: dict[str, Any]) -> list[str]:
    """Return the fields of a row that say something and are no part of its prompt or response."""
    dialogue = next((name for name in _DIALOGUES if row.get(name) is not None), None)
    parts = (_PROMPTS, _INPUTS, _RESPONSES)
    read = {dialogue} if dialogue is not None else {_first(row, names) for names in parts}
    found = [name for name, value in row.items() if name not in read and value not in (None, "")]
    inside = {
        f"{dialogue}.{name}"
        for message in _messages(row)
        for name, value in message.items()
        if name not in _READ and value not in (None, "", []) and not _is_weight(name, value)
    }
    return [*found, *sorted(inside)]


def _unknown(row: dict[str, Any]) -> list[str]:
    """Return the speakers of a dialogue whose messages nobody knows to be answers or not."""
    roles = {str(each.get("role", each.get("from"))) for each in _messages(row)}
    return sorted(roles.difference(_ANSWERS, _NOT_LEARNED))


def _messages(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the messages of a row that has passed ``_of_dialogue``; none if it is no dialogue."""
    return next((row[name] for name in _DIALOGUES if row.get(name) is not None), [])


def _is_weight(name: str, value: Any) -> bool:  # noqa: ANN401 (a JSON value)
    """Say whether a field of a message says if it is learned, as files for fine-tuning have it."""
    return name == "weight" and value in (0, 1)


def _content(message: dict[str, Any]) -> Any:  # noqa: ANN401 (a JSON value)
    """Return the text of a message: as it is, or in parts that are all texts.

    A message that calls a tool may say nothing besides.
    """
    value: Any = message.get("content", message.get("value"))
    if value is None and any(message.get(name) for name in _CALLS):
        return ""
    parts: list[Any] = value if isinstance(value, list) else []
    known = all(isinstance(each, dict) and isinstance(each.get("text"), str) for each in parts)
    return "".join(each["text"] for each in parts) if parts and known else value


def _of_dialogue(dialogue: Any, place: str, responses: Responses) -> tuple[str, ...]:  # noqa: ANN401 (whatever is handed in)
    """Return pairs of a prompt and the assistant's message that is learned after it, in turn.

    What comes after the last one is left out, because nothing follows it. A message whose weight
    is 0 is read and not learned.
    """
    known = isinstance(dialogue, list) and all(isinstance(each, dict) for each in dialogue)
    turns = [
        (each.get("role", each.get("from")), _content(each)) for each in (dialogue if known else [])
    ]
    if not known or any(not isinstance(part, str) for turn in turns for part in turn):
        raise DataError(
            f"{place} has messages that are no list of objects with role and content, both texts. "
            "Write them so."
        )
    for _, content in turns:
        check_characters(content, "messages", place)
    said = [
        at
        for at, (role, content) in enumerate(turns)
        if role in _ANSWERS and at and content.strip() and dialogue[at].get("weight") != 0
    ]
    found, read = [], 0
    for at in said if responses is Responses.ALL else said[-1:]:
        if found and at == read:  # two messages of the assistant in a row are one
            found[-1] += f"\n{turns[at][1]}"
        else:
            found.append("\n".join(f"{role}: {content}" for role, content in turns[read:at]))
            found.append(turns[at][1])
        read = at + 1
    return tuple(found) or ("", "")


def _text(value: Any, name: str, place: str) -> str:  # noqa: ANN401 (whatever is handed in)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{place} has {value!r} as its {name}, which is no text. Write it as one.")
    check_characters(value, name, place)
    return value
