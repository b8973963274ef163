"""What may be believed and what it costs, started from the UI: what people find there."""

import pytest
from prefect.client.orchestration import get_client

from engine.errors import ConfigurationError, UntrustworthyError
from engine.preflight.verdict import Verdict
from flows import trust
from flows.descent import descent
from tests.helpers.runs.tiny_recipe import SMALL, small

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


def artifacts():
    """Return what the UI shows, by key, the newest of each."""
    with get_client(sync_client=True) as client:
        found = client.read_artifacts()
    return {each.key: each for each in sorted(found, key=lambda each: each.created)}


def test_check_shows_its_verdict_and_every_check(tmp_path):
    """As the command does, on one page; of a table, Prefect's pages cut off what a check means."""
    report = trust.check(settings=tuple(SMALL), store=str(tmp_path))

    shown = artifacts()
    assert f"digits-selection: {report.verdict.value}" in shown["check-digits-selection"].data
    page = shown["check-digits-selection"].data
    assert all(f"- {check.name}: {check.meaning()[:20]}" in page for check in report.checks)
    assert "found 0, allowed" in page


def test_check_that_refuses_ends_as_failed_and_says_why(tmp_path):
    """Nobody takes a green run for a yes."""
    rough = (*SMALL, "training.learning_rate=1e4")

    with pytest.raises(UntrustworthyError, match="cannot be trusted"):
        trust.check(settings=rough, store=str(tmp_path))

    assert Verdict.REFUSE.value in artifacts()["check-digits-selection"].data


def test_plan_shows_what_a_run_costs(tmp_path):
    """And the settings that make it so."""
    found = trust.plan(settings=tuple(SMALL), price=2.0, store=str(tmp_path))

    shown = artifacts()["plan-digits-selection"].data.replace("\\_", "_")
    assert found.schedule in shown
    assert all(f"{name}={value}" in shown for name, value in found.settings.items())
    assert "Price of the run" in shown
    assert all(each.schedule in shown for each in found.alternatives)


@pytest.mark.parametrize("setting", ["training.device=cpu", " training.device = cpu"])
def test_setting_says_more_than_the_field_of_the_device(tmp_path, setting):
    """The form has the pool's GPU in the field already."""
    found = trust.plan(settings=(*SMALL, setting), device="cuda:9", store=str(tmp_path))

    assert found.seconds.run > 0


def test_verify_keeps_a_certificate_and_shows_it(tmp_path):
    """The beginning of a run's name is enough, as in the command line."""
    record = descent(small("outer.num_steps=1"), str(tmp_path))

    name = trust.verify("digits-sel", seed=1, store=str(tmp_path))

    assert name == record.run
    assert "the seed 1 repeats it" in artifacts()[f"verify-{record.run}"].data


def test_smoothness_measures_the_recipe_that_is_named(tmp_path):
    """With its own settings of the measurement beside those of the training."""
    settings = (*SMALL, "smoothness.landscape=0")

    record = trust.smoothness(settings=settings, directions=1, store=str(tmp_path))

    assert record.recipe.smoothness.directions == 1
    assert record.recipe.smoothness.landscape == 0
    assert record.recipe.training.num_steps == 12


def test_misspelt_recipe_is_asked_about(tmp_path):
    """Where an API is used in place of the form."""
    with pytest.raises(ConfigurationError, match="Did you mean digits-selection"):
        trust.check("digits-selectoin", store=str(tmp_path))
