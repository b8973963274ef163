"""Instructions with responses: what is learned, what is left out, and what is refused."""

import json
from collections import Counter

import pytest

from engine.errors import EngineError
from engine.models.losses import IGNORED
from engine.problems.built import build_problem
from engine.recipes.files import validate_recipe
from tests.helpers.machine.needs import needs

needs("transformers", "language models need the extra lm")

TRAINING = {"num_steps": 3, "batch_size": 4, "threads": 1, "learning_rate": 0.01}
MODEL = {"width": 8, "depth": 1, "heads": 2}


def built(url, **arguments):
    content = {
        "name": "own",
        "problem": "instructions",
        "arguments": {"url": str(url), "model": MODEL, "held_out": 0.6, **arguments},
        "training": TRAINING,
        "metaparameters": {"name": "weights"},
        "outer": {"update": "sign"},
    }
    return build_problem(validate_recipe(content, "the test"))


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def asked(number, **more):
    return [
        {"instruction": f"Add {n} and 2", "input": "", "output": str(n + 2), **more}
        for n in range(number)
    ]


FORMS = {
    "instruction": asked(12),
    "prompt": [{"prompt": f"Add {n} and 2", "completion": str(n + 2)} for n in range(12)],
    "question": [{"question": f"Add {n} and 2", "answer": str(n + 2)} for n in range(12)],
}


@pytest.mark.slow
def test_every_form_of_the_same_rows_is_the_same_problem(tmp_path):
    """Names of the fields are not learned."""
    found = {name: built(lines(tmp_path / f"{name}.jsonl", rows)) for name, rows in FORMS.items()}

    assert len({each.data.fingerprint for each in found.values()}) == 1


@pytest.mark.slow
def test_csv_and_parquet_are_read_too(tmp_path):
    """The file is what its content is."""
    arrow = pytest.importorskip("pyarrow", reason="tables need the extra parquet")
    from pyarrow import csv, parquet

    table = arrow.Table.from_pylist(FORMS["prompt"])
    parquet.write_table(table, tmp_path / "rows.parquet")
    answers = [f"is {n}" for n in range(12)]
    csv.write_csv(
        arrow.table({"prompt": table["prompt"], "completion": answers}), tmp_path / "rows.csv"
    )

    one, other = built(tmp_path / "rows.parquet"), built(tmp_path / "rows.csv")

    jsonl = built(lines(tmp_path / "rows.jsonl", FORMS["prompt"]))
    assert one.data.fingerprint == jsonl.data.fingerprint != other.data.fingerprint


def test_prompt_is_masked_out_of_the_loss(tmp_path):
    """Only the response and the end have labels, and the loss of a prompt's tokens is nothing."""
    rows = [{"instruction": "Say it", "input": f"number {n}", "output": "ab"} for n in range(12)]
    made = built(lines(tmp_path / "rows.jsonl", rows))

    train = made.data.splits["train"]
    learned = [row[row != IGNORED].tolist() for row in train.labels]
    assert len({tuple(each) for each in learned}) == 1  # all say the same, whatever was asked
    assert 2 <= len(learned[0]) <= 3
    assert made.data.show(0).startswith("Say it\n\nnumber")
    assert made.data.names[0].startswith("line ")


def dialogues():
    return [
        {"messages": [
            {"role": "user", "content": f"Hello {n}"}, {"role": "assistant", "content": "Hi"},
            {"role": "user", "content": "Bye"}, {"role": "assistant", "content": f"Bye {n}"},
            {"role": "user", "content": "Nobody answers"},
        ]}
        for n in range(12)
    ]  # fmt: skip


def test_every_message_of_the_assistant_is_learned_with_its_end(tmp_path):
    """What a user says between two of them is read, and no more."""
    made = built(lines(tmp_path / "rows.jsonl", dialogues()))
    last = built(lines(tmp_path / "rows.jsonl", dialogues()), responses="last")

    passage = made.data.texts.splits["train"][0]
    number = passage.prompt.removeprefix("user: Hello ")
    assert passage.turns == (("Hi", True), ("user: Bye", False), (f"Bye {number}", True))
    train, end = made.data.splits["train"], made.data.num_classes - 1
    known, wanted = train.inputs[0].tolist(), train.labels[0].tolist()
    assert wanted.count(end) == 2
    of_last = last.data.splits["train"].labels[0].tolist()
    assert of_last.count(last.data.num_classes - 1) == 1
    first = wanted.index(end)
    between = wanted[first + 1 :]
    following = next(place for place, label in enumerate(between) if label != IGNORED)
    assert following > 0
    assert known[first + 1] == end  # the end of an answer is read before the user goes on
    for place, label in enumerate(wanted[:-1]):
        assert label in (IGNORED, end, known[place + 1])


