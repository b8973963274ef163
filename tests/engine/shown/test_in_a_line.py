"""What a notebook shows of an object: one line that says something, and no tensors."""

import copy
import importlib
import pkgutil
import re
from collections import OrderedDict
from traceback import walk_tb

import pytest
import torch

import engine
import engine.metaparameters
from engine.shown.html import curve, pairs_html, rows_html
from tests.helpers.trainings import problems, routines


@pytest.fixture(scope="module")
def objects():
    routine = routines.routine()
    found = engine.metagradient(routine, routines.output)
    kinds = {f"{name}/{n}": k for name, of in problems.kinds().items() for n, k in of.items()}
    report = engine.check(routine, routines.output, num_directions=1)
    problem = engine.Problem(
        model=routine.model,
        loss=routines.loss,
        train={"x": torch.ones(9, 2)},
        objective=(torch.ones(4, 2),),
        metrics={"accuracy": len},
    )
    return {
        "routine": routine,
        "metagradient": found,
        "state": engine.train(routine),
        "state of a metagradient": found.state,
        "witness": found.witness,
        "optimizer": engine.averaged(engine.adamw(groups=[{"max_axes": 1}]), 0.9),
        "by step": engine.sgd(momentum=[0.9] * 1000),
        "output": engine.MeanLoss(routines.loss, routines.examples(30)),
        "report": report,
        "check": report["adjoint"],
        "problem": problem,
        **kinds,
    }


def test_everything_is_shown_in_one_line_without_tensors(objects):
    """An example weight for each of 50,000 images would fill the screen."""
    for name, each in objects.items():
        shown = repr(each)
        assert "\n" not in shown, name
        assert "tensor" not in shown, name
        assert len(shown) < 250, name
        assert shown.startswith(type(each).__name__), name


def test_a_state_is_saved_and_copied_without_its_class(objects, tmp_path):
    """Somebody else's program reads it without the engine, and without pickles of classes."""
    torch.save(objects["state"], tmp_path / "state.pt")
    for again in (
        torch.load(tmp_path / "state.pt", weights_only=True),
        copy.copy(objects["state"]),
    ):
        assert type(again) is OrderedDict
        assert all(torch.equal(again[name], row) for name, row in objects["state"].items())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("routine", ["147 parameters in float64", "96 examples", "30 steps of 16", "sgd"]),
        ("metagradient", ["weights: 96 from -0.0", "output 0.1", "loss 1.083", "witness agrees"]),
        ("state", ["params 147", "momentum 147"]),
        ("counts/counts", ["12 from 0 to 3", "injection_step 4"]),
        ("by step", ["1000 from 0.9 to 0.9"]),
        ("report", ["pass", "12 checks"]),
        ("problem", ["train 9", "objective 4", "accuracy"]),
    ],
)
def test_the_line_has_the_numbers_that_matter(objects, name, says):
    """Shapes, ranges and settings: what tells one object from another."""
    assert all(part in repr(objects[name]) for part in says), repr(objects[name])


def test_no_kind_of_metaparameter_writes_out_its_tensors():
    """A dataclass makes a representation of its own, unless it is told not to."""
    for module in pkgutil.iter_modules(engine.metaparameters.__path__):
        importlib.import_module(f"engine.metaparameters.{module.name}")
    left = [engine.Metaparameter]
    while left:
        kind = left.pop()
        left += kind.__subclasses__()
        if kind.__module__.startswith("engine."):
            assert kind.__repr__ is engine.Metaparameter.__repr__, kind


def test_a_report_is_a_table_in_a_notebook(objects):
    """With every check, and nothing of a message taken for markup."""
    table = objects["report"]._repr_html_()

    assert table.count("<tr>") == 1 + len(objects["report"].checks)
    assert str(objects["report"]).splitlines()[0] == repr(objects["report"])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("routine", ["147 parameters", "30 of 16 examples", "z: weights", "0.05"]),
        ("metagradient", ["d output / d weights", "negative", "<polyline", "Loss by step"]),
        ("problem", ["accuracy", "train", "objective"]),
    ],
)
def test_a_notebook_shows_a_table(objects, name, says):
    """What the line says and more, with curves as drawings."""
    shown = objects[name]._repr_html_()

    assert "<table>" in shown
    assert "tensor(" not in shown
    assert [each for each in says if each.lower() not in shown.lower()] == []


def test_numbers_and_names_of_checks_stay_whole(objects):
    """Beside a sentence, browsers broke ``1e-08`` and ``second-derivatives`` at their hyphens."""
    report = next(each for each in objects.values() if isinstance(each, engine.CheckReport))
    table = report._repr_html_()

    assert '<td style="text-align:left;white-space:nowrap">second-derivatives</td>' in table
    assert '<td style="text-align:right;white-space:nowrap">1e-' in table
    assert "000</td>" not in table
    assert re.search('<td style="text-align:left">[^<]*(first step|agree)', table)


def test_names_from_outside_are_no_markup():
    """A notebook would run a script that a data set or a store has for a name."""
    shown = pairs_html("<b>", {"<script>": "<i>"}, ["<u>"]) + rows_html([{"<s>": "<p>"}])

    assert not any(f"<{tag}>" in shown for tag in ("script", "i", "u", "s"))
    assert shown.count("&lt;") == 6


@pytest.mark.parametrize("values", [[], [1.0], [float("nan")] * 3, [2.0, 2.0], [0.0, 1e300]])
def test_a_curve_of_anything_is_drawn(values):
    """Runs diverge, are constant, or have one step."""
    assert "nan" not in curve(values, "loss")


def test_an_object_that_is_not_whole_is_shown_by_its_name():
    """A debugger shows what a constructor refuses; that must not be a second error."""
    class_of = {each.__name__: each for each in (engine.Routine, engine.Problem)}

    for name, each in class_of.items():
        assert repr(object.__new__(each)).startswith(f"{name}(not whole")
    with pytest.raises(engine.EngineError) as refused:
        engine.Problem(model=torch.nn.Linear(1, 1), loss=len, train=5, objective=6)
    half, *_ = (
        frame.f_locals["self"]
        for frame, _ in walk_tb(refused.value.__traceback__)
        if isinstance(frame.f_locals.get("self"), engine.Problem)
    )
    assert repr(half) == "Problem(not whole: TypeError)"
