"""Words that look the same are not two classes in silence."""

import pytest

from engine.errors import DataError
from engine.problems.built import build_problem
from engine.problems.tables.alike import looking_alike
from engine.recipes.files import validate_recipe

pytest.importorskip("pyarrow", reason="tables need the extra parquet")

COMPOSED, DECOMPOSED, WIDTHLESS = "é", "e\u0301", "a\u200bb"
PAIRS = {
    "a space at the end": ("cat", "cat "),
    "a space at the beginning": (" cat", "cat"),
    "a space that does not break": ("cat", "cat\u00a0"),
    "two spaces": ("big cat", "big  cat"),
    "two forms of Unicode": (DECOMPOSED, COMPOSED),
    "a sign without a width": ("ab", WIDTHLESS),
}


def built(tmp_path, labels, words):
    rows = "".join(f'{n},"{words[n % 2]}","{labels[n % 2]}"\n' for n in range(30))
    (tmp_path / "rows.csv").write_text(f"x,w,kind\n{rows}", encoding="utf-8")
    content = {
        "name": "rows",
        "problem": "table",
        "arguments": {"url": str(tmp_path / "rows.csv"), "label": "kind", "groups": ["w"]},
        "training": {"num_steps": 2, "batch_size": 3, "threads": 1},
    }
    return build_problem(validate_recipe(content, "the test"))


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_classes_that_look_the_same_are_refused(pair, tmp_path):
    """A row typed by hand would have a class of its own, which the report shows under one name."""
    with pytest.raises(DataError, match="look the same.*two classes. Write them alike"):
        built(tmp_path, pair, ("u", "v"))


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_groups_that_look_the_same_are_told(pair, tmp_path):
    """Which of them is meant is the user's to say; a mixture of both may be wanted."""
    notes = built(tmp_path, ("p", "q"), pair).notes

    assert sum("look the same and are read as two words" in note for note in notes) == 1


@pytest.mark.parametrize(
    "words", [("Cat", "cat"), ("a b", "ab"), ("", "a"), (" ", ""), ("1", "l"), ("o", "ö")]
)
def test_words_that_differ_to_the_eye_are_two(words):
    """Upper and lower case may be two names."""
    assert looking_alike(words) is None
