"""What people write in a problem's file, and what they are told before anything is computed."""

import sys
from pathlib import Path

import pytest

from engine.errors import ConfigurationError, EngineError
from engine.problems.built import build_problem, check_repeats
from engine.recipes.code import user_code
from engine.recipes.files import load_recipe
from tests.helpers.data.own_problem import PROBLEM, own, replaced, write_problem

SIGNATURE = "def two_clouds(number: int = 40, wrong: float = 0.2, width: int = 5)"


def taking(parameter):
    return replaced(SIGNATURE, SIGNATURE.replace("width: int = 5", f"width: int = 5, {parameter}"))


WRONG = {
    "tensor": (taking("thing=torch.ones(3)"), "thing of two_clouds is Tensor, which no recipe can"),
    "class": (taking("act=nn.GELU"), "act of two_clouds is the class GELU, which no recipe"),
    "reserved": (taking("model_config: int = 3"), "takes model_config, a name that settings have"),
    "reserved method": (taking("model_dump: int = 3"), "takes model_dump, a name that settings"),
    "private": (taking("_private: int = 3"), "takes _private, .* without _ at its beginning"),
    "folder moved": (
        replaced("import engine", "import os\nimport engine\nos.chdir('/')"),
        r"my_clouds.py calls os.chdir and moves the process to /, .*with_name",
    ),
    "folder moved inside": (
        replaced("    net =", "    import os\n    os.chdir('/')\n    net ="),
        "The function of problem .* calls os.chdir",
    ),
    "notebook": ("get_ipython().run_line_magic('x', '')\n" + PROBLEM, "file was a notebook: leave"),
    "magic": ("%matplotlib inline\n" + PROBLEM, "Leave %matplotlib out, which only notebooks"),
}  # fmt: skip


@pytest.mark.parametrize(("problem", "words"), WRONG.values(), ids=WRONG)
def test_each_is_one_message_that_says_what_to_do(problem, words, tmp_path):
    """And the process is where it was."""
    before = Path.cwd()

    with pytest.raises(EngineError, match=words):
        build_problem(own(tmp_path, problem))

    assert Path.cwd() == before


def test_file_in_the_way_of_a_package_is_told_to_be_renamed(tmp_path):
    """Python itself says that something cannot be imported, most likely due to a circle."""
    path = Path(write_problem(tmp_path))
    (tmp_path / "torch.py").write_text("x = 1\n")

    with pytest.raises(ConfigurationError, match=r"torch.py stands in the way of the package tor"):
        load_recipe(str(path))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("driver.py", "x = 1\n"),
        ("driver.py", "raise RuntimeError('trains')\n"),
        ("driver.py", "import sys\nsys.exit(3)\n"),
        ("driver/__init__.py", "x = 1\n"),
    ],
)
def test_file_that_a_library_asks_for_is_told_to_be_renamed(file, text, tmp_path, monkeypatch):
    """Nobody imports it by name in the problem's files, and nothing is wrong in it."""
    folder, library = tmp_path / "mine", tmp_path / "site-packages" / "asking"
    path = write_problem(folder, f"import asking\n{PROBLEM}")
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text(text)
    library.mkdir(parents=True)
    monkeypatch.delitem(sys.modules, "asking", raising=False)
    (library / "__init__.py").write_text("import driver\n")
    monkeypatch.syspath_prepend(str(library.parent))
    monkeypatch.setattr(user_code, "_LIBRARIES", (*user_code._LIBRARIES, str(library.parent)))

    with pytest.raises(ConfigurationError, match=r"driver.* in the way of .* package asking asks"):
        load_recipe(path)


@pytest.mark.parametrize("name", ["copy", "json", "dict", "schema", "training", "kind", "self"])
def test_parameter_of_any_other_name_is_an_argument(name, tmp_path, recwarn):
    """Also one that is called like a method of the settings, or like a setting."""
    problem = taking(f"{name}: int = 3").replace(
        "    generator =", f"    assert {name} == 4\n    generator ="
    )

    recipe = own(tmp_path, problem, changes=[f"arguments.{name}=4"])
    build_problem(recipe)

    assert recipe.arguments[name] == 4
    assert not [each for each in recwarn if "shadows" in str(each.message)]


def test_text_with_a_colon_is_no_code_unless_it_looks_like_it(tmp_path):
    """A model of another library has a version behind a colon."""
    recipe = own(tmp_path, taking("model: str = 'x'"), changes=["arguments.model=org/name-7b:v1"])

    assert recipe.arguments["model"] == "org/name-7b:v1"
    build_problem(recipe)
    with pytest.raises(ConfigurationError, match="There is no package 'nowhere'"):
        own(tmp_path, taking("model: str = 'x'"), changes=["arguments.model=nowhere:Net"])


DRAWS = """
class Noisy(torch.utils.data.Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, place):
        return {"x": self.x[place] + torch.randn(4), "y": self.y[place]}


def loss"""


def test_data_set_that_draws_when_it_is_read_is_told_apart_from_an_unseeded_function(tmp_path):
    """Augmentation stands in data sets, where a step that is run again would draw once more."""
    problem = replaced('train={"x": x, "y": y}', "train=Noisy(x, y)")
    recipe = own(tmp_path, problem.replace("def loss", DRAWS.strip("\n"), 1))

    with pytest.raises(ConfigurationError, match=r"examples of train .*augment\(batch, generator"):
        check_repeats(recipe)


def test_copies_between_held_out_splits_are_said(tmp_path):
    """The iterate would be chosen by what it was moved by."""
    problem = replaced(
        'objective={"x": hx, "y": hy}',
        'objective={"x": hx, "y": hy}, validation={"x": hx, "y": hy}',
    )

    notes = build_problem(own(tmp_path, problem)).notes

    assert any("of 60 validation examples are objective examples too, so the iterate is" in each
               for each in notes)  # fmt: skip
