"""Neighbours of a problem's file: each folder has its own, whenever they are imported."""

import importlib
import sys

import pytest

from engine.errors import ConfigurationError
from engine.recipes.code.user_code import calling, load_module, source_digests

HEAD = """
from utils import word

def said():
    return word
"""

LAZY = """
def said():
    from utils import word
    return word
"""

WHOLE = """
import utils

def said():
    return utils.word
"""

DEEP = """
import parts.words as words
from parts.words import *

def said():
    import parts.words
    from parts import words as again
    assert words is parts.words is again
    return word
"""

LATE = """
import parts

def said():
    return parts.late()
"""


def written(folder, main, word):
    """A folder with a problem's file, ``utils.py`` and a package beside it."""
    (folder / "parts").mkdir(parents=True)
    (folder / "main.py").write_text(main)
    (folder / "utils.py").write_text(f"word = {word!r}\n")
    (folder / "parts" / "__init__.py").write_text(
        "def late():\n    from .words import word\n    return word\n"
    )
    (folder / "parts" / "words.py").write_text("from utils import word\n")
    return str(folder)


@pytest.mark.parametrize("main", [HEAD, LAZY, WHOLE, DEEP, LATE])
def test_each_folder_has_its_own_neighbours(main, tmp_path):
    """A process of workers has problems of many people, and many of them have a utils.py."""
    folders = {word: written(tmp_path / word, main, word) for word in ("one", "two", "three")}

    loaded = {word: load_module("main.py", folder) for word, folder in folders.items()}

    for word in ("one", "three", "two", "one"):
        assert loaded[word].said() == word
        with calling("main.py:said", folders[word], source_digests("main.py", folders[word])):
            assert loaded[word].said() == word
    assert loaded["one"] is load_module("main.py", folders["one"])


@pytest.mark.parametrize("main", [HEAD, LAZY, DEEP])
def test_nothing_of_a_folder_is_left_where_others_would_find_it(main, tmp_path):
    """A library that imports ``utils`` later must not get somebody's."""
    before = list(sys.path)
    folder = written(tmp_path / "one", main, "one")

    load_module("main.py", folder).said()

    assert sys.path == before
    assert not {"utils", "parts", "parts.words", "main"} & sys.modules.keys()


def test_a_neighbour_stands_before_an_installed_module_and_only_for_its_folder(tmp_path):
    """As for a script, whose folder comes first."""
    (tmp_path / "main.py").write_text("def said():\n    import wave\n    return wave.word\n")
    (tmp_path / "wave.py").write_text("word = 'own'\n")

    assert load_module("main.py", str(tmp_path)).said() == "own"

    import wave

    assert hasattr(wave, "open")


@pytest.mark.parametrize("name", ["tasks", "flows"])
@pytest.mark.parametrize("file", ["{}.py", "{}/__init__.py"])
def test_a_neighbour_may_have_the_name_of_a_package_of_this_project(name, file, tmp_path):
    """Both are common names of people's own files; theirs is known by its digest like any."""
    ours = importlib.import_module(name)
    path = tmp_path / file.format(name)
    path.parent.mkdir(exist_ok=True)
    path.write_text("word = 'theirs'\n")
    (tmp_path / "main.py").write_text(HEAD.replace("utils", name))

    loaded = load_module("main.py", str(tmp_path))
    code = source_digests("main.py", str(tmp_path))
    with calling("main.py:said", str(tmp_path), code):
        assert loaded.said() == "theirs"

    assert set(code) == {"main.py", file.format(name)}
    assert sys.modules[name] is ours


@pytest.mark.parametrize("file", ["engine.py", "engine/__init__.py"])
def test_an_engine_of_ones_own_is_told_to_be_renamed(file, tmp_path):
    """A problem's file needs the one of this project."""
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text("def train_one_epoch(): ...\n")
    (tmp_path / "main.py").write_text("from engine import Problem, train_one_epoch\n")

    with pytest.raises(
        ConfigurationError, match=r"engine(\.py)? stands in the way of the package e"
    ):
        load_module("main.py", str(tmp_path))


def test_an_edit_before_a_late_import_is_refused(tmp_path):
    """The run's keys have the digest of what was there when it began."""
    folder = written(tmp_path / "one", LAZY, "one")
    loaded = load_module("main.py", folder)
    (tmp_path / "one" / "utils.py").write_text("word = 'new'\n")

    with pytest.raises(ConfigurationError, match=r"utils\.py was edited after"):
        loaded.said()

    assert load_module("main.py", folder).said() == "new"


def test_files_import_each_other_and_the_problem_itself(tmp_path):
    """One module each, as in a package."""
    (tmp_path / "main.py").write_text(
        "word = 'one'\n\ndef said():\n    import other\n    return other.main.word\n"
    )
    (tmp_path / "other.py").write_text("import main\n")

    loaded = load_module("main.py", str(tmp_path))
    loaded.word = "same"

    assert loaded.said() == "same"


def test_a_name_with_dots_and_hyphens_is_a_file_like_others(tmp_path):
    """People call files as they like."""
    (tmp_path / "my-run.v2.py").write_text(HEAD)
    (tmp_path / "utils.py").write_text("word = 'one'\n")

    assert load_module("my-run.v2.py", str(tmp_path)).said() == "one"


@pytest.mark.parametrize(
    ("utils", "words"),
    [
        ("import no_such_module_at_all", r"imports 'no_such_module_at_all' in line 1 of .*utils"),
        ("word = 1 / 0", r"ZeroDivisionError in line 1 of .*utils\.py"),
        ("def word(:", r"syntax error in line 1 of .*utils\.py"),
        ("other = 1", r"cannot import name 'word' from 'utils'"),
    ],
)
def test_a_neighbour_that_cannot_be_loaded_is_named_and_may_be_mended(utils, words, tmp_path):
    """The message has the neighbour's line; after an edit it is loaded anew."""
    folder = written(tmp_path / "one", HEAD, "one")
    (tmp_path / "one" / "utils.py").write_text(utils + "\n")

    with pytest.raises(ConfigurationError, match=words):
        load_module("main.py", folder)

    (tmp_path / "one" / "utils.py").write_text("word = 'mended'\n")
    assert load_module("main.py", folder).said() == "mended"
