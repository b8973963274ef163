"""Source that lies elsewhere than beside the recipe: it is in the key, or the run is refused."""

import sys
from pathlib import Path

import pytest

from engine.errors import ConfigurationError
from engine.problems.built import build_problem
from engine.problems.identity.elsewhere import source_elsewhere
from engine.problems.identity.names import ELSEWHERE
from engine.recipes.files import load_recipe
from tests.helpers.data.own_problem import HELPERS, own, replaced, write_problem

RARE = "def scale(x):\n    return 1.0 if x < 1e9 else {}\n"
"""A function whose edit makes itself felt in no step that is tried."""


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder on the path, whose modules are forgotten afterwards."""
    folder = tmp_path / "lib"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield folder
    forget(before)


def forget(before):
    for name in set(sys.modules) - before:
        if name.startswith("far_"):
            del sys.modules[name]


def using(statement, called):
    return replaced(
        'return cross_entropy(model(batch["x"]), batch["y"], reduction="none")',
        f'return {called}(1.0) * cross_entropy(model(batch["x"]), batch["y"], reduction="none")',
    ).replace("import engine\n", f"import engine\n{statement}\n", 1)


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


LAYOUTS = {
    "a module": (using("import far_one", "far_one.scale"), {}, "far_one.py"),
    "what a module imports": (
        using("import far_two", "far_two.scale"),
        {"far_two.py": "from far_deep import scale\n"},
        "far_deep.py",
    ),
    "what a package imports relatively": (
        using("from far_pack import a", "a.scale"),
        {"far_pack/__init__.py": "", "far_pack/a.py": "from .b import scale\n"},
        "far_pack/b.py",
    ),
    "a folder without __init__.py": (
        using("import far_space.sub.m", "far_space.sub.m.scale"),
        {},
        "far_space/sub/m.py",
    ),
    "an import within the loss": (
        using("def late(x):\n    import far_late\n    return far_late.scale(x)", "late"),
        {},
        "far_late.py",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_edit_elsewhere_is_another_digest(layout, elsewhere, tmp_path):
    """An editable installation is edited as often as the problem itself."""
    problem, files, edited = LAYOUTS[layout]
    write(elsewhere, {**files, edited: RARE.format(3.0)})
    before = set(sys.modules)
    recipe = own(tmp_path / "p", problem)
    one = build_problem(recipe, anew=True)

    write(elsewhere, {edited: RARE.format(4.0)})
    forget(before)  # as in another process
    other = build_problem(recipe, anew=True)

    assert one.digests[ELSEWHERE] != other.digests[ELSEWHERE]
    assert one.digests[ELSEWHERE] in one.origin
    assert {n for n in one.digests if one.digests[n] != other.digests.get(n)} == {ELSEWHERE}


def test_edit_of_what_the_process_has_loaded_is_refused(elsewhere, tmp_path):
    """Python keeps the old module, so the key would be of source that does not run."""
    write(elsewhere, {"far_kept.py": RARE.format(3.0)})
    recipe = own(tmp_path / "p", using("import far_kept", "far_kept.scale"))
    build_problem(recipe, anew=True)

    write(elsewhere, {"far_kept.py": RARE.format(4.0)})

    with pytest.raises(ConfigurationError, match=r"far_kept\.py was edited after this process"):
        build_problem(recipe, anew=True)


def test_libraries_and_neighbours_are_not_elsewhere(tmp_path):
    """They are known by their versions, and by the digests of the recipe."""
    recipe = own(tmp_path)

    assert source_elsewhere(recipe.problem, recipe.arguments, recipe.folder) == ""
    assert ELSEWHERE not in build_problem(recipe).digests


def test_package_behind_a_link_is_a_neighbour(tmp_path):
    """Its files are imported by the names beside the recipe, wherever they lie."""
    write(tmp_path / "far", {"linked/__init__.py": "from .deep import scale\n"})
    write(tmp_path / "far", {"linked/deep.py": RARE.format(3.0)})
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "linked").symlink_to(tmp_path / "far" / "linked")

    recipe = own(tmp_path / "p", using("import linked", "linked.scale"))

    assert {"linked/__init__.py", "linked/deep.py"} <= set(recipe.code)
    assert build_problem(recipe).data.names
    write(tmp_path / "far", {"linked/deep.py": RARE.format(4.0)})
    with pytest.raises(ConfigurationError, match=r"linked/deep\.py was edited"):
        build_problem(recipe, anew=True)


def test_installed_package_that_is_edited_in_a_process_that_runs_is_refused(elsewhere, tmp_path):
    """A worker that stays would compute with what it loaded, under the key of the new source."""
    text = using("", "float").replace("from my_helpers", "from far_app.my_helpers")
    write(elsewhere, {"far_app/__init__.py": "", "far_app/clouds.py": text})
    write(elsewhere, {"far_app/my_helpers.py": HELPERS})
    path = Path(write_problem(tmp_path / "p"))
    path.write_text(path.read_text().replace("my_clouds.py:", "far_app.clouds:"))
    build_problem(load_recipe(str(path)))
    write(elsewhere, {"far_app/__init__.py": "edited = True\n"})

    with pytest.raises(ConfigurationError, match="edited or installed anew after this process"):
        build_problem(load_recipe(str(path)))


def test_package_that_another_environment_has_installed_is_a_library(tmp_path, monkeypatch):
    """Its folder is on the path of some clusters; all of torch would be read and digested."""
    there = tmp_path / "environment" / "lib" / "site-packages"
    write(there, {"far_installed.py": RARE.format(3.0)})
    monkeypatch.syspath_prepend(str(there))
    before = set(sys.modules)

    recipe = own(tmp_path / "p", using("import far_installed", "far_installed.scale"))

    assert source_elsewhere(recipe.problem, recipe.arguments, recipe.folder) == ""
    forget(before)
