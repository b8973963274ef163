"""The code of a problem: what is a part of it, and what is refused as an edit would go unseen."""

import sys

import pytest

from engine.errors import ConfigurationError
from engine.problems.built import build_problem
from tests.helpers.data.own_problem import own, replaced, write_problem


def test_edit_between_start_and_use_is_refused_with_the_file(tmp_path):
    """A worker, or a run that goes on, would compute with other source than the run began with."""
    recipe = own(tmp_path)
    (tmp_path / "my_helpers.py").write_text((tmp_path / "my_helpers.py").read_text() + "\n#\n")

    with pytest.raises(ConfigurationError, match=r"my_helpers\.py was edited"):
        build_problem(recipe)


def test_worker_without_the_file_says_so(tmp_path):
    """The folder of the recipe is elsewhere on another machine."""
    recipe = own(tmp_path).model_copy(update={"folder": str(tmp_path / "elsewhere")})

    with pytest.raises(ConfigurationError, match=r"no such file in .*elsewhere.*workers too"):
        build_problem(recipe)


def test_model_that_is_named_in_the_code_is_refused(tmp_path):
    """The run would not notice an edit of its file, and find stages of the old one."""
    (tmp_path / "nets.py").write_text("from torch import nn\n\nNet = nn.Linear\n")
    inside = """
    import engine
    from engine.problems.shipped import table

    def two_clouds(number: int = 40, wrong: float = 0.2) -> engine.Problem:
        return table("rows.csv", "y", model="nets.py:Net")
    """
    (tmp_path / "rows.csv").write_text("x,y\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(30)))
    recipe = own(tmp_path, inside.replace("rows.csv", str(tmp_path / "rows.csv")))

    with pytest.raises(ConfigurationError, match="would not notice an edit"):
        build_problem(recipe)


def test_neighbour_that_no_import_names_is_refused(tmp_path):
    """Its digest is in no key."""
    hidden = replaced(
        "import engine", "import engine, importlib\nimportlib.import_module('my_hidden')"
    )
    write_problem(tmp_path, hidden)
    (tmp_path / "my_hidden.py").write_text("x = 1\n")

    with pytest.raises(ConfigurationError, match=r"my_hidden\.py is loaded, but no import"):
        own(tmp_path, hidden)


def test_module_without_a_file_is_no_neighbour(tmp_path, monkeypatch):
    """Torch has some whose ``__file__`` is a bare name, as if it lay in the working folder."""
    made = replaced(
        "import engine",
        "import engine, sys, types\nsys.modules['my_made'] = types.ModuleType('my_made')\n"
        "sys.modules['my_made'].__file__ = '_made.py'",
    )
    monkeypatch.chdir(tmp_path)

    assert build_problem(own(tmp_path, made)).data.names


def test_the_program_itself_is_no_neighbour(tmp_path, monkeypatch):
    """A script beside the problem runs it, and multiprocessing gives the script a second name."""
    script = tmp_path / "train.py"
    script.write_text("")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(script), raising=False)
    monkeypatch.delitem(sys.modules, "__mp_main__", raising=False)
    second = replaced(
        "import engine",
        "import engine, sys\nsys.modules['__mp_main__'] = sys.modules['__main__']",
    )

    assert build_problem(own(tmp_path, second)).data.names


def test_problem_beside_the_project_itself_leaves_it_alone(tmp_path):
    """A newcomer begins in the clone: its packages are no neighbours, and are not loaded anew."""
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "__init__.py").write_text("raise RuntimeError('another engine')\n")

    recipe = own(tmp_path)

    assert "engine/__init__.py" not in recipe.code
    assert build_problem(recipe).data.names
