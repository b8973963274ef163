"""Which iterate is chosen, and what is told of the choice."""

from engine.applications.descent.figures import losses
from engine.applications.descent.iterates import choose
from engine.recipes.descent import OuterSettings
from engine.recipes.names import run_name
from engine.recipes.settings import digest
from tests.helpers.runs.made_records import make_recipe, make_record


def test_ascent_chooses_the_highest_validation_loss():
    """The strongest attack is judged on a split that it was not made on."""
    record = make_record([(0.1, 0.2, 0.2), (0.5, 0.6, 0.5), (0.9, 0.4, 0.5)])

    assert choose(record.iterates, OuterSettings(maximize=True)) == 1


def test_iterate_is_chosen_and_told_by_the_measure_that_the_recipe_names():
    """The highest accuracy of made records is at the lowest loss, so the worst tells them apart."""
    record = make_record(outer={"choose_by": "accuracy", "choose": "lowest"})

    assert record.chosen == 0
    assert make_record(outer={"choose_by": "accuracy"}).chosen == 2
    assert "lowered the validation accuracy of 55.0 %" in record.headline()
    assert record.table()[0]["validation accuracy"] == "55.0 %"
    assert "the lowest accuracy" in losses.of(record).figures[0].caption
    assert "validation accuracy" not in make_record().table()[0]


def test_run_that_names_no_measure_has_the_name_that_it_always_had():
    """Stores hold runs under names that were made before there was a choice."""
    plain = make_recipe()
    before = plain.model_dump(mode="json", exclude={"budget", "workers", "preflight", "folder"})
    del before["replay"]["micro_batch"], before["outer"]["choose_by"], before["outer"]["choose"]

    assert run_name(plain) == f"small-{digest(before)[:8]}"
    by_accuracy = make_recipe(outer={"choose_by": "accuracy"})
    assert run_name(by_accuracy) not in (
        run_name(plain),
        run_name(make_recipe(outer={"choose": "highest"})),
    )
