"""The version of the engine: which files count in the keys of which stages."""

from pathlib import Path

import grimp
import pytest

from engine.applications.attribution import stages as attribution
from engine.applications.canaries import stages as canaries
from engine.recipes.files import load_recipe
from engine.stages import keys, training
from engine.stages.run import Run

RECIPE = load_recipe("digits-selection")


def test_changed_source_file_is_another_version(monkeypatch):
    """A file that is added to the engine counts until somebody leaves it out by its path."""
    real = Path.read_text
    before = keys.engine_version()

    def other(path, *arguments, **options):
        text = real(path, *arguments, **options)
        return text + "#" if path.name == "optimizers.py" else text

    keys.engine_version.cache_clear()
    monkeypatch.setattr(Path, "read_text", other)
    after = keys.engine_version()
    keys.engine_version.cache_clear()

    assert after != before


def test_every_file_is_in_the_version_or_apart_for_a_reason():
    """A path that is left of a file that has moved would leave out another one some day."""
    root = Path(keys.__file__).parents[1]
    every = {path.relative_to(root).as_posix() for path in root.rglob("*.py")}

    counted = set(keys.computing_files())

    assert counted | {name for name in every if keys.is_apart(name)} == every
    assert {"step/step.py", "storage/states.py", "stages/commits.py"} <= counted
    for each, reason in keys.APART.items():
        assert (root / each).exists(), each
        assert reason


def module_of(name):
    """Return what a file is imported as, by its path in the engine's folder."""
    return ".".join(["engine", *Path(name).with_suffix("").parts]).removesuffix(".__init__")


READS_APART = {
    ("stages.run", "recipes.names"),  # a claim is filed under the run's name
    ("stages.run", "storage.places"),  # and lies there; so
    ("stages.commits", "storage.places"),  # do the stages, and
    ("stages.stage_records", "storage.places"),  # their records
    ("problems.kept_code", "storage.places"),  # source lies there that has its digests
    ("stages.same_data", "storage.places"),  # as what a run began with, which stops it or not
    ("stages.commits", "stages.lease"),  # who works on a stage does not change what it makes
    ("stages.training", "planning.plan"),  # all schedules make the same bits, and
    ("stages.run", "planning.plan"),  # a product that a plan has chosen is in the key
    # What a step writes on a meter is read by nobody who computes; so is what is at work.
    *((name, "progress.meter") for name in ("replay.interpreter", "replay.plain_training")),
    *(
        (name, "progress.meter")
        for name in ("replay.batched", "stages.training", "replay.step_costs", "stages.ahead")
    ),
    *((name, "progress.meter") for name in ("preflight.checkup", "problems.built")),
    ("replay.training", "progress.meter"),
    *(
        (who, f"progress.{name}")
        for who in (
            *("replay.metagradient", "replay.training"),
            *("preflight.checkup", "preflight.oracle"),
        )
        for name in ("board", "counted", "displays")
    ),
    # A metagradient draws itself after it was computed.
    *(("replay.metagradient", f"reports.{name}") for name in ("derivative", "shown_figures")),
}
APPLICATIONS = ["attribution", "canaries", "comparisons", "descent", "smoothness"]


@pytest.mark.parametrize("application", [None, "", *APPLICATIONS])
def test_nothing_that_computes_imports_what_is_not_in_its_version(application):
    """What a file imports can change what it makes, so that has to be in the version as well."""
    graph = grimp.build_graph("engine", exclude_type_checking_imports=True)
    counted = {module_of(name) for name in keys.computing_files(application)}

    found = {
        (importer.removeprefix("engine."), imported.removeprefix("engine."))
        for importer in graph.modules & counted
        for imported in graph.find_modules_directly_imported_by(importer) - counted
    }

    assert found == READS_APART


def test_every_application_is_looked_at():
    """A new one is compared as the others are."""
    folders = (Path(keys.__file__).parents[1] / "applications").iterdir()

    names = sorted(each.name for each in folders if (each / "__init__.py").exists())
    names.remove("made_again")  # what certificates of several applications share
    assert names == APPLICATIONS


def test_an_edit_to_one_application_is_nothing_to_the_stages_of_another(monkeypatch):
    """A corrected canary must not throw away every trained state of every store."""
    names = [None, "", *APPLICATIONS]
    real, before = Path.read_text, {name: keys.engine_version(name) for name in names}
    stages = [training.initial_value, attribution.trial, canaries.move_canaries]
    own = [keys.stage_key(each.declared, Run(RECIPE, ""), {}) for each in stages]

    def other(path, *arguments, **options):
        text = real(path, *arguments, **options)
        return text + "#" if path.match("applications/canaries/canaries.py") else text

    monkeypatch.setattr(Path, "read_text", other)
    keys.engine_version.cache_clear()
    after = {name: keys.engine_version(name) for name in names}
    now = [keys.stage_key(each.declared, Run(RECIPE, ""), {}) for each in stages]
    keys.engine_version.cache_clear()

    assert [one == other for one, other in zip(own, now, strict=True)] == [True, True, False]
    assert {name for name in names if after[name] != before[name]} == {None, "canaries"}
