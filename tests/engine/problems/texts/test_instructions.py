"""Instructions with responses: what is learned, what is left out, and what is refused."""

import json

import pytest

from engine.errors import EngineError
from engine.models.losses import IGNORED
from engine.problems.problem import build_problem
from engine.recipes.files import validate_recipe
from tests.needs import needs

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


def test_last_message_of_the_assistant_is_learned(tmp_path):
    """With all that stands before it as the prompt."""
    rows = [
        {"messages": [
            {"role": "user", "content": f"Hello {n}"}, {"role": "assistant", "content": "Hi"},
            {"role": "user", "content": "Bye"}, {"role": "assistant", "content": f"Bye {n}"},
        ]}
        for n in range(12)
    ]  # fmt: skip
    share = [
        {"conversations": [
            {"from": {"assistant": "gpt"}.get(each["role"], each["role"]), "value": each["content"]}
            for each in row["messages"]
        ]}
        for row in rows
    ]  # fmt: skip

    made = built(lines(tmp_path / "rows.jsonl", rows))

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
