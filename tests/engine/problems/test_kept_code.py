"""Source of a problem in the store: only where a start asks for it, and only the very bits."""

import json
import shutil
from pathlib import Path

import pytest

from engine.errors import ConfigurationError
from engine.problems.built import _build, build_problem
from engine.problems.kept_code import at_hand, code_key, keep_code
from engine.recipes.code.sources import digest_of
from engine.recipes.descent import DescentRecipe
from engine.recipes.files import changed, load_recipe
from engine.runs.run import begin_run, read_recipe
from engine.schedules.segments import Segment
from engine.stages.run import Run
from engine.stages.training import initial_value, train_segment
from engine.storage.places import kept_code_url
from tests.helpers.data.own_problem import write_problem

FROM_STORE = ["workers.code=store"]


@pytest.fixture
def begun(tmp_path):
    """A run that keeps its source in the store; recipe, store and folder of the source."""
    folder, store = tmp_path / "mine", str(tmp_path / "store")
    recipe = load_recipe(write_problem(folder), FROM_STORE)
    begin_run(recipe, store)
    return recipe, store, folder


def document(store):
    (found,) = Path(store, "code").iterdir()
    return found


def test_worker_without_the_files_makes_the_bits_of_one_that_has_them(begun):
    """Keys and content are the same, so what one has made the other finds."""
    recipe, store, folder = begun
    here = Run(recipe, store)
    value = initial_value(here)
    expected = train_segment(here, Segment(start=0, stop=3), value, None)
    shutil.rmtree(folder)  # as on another machine, whose recipe comes as JSON
    sent = DescentRecipe.model_validate_json(recipe.model_dump_json())

    elsewhere = Run(sent, f"{store}-2")
    shutil.copytree(Path(store, "code"), Path(elsewhere.store, "code"))
    made = train_segment(elsewhere, Segment(start=0, stop=3), initial_value(elsewhere), None)

    assert made == expected
    assert Path(at_hand(sent, store).folder, "my_helpers.py").is_file()


def test_without_being_asked_nothing_is_kept_and_nothing_taken(tmp_path, begun):
    """Off by default: whoever can write to a store must not get code run by being there."""
    recipe, store, folder = begun
    plain = load_recipe(str(folder / "clouds.yaml"))
    begin_run(plain, str(tmp_path / "other"))
    shutil.rmtree(folder)
    _build.cache_clear()  # as another process, which has built nothing

    assert not (tmp_path / "other" / "code").exists()
    with pytest.raises(ConfigurationError, match="there is no such file"):
        build_problem(plain, store)


def test_no_store_can_ask_for_it(begun):
    """It is a setting of a start: what a store holds of it is not read."""
    recipe, store, folder = begun
    (run,) = Path(store, "runs").iterdir()
    file = run / "recipe.json"
    content = json.loads(file.read_text())
    assert "workers" not in content
    file.write_text(json.dumps({**content, "workers": {"code": "store"}}))
    shutil.rmtree(folder)

    read = read_recipe(store, run.name)

    assert read.workers == DescentRecipe(name="x").workers
    with pytest.raises(ConfigurationError, match="there is no such file"):
        Run(read, store).problem  # noqa: B018 (it is made when it is asked for)


@pytest.mark.parametrize("name", ["my_clouds.py", "my_helpers.py"])
def test_source_that_was_changed_in_the_store_is_not_run(begun, name, tmp_path):
    """Not a line of it: a neighbour that is imported counts as the file itself."""
    recipe, store, folder = begun
    file = document(store)
    content = json.loads(file.read_text())
    content["files"][name] = f"open({str(tmp_path / 'ran')!r}, 'w')\n" + content["files"][name]
    file.write_text(json.dumps(content))
    shutil.rmtree(folder)

    with pytest.raises(ConfigurationError, match=rf"{name} has another content.*none of it is run"):
        build_problem(recipe, store)
    assert not (tmp_path / "ran").exists()


def test_other_files_of_the_document_are_not_written(begun, tmp_path):
    """A name that leads out of the folder would write anywhere that the user may."""
    recipe, store, folder = begun
    outside = tmp_path / "evil.py"
    file = document(store)
    content = json.loads(file.read_text())
    content["files"] |= {"../../evil.py": "", str(outside): "", "torch.py": ""}
    file.write_text(json.dumps(content))
    shutil.rmtree(folder)

    unpacked = Path(at_hand(recipe, store).folder)

    assert {each.name for each in unpacked.iterdir()} == {"my_clouds.py", "my_helpers.py"}
    assert unpacked.stat().st_mode & 0o077 == 0
    assert not outside.exists()


@pytest.mark.parametrize("held", [[], {"my_clouds.py": 3}, None, {}])
def test_damaged_document_is_refused_in_one_message(begun, held):
    """Whatever JSON it is."""
    recipe, store, folder = begun
    document(store).write_text(json.dumps({"files": held}))
    shutil.rmtree(folder)

    with pytest.raises(ConfigurationError, match="is not that of the run"):
        build_problem(recipe, store)


def test_empty_file_that_is_not_in_the_document_is_refused(tmp_path):
    """Its digest is that of no bytes at all."""
    recipe = DescentRecipe(name="x", problem="mine.py:f", code={"__init__.py": digest_of(b"")})
    recipe = changed(recipe, FROM_STORE)
    (tmp_path / "code").mkdir()
    Path(kept_code_url(str(tmp_path), code_key(recipe.code))).write_text('{"files": {}}')

    with pytest.raises(ConfigurationError, match="__init__.py has another content"):
        at_hand(recipe, str(tmp_path))


@pytest.mark.slow
def test_long_source_in_another_alphabet_comes_back(begun, tmp_path):
    """JSON writes six signs for each byte of it."""
    recipe, _, folder = begun
    file = folder / "my_clouds.py"
    file.write_text(f"{file.read_text()}\n# {'я' * (3 << 20)}\n")
    recipe = load_recipe(str(folder / "clouds.yaml"), FROM_STORE)
    store = str(tmp_path / "other")
    keep_code(recipe, store)
    content = file.read_bytes()
    shutil.rmtree(folder)

    assert Path(at_hand(recipe, store).folder, "my_clouds.py").read_bytes() == content


def test_source_that_is_nowhere_is_told(begun):
    """With what to do: the start has to be where the files are."""
    recipe, store, folder = begun
    document(store).unlink()
    shutil.rmtree(folder)

    with pytest.raises(ConfigurationError, match="not at .*Start the run where the files are"):
        build_problem(recipe, store)


def test_file_above_the_recipe_is_not_kept(tmp_path):
    """Its place on another machine would be outside of any folder that is ours."""
    (tmp_path / "inner").mkdir()
    path = Path(write_problem(tmp_path))
    recipe = path.read_text().replace("my_clouds.py", "../my_clouds.py")
    inner = tmp_path / "inner" / "clouds.yaml"
    inner.write_text(recipe)

    with pytest.raises(ConfigurationError, match="lies outside of the recipe's folder"):
        keep_code(load_recipe(str(inner), FROM_STORE), str(tmp_path / "store"))


def test_edited_source_beside_the_recipe_gives_way_to_that_of_the_run(begun):
    """A run that goes on computes with what it began with, if its start asks for that."""
    recipe, store, folder = begun
    (folder / "my_helpers.py").write_text("raise SystemExit('edited')\n")
    _build.cache_clear()  # as another process, which has built nothing

    assert len(build_problem(recipe, store).routine) == 40
    with pytest.raises(ConfigurationError, match="my_helpers.py was edited"):
        build_problem(recipe)