def test_answers_in_a_row_are_one_and_a_greeting_is_read_only(tmp_path):
    """Nothing asks for what comes first."""
    rows = [
        {"messages": [
            {"role": "assistant", "content": "Welcome"}, {"role": "user", "content": f"Why {n}"},
            {"role": "assistant", "content": "So"}, {"role": "assistant", "content": "there"},
        ]}
        for n in range(12)
    ]  # fmt: skip

    made = built(lines(tmp_path / "rows.jsonl", rows))

    passage = made.data.texts.splits["train"][0]
    assert passage.prompt.startswith("assistant: Welcome\nuser: Why")
    assert (passage.completion, passage.turns) == ("So\nthere", ())


def test_last_message_of_the_assistant_is_learned(tmp_path):
    """With all that stands before it as the prompt."""
    rows = dialogues()
    share = [
        {"conversations": [
            {"from": {"assistant": "gpt"}.get(each["role"], each["role"]), "value": each["content"]}
            for each in row["messages"]
        ]}
        for row in rows
    ]  # fmt: skip

    made = built(lines(tmp_path / "rows.jsonl", rows), responses="last")

    passage = made.data.texts.splits["train"][0]
    assert passage.prompt.startswith("user: Hello")
    assert passage.prompt.endswith("user: Bye")
    assert passage.completion.startswith("Bye ")
    assert len(built(lines(tmp_path / "share.jsonl", share)).data.names) == len(made.data.names)


def test_objective_has_a_file_of_its_own(tmp_path):
    """Then every row of the candidates stays one; what is in both is said."""
    trusted = [{"instruction": f"Take {n} from 20", "output": str(20 - n)} for n in range(8)]
    made = built(
        lines(tmp_path / "rows.jsonl", asked(12)),
        objective=str(lines(tmp_path / "trusted.jsonl", trusted + asked(4))),
        validation=str(lines(tmp_path / "check.jsonl", trusted[:4])),
    )

    sizes = {name: len(each) for name, each in made.data.splits.items()}
    assert sizes == {"train": 12, "objective": 6, "validation": 4, "test": 6}
    assert sum("are the same as a training candidate" in note for note in made.notes) >= 1


def test_rows_without_a_response_are_counted_and_named(tmp_path):
    """They teach nothing, and nobody's row is left out in silence."""
    rows = asked(12)
    rows[3]["output"], rows[5]["instruction"] = " ", None
    path = lines(tmp_path / "rows.jsonl", rows)

    made = built(path)

    (note,) = [each for each in made.notes if "were left out" in each]
    assert note == (
        f"2 rows without a prompt or response were left out: line 4 of {path}, line 6 of {path}."
    )


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"text": "a", "label": "b"}] * 3, "line 1 of .* has 'text', 'label'"),
        ([{"instruction": "a", "output": 3}] * 3, "has 3 as its output, which is no text"),
        ([{"instruction": "a", "output": ""}] * 3, "3 rows, and none with a prompt and a response"),
        ([{"messages": "hello"}] * 3, "no list of objects with role and content"),
        ([{"instruction": "a", "output": "b"}] * 3, "1 different rows"),
        (["a"], "holds a str"),
    ],
    ids=["fields", "number", "empty", "messages", "one", "no object"],
)
def test_what_does_not_fit_is_named(rows, words, tmp_path):
    """With the line."""
    with pytest.raises(EngineError, match=words):
        built(lines(tmp_path / "rows.jsonl", rows))


def test_file_that_is_not_there_is_named(tmp_path):
    """With its path."""
    with pytest.raises(EngineError, match="absent.jsonl"):
        built(tmp_path / "absent.jsonl")


def dialogue(content, role="assistant"):
    return {"messages": [{"role": "user", "content": "q"}, {"role": role, "content": content}]}


ALIKE = {
    "the first field is empty": [{"instruction": None, "prompt": "q", "output": "", "answer": "a"}],
    "parts of a message": [dialogue([{"type": "text", "text": "a"}])],
    "another name of the assistant": [dialogue("a", role="model")],
}


