"""What a notebook shows of an object: one line that says something, and no tensors."""

import importlib
import pkgutil

import pytest
import torch

import engine
import engine.metaparameters
from tests import problems, routines


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


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("routine", ["147 parameters in float64", "96 examples", "30 steps of 16", "sgd"]),
        ("metagradient", ["weights: 96 from -0.0", "output 0.1", "loss 1.083", "witness agrees"]),
        ("counts/counts", ["12 from 0 to 3", "injection_step 4"]),
        ("by step", ["1000 from 0.9 to 0.9"]),
        ("report", ["pass", "11 checks"]),
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
