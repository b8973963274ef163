"""Splits of texts: drawn from the task or the sources, or with files of their own."""

import pytest

from engine.errors import ConfigurationError, DataError
from engine.problems.built import build_problem
from engine.recipes.files import validate_recipe
from tests.helpers.data.language import TINY, small_texts, write_jsonl

NUMBERS = {"num_objective", "num_validation", "num_test"}


def built(folder, without=(), **arguments):
    own = {name: each for name, each in small_texts(folder).items() if name not in without}
    return build_problem(validate_recipe(TINY | {"arguments": own | arguments}, "the test"))


def file(folder, name, count):
    words = [(f"{name} {number}", f"answer {number} of {name}") for number in range(count)]
    return write_jsonl(folder / f"{name}.jsonl", words)


def prompts(found, split):
    return [passage.prompt for passage in found.data.texts.splits[split]]


def sizes(found):
    return {name: len(examples) for name, examples in found.data.splits.items()}


def test_trusted_texts_have_a_file_of_their_own(tmp_path):
    """The others are drawn from the task, as if that file were not there."""
    found = built(tmp_path, ["num_objective"], objective=file(tmp_path, "trusted", 5))
    plain = built(tmp_path)

    assert prompts(found, "objective") == [f"trusted {number}" for number in range(5)]
    assert sizes(found) == {"train": 12, "objective": 5, "validation": 3, "test": 3}
    assert set(prompts(found, "validation")) < {f"say {w}" for w in WORDS}
    assert sizes(plain) == {"train": 12, "objective": 4, "validation": 3, "test": 3}


WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def test_without_a_task_the_others_are_cut_from_the_trusted_texts(tmp_path):
    """As for every ready problem, and it is said."""
    trusted = file(tmp_path, "trusted", 12)

    found = built(tmp_path, [*NUMBERS, "target"], objective=trusted)

    assert sizes(found) == {"train": 12, "objective": 6, "validation": 3, "test": 3}
    held_out = [
        each for split in ("objective", "validation", "test") for each in prompts(found, split)
    ]
    assert sorted(held_out) == sorted(f"trusted {number}" for number in range(12))
    assert "no validation and no test split" in found.notes[0]


def test_a_source_whose_texts_are_all_held_out_is_named(tmp_path):
    """Without a size the test split takes what is left of the task, here one of the sources."""
    one, task = file(tmp_path, "one", 12), file(tmp_path, "task", 11)
    without = ["num_test", "sources", "target"]

    taken = built(tmp_path, without, sources=[one, task], target=task, num_train=6)
    left = built(tmp_path, without, sources=[one, task], target=task, num_train=6, num_test=2)

    assert [note for note in taken.notes if "none of them is a training candidate" in note]
    assert "task" in taken.notes[-1]
    assert "one.jsonl" not in taken.notes[-1]
    assert not left.notes
    assert not any(name.startswith("task") for name in prompts(taken, "train"))


def test_without_any_file_held_out_texts_are_drawn_from_the_sources(tmp_path):
    """And are no candidates then."""
    found = built(tmp_path, ["target"], num_train=10)

    assert sizes(found) == {"train": 10, "objective": 4, "validation": 3, "test": 3}
    texts = [p.text for split in found.data.texts.splits.values() for p in split]
    assert len(set(texts)) == 20


def test_all_three_have_files_and_overlaps_are_said(tmp_path):
    """A text of the sources that is held out is no candidate."""
    sums = small_texts(tmp_path)["sources"][0]
    some = write_jsonl(tmp_path / "some.jsonl", [(f"{w} and one", w * 2) for w in WORDS[:3]])
    one = file(tmp_path, "trusted", 4)

    found = built(tmp_path, [*NUMBERS, "target"], objective=one, validation=some, test=one)

    assert sizes(found) == {"train": 12, "objective": 4, "validation": 3, "test": 4}
    assert not set(prompts(found, "train")) & set(prompts(found, "validation"))
    notes = " ".join(found.notes)
    assert "3 of 3 validation texts stand in the sources too, where they are no training" in notes
    assert "4 of 4 test examples are objective examples too" in notes
    with pytest.raises(DataError, match="the sources have only 10 passages"):
        built(
            tmp_path, [*NUMBERS, "target"], objective=sums, validation=some, test=one, num_train=11
        )


REFUSED = {
    "a number of texts from a file": (
        {"objective": "FILE", "num_objective": 3},
        ["target"],
        r"arguments\.num_objective is 3, but all of arguments\.objective is read",
    ),
    "a number of texts that are cut": (
        {"objective": "FILE", "num_validation": 3},
        ["target", "num_objective", "num_test"],
        r"num_validation is 3, but these examples are cut from those of arguments\.objective",
    ),
    "a task that nothing is drawn from": (
        {"objective": "FILE", "validation": "FILE", "test": "FILE"},
        [*NUMBERS],
        r"arguments\.target is .*, but objective, validation and test are separate files",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_setting_that_nothing_reads_is_refused(case, tmp_path):
    """A split of another size than asked for is another experiment."""
    arguments, without, words = REFUSED[case]
    path = file(tmp_path, "trusted", 12)
    given = {name: path if each == "FILE" else each for name, each in arguments.items()}

    with pytest.raises(ConfigurationError, match=words):
        built(tmp_path, without, **given)