@pytest.mark.parametrize("kind", ALIKE)
def test_rows_are_read_as_other_programs_write_them(kind, tmp_path):
    """They were refused, or left out."""
    from engine.problems.texts.instructions import RowSettings, Unlearned, _passages

    path = lines(tmp_path / "t.jsonl", ALIKE[kind])

    unlearned = Unlearned([], Counter(), Counter())
    ((found, _),) = _passages(str(path), "train", unlearned, RowSettings())

    assert found.prompt in ("q", "user: q")
    assert found.completion == "a"


@pytest.mark.slow
def test_fields_that_are_not_read_and_rows_that_repeat_are_told(tmp_path):
    """A system prompt is a part of what was asked, and nobody saw that it was left out."""
    rows = [*asked(12, system_prompt="Be brief", prompt="other"), *asked(2, system_prompt="No")]

    found = built(lines(tmp_path / "t.jsonl", rows))

    notes = " ".join(found.notes)
    assert (
        "Fields of the rows that are not read: system_prompt (14 rows), prompt (12 rows)." in notes
    )
    assert "2 training rows repeat others to the letter, and count once." in notes


def test_message_of_weight_zero_is_read_and_not_learned(tmp_path):
    """Files for fine-tuning say so of an answer that was bad; it was learned in silence."""
    rows = dialogues()
    for row in rows:
        row["messages"][1]["weight"], row["messages"][3]["weight"] = 0, 1

    found = built(lines(tmp_path / "rows.jsonl", rows))

    passage = found.data.texts.splits["train"][0]
    assert passage.prompt.endswith("assistant: Hi\nuser: Bye")
    assert (passage.completion[:4], passage.turns) == ("Bye ", ())
    assert not any("not read" in note for note in found.notes)


def test_what_of_a_message_is_not_read_is_told(tmp_path):
    """A call of a tool is what an assistant said there, and an answer may have another's name."""
    rows = dialogues()
    for row in rows:
        row["messages"][1] |= {"tool_calls": [{"name": "add"}], "weight": 0.5, "name": ""}
        row["messages"].append({"role": "Assistant", "content": "One more"})

    notes = " ".join(built(lines(tmp_path / "rows.jsonl", rows)).notes)

    assert "messages.tool_calls (12 rows), messages.weight (12 rows)." in notes
    assert "Messages of Assistant (12 rows) are not learned, only those of assistant" in notes


def test_answers_that_lose_their_end_are_counted(tmp_path):
    """Nothing else says that an answer ends beyond the longest sequence."""
    rows = asked(12)
    for row in rows[:5]:
        row["output"] = "word " * 60
        row["output"] += row["instruction"]

    told = built(lines(tmp_path / "long.jsonl", rows), max_tokens=40).notes
    silent = built(lines(tmp_path / "short.jsonl", asked(12)), max_tokens=40).notes

    assert sum("5 of 12 answers do not end within arguments.max_tokens=40" in n for n in told) == 1
    assert not any("do not end" in note for note in silent)


@pytest.mark.parametrize("call", ["tool_calls", "function_call"])
@pytest.mark.parametrize("said", [{}, {"content": None}])
def test_message_that_calls_a_tool_may_say_nothing(call, said, tmp_path):
    """As servers of chats write it; a single such row made the whole file unreadable."""
    chat = [
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", **said, call: [{"name": "add"}]},
        {"role": "tool", "content": "4"},
        {"role": "assistant", "content": "four"},
    ]
    rows = lines(tmp_path / "rows.jsonl", [{"messages": chat}, *asked(4)])
    held = lines(tmp_path / "held.jsonl", asked(12)[4:])

    found = built(rows, objective=str(held))

    assert found.data.show(0) == "user: 2 + 2?\nassistant: \ntool: 4\nfour"
    assert f"messages.{call} (1 rows)" in " ".join(found.notes)


def test_message_without_a_text_and_a_call_is_refused(tmp_path):
    """Nobody knows what was meant."""
    chat = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": None}]

    with pytest.raises(EngineError, match="no list of objects with role and content"):
        built(lines(tmp_path / "rows.jsonl", [{"messages": chat}]))


def test_speakers_that_nobody_knows_are_named_where_nothing_is_left(tmp_path):
    """It said that no row has a response, and not why."""
    chat = [{"role": "User", "content": "2 + 2?"}, {"role": "Assistant", "content": "4"}]

    with pytest.raises(EngineError, match=r"Messages of Assistant .*, User .* Rename the role"):
        built(lines(tmp_path / "rows.jsonl", [{"messages": chat}] * 4))
