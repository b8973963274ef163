"""Documents of data sets that are made to fill a memory, or to take for ever."""

import json

import pytest

from engine.errors import DataError
from engine.problems.data import data_cards
from engine.problems.data.data_cards import refuse_places, refuse_saved_places

pytest.importorskip("huggingface_hub", reason="needs the extra datasets")


def _nested(depth):
    """Ten times what is a level below, in a line each."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, depth)
    ]  # fmt: skip
    return "\n".join([*lines, f"configs: *a{depth - 1}"])


@pytest.mark.parametrize("card", ["README.md", ".huggingface.yaml"])
@pytest.mark.parametrize(
    "text", [_nested(9), "a: &a [x, *a]\nconfigs: *a"], ids=["a bomb", "a part of itself"]
)
def test_a_card_of_aliases_is_refused_before_the_library_writes_it_out(card, text, tmp_path):
    """Seven hundred bytes took 15 GB and minutes, for a message of the library."""
    (tmp_path / card).write_text(f"---\n{text}\n---\n" if card == "README.md" else text)

    with pytest.raises(DataError, match="by aliases of YAML"):
        refuse_places(tmp_path)


def test_a_card_with_some_aliases_is_read(tmp_path):
    """They are a way to write a value once."""
    (tmp_path / "README.md").write_text(
        "---\nfiles: &files data/*.csv\nconfigs:\n- {config_name: a, data_files: *files}\n---\n"
    )

    refuse_places(tmp_path)


@pytest.mark.parametrize("card", ["README.md", ".huggingface.yaml"])
def test_a_card_that_is_too_long_is_refused(card, tmp_path, monkeypatch):
    """YAML is read slowly: three megabytes of it took a minute."""
    monkeypatch.setattr(data_cards, "_CARD_BYTES", 100)
    (tmp_path / card).write_text("---\nx: 1\n---\n" + "word " * 50)

    with pytest.raises(DataError, match="at most 100 are read"):
        refuse_places(tmp_path)


def test_a_saved_data_set_of_many_splits_is_refused_at_once(tmp_path):
    """Each of them was compared with all others: the test would not end."""
    names = [f"https-alice-{number}" for number in range(10**5)]
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": names}))

    with pytest.raises(DataError, match=r"names the split .*, for which it has no folder"):
        refuse_saved_places(tmp_path)
