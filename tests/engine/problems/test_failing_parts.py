"""A part of a problem that raises is named, with its line, before anything is trained."""

import pytest

from engine.errors import EngineError
from engine.stages.run import Run
from engine.stages.training import prepare
from tests.helpers.data.own_problem import own, replaced

_END = '        groups={"cloud": y.tolist()},\n'
_NO_RATES = ["training={num_steps: 6, batch_size: 10, threads: 1}"]

FAILING = {
    "a part of another name": (
        "train={",
        "examples={",
        "made of model, loss, train, objective, and",
    ),
    "a model": ("model=net", "model=lambda seed: 1 / 0", "for its model raised ZeroDivisionError"),
    "a class for a model": ("model=net", "model=nn.Identity", "is the class Identity"),
    "an optimizer": (_END, f"{_END}optimizer=lambda num_steps: 1 / 0,\n", "for its optimizer or"),
    "an update": (
        _END,
        f"{_END}optimizer=engine.Optimizer('mine', {{}}, lambda params: {{}}, "
        "lambda state, gradient, hyper, step: {'params': gradient * hyper['momentum']}),\n",
        r"update of optimizer 'mine' fails at step 0 \(KeyError: 'momentum'\), at .*my_clouds",
    ),
    "an update that forgets": (
        _END,
        f"{_END}optimizer=engine.Optimizer('mine', {{}}, lambda params: {{'v': params}}, "
        "lambda state, gradient, hyper, step: {'params': state['params'][1:] + gradient[1:]}),\n",
        r"'mine' maps params \(37,\), v \(37,\) to params \(36,\) at step 0",
    ),
    "rates": (_END, f"{_END}learning_rate=lambda num_steps: 1 / 0,\n", "or its learning rates"),
    "an order": (_END, f"{_END}order=lambda step: 1 / 0,\n", "of step 0 raised ZeroDivisionError"),
    "a state that moves": (
        _END,
        f"{_END}state={{'a': x}}, advance=lambda state, params, batch, step: 1 / 0,\n",
        "advance fails after step 0",
    ),
    "validation": (
        _END,
        f"{_END}validation={{'x': hx[:, :3], 'y': hy}}, test={{'x': hx, 'y': hy}},\n",
        "The loss fails on validation",
    ),
    "test": (
        _END,
        f"{_END}validation={{'x': hx, 'y': hy}}, test={{'x': hx[:, :3], 'y': hy}},\n",
        "The loss fails on test",
    ),
}


@pytest.mark.parametrize("what", FAILING)
def test_part_that_fails_is_named_before_the_training(tmp_path, what):
    """Each was an error that nobody had foreseen, and the last one came after the training."""
    old, new, words = FAILING[what]
    changes = []
    if "learning_rate" in new:
        changes = _NO_RATES
    if "optimizer=" in new:
        changes = ["optimizer={}"]

    recipe = own(tmp_path, replaced(old, new), changes)
    with pytest.raises(EngineError, match=words):
        prepare(Run(recipe, str(tmp_path / "store")))


def test_function_that_mixes_number_formats_is_told_which_one_the_run_has(tmp_path):
    """A teacher that it trains on data of its own format fails in float64 alone, as in a test."""
    text = replaced("    return engine.", "    net(x.float())\n    return engine.")
    changes = ["training.dtype=float64"]

    with pytest.raises(EngineError, match=r"torch.float64.*get_default_dtype\(\)"):
        prepare(Run(own(tmp_path, text, changes), str(tmp_path / "store")))
