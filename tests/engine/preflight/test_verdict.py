"""Verdicts: the worst counts, the gate stops what is refused, and all of it is JSON."""

import json

import pytest

from engine.errors import UntrustworthyError
from engine.preflight.verdict import Check, CheckReport, Verdict
from engine.recipes.execution import PreflightMode


def one(verdict, name="replay", **changes):
    settings = {"value": 1.0, "limit": 0.0, "cause": f"{name} failed.", "remedy": "Set x to y."}
    return Check(name=name, verdict=verdict, **(settings | changes))


@pytest.mark.parametrize(
    ("verdicts", "worst"),
    [
        ([], Verdict.PASS),
        ([Verdict.PASS, Verdict.PASS], Verdict.PASS),
        ([Verdict.PASS, Verdict.WARN], Verdict.WARN),
        ([Verdict.REFUSE, Verdict.WARN, Verdict.PASS], Verdict.REFUSE),
    ],
)
def test_the_worst_check_is_the_verdict(verdicts, worst):
    """One broken thing spoils a metagradient, however many others are sound."""
    assert CheckReport.of([one(verdict) for verdict in verdicts]).verdict is worst


def test_enforce_stops_a_refused_run_with_cause_and_remedy():
    """The message says what was found, what to change, and how to run it all the same."""
    report = CheckReport.of([one(Verdict.WARN, "dropout"), one(Verdict.REFUSE, "adjoint")])

    with pytest.raises(UntrustworthyError) as caught:
        report.gate(PreflightMode.ENFORCE)

    message = str(caught.value)
    assert "adjoint: adjoint failed. Set x to y." in message
    assert "preflight=advise" in message
    assert "dropout" not in message


def test_advise_lets_a_refused_run_go_and_says_so():
    """Advisory is never silent: the same sentences come back, worst first."""
    report = CheckReport.of([one(Verdict.WARN, "dropout"), one(Verdict.REFUSE, "adjoint")])

    said = report.gate(PreflightMode.ADVISE)

    assert [sentence.split(":")[0] for sentence in said] == ["adjoint", "dropout"]


def test_remedies_name_settings_that_the_recipe_has_and_that_are_read():
    """Somebody's own problem has no arguments.model, and may have rates of its own."""
    asked = ("arguments.model.activation", "arguments.model.scale", "training.learning_rate")
    report = CheckReport.of([one(Verdict.WARN, settings=(*asked, "optimizer.eps_root"))])
    rest = {"training": {"learning_rate": 0.1}, "optimizer": {"eps_root": 0}}

    shipped = report.for_recipe({"arguments": {"model": {"activation": "relu"}}} | rest, ())
    own = report.for_recipe({"arguments": {"model": "mine.py:Net"}} | rest, ())
    trained = report.for_recipe({"arguments": {}} | rest, {"training.learning_rate", "optimizer"})

    assert shipped.checks[0].settings == (asked[0], asked[2], "optimizer.eps_root")
    assert own.checks[0].settings == (asked[2], "optimizer.eps_root")
    assert trained.checks[0].settings == ()
    assert trained.verdict is Verdict.WARN


def test_an_empty_setting_is_one_that_the_recipe_has():
    """What is none by default may be set."""
    report = CheckReport.of([one(Verdict.WARN, settings=("training.threads",))])

    kept = report.for_recipe({"training": {"threads": None}}, ())

    assert kept.checks[0].settings == ("training.threads",)


@pytest.mark.parametrize("mode", PreflightMode)
def test_a_warning_stops_nothing_in_either_mode(mode):
    """A warning is for the reader."""
    assert CheckReport.of([one(Verdict.WARN)]).gate(mode) == ["replay: replay failed. Set x to y."]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_a_figure_that_is_no_number_is_none_in_json(value):
    """JSON has no NaN; other programs would fail to read it."""
    report = CheckReport.of([one(Verdict.REFUSE, value=value)])

    content = json.loads(report.model_dump_json())

    assert content["checks"][0]["value"] is None
    assert CheckReport.model_validate(content) == report


def test_json_has_the_fields_that_programs_read():
    """Their names are the interface of ``mgd check --json``."""
    content = CheckReport.of([one(Verdict.PASS)]).model_dump(mode="json")

    assert content.keys() == {"verdict", "checks"}
    assert content["verdict"] == "pass"
    assert content["checks"][0].keys() == {
        "name",
        "verdict",
        "value",
        "limit",
        "cause",
        "remedy",
        "settings",
    }
