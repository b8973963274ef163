"""Results that hang on what no source and no argument says: another key, never an old result."""

import json
from dataclasses import replace

import pytest
import torch

from engine import train
from engine.errors import ConfigurationError
from engine.numerics.fingerprint import fingerprint
from engine.problems.built import build_problem
from engine.problems.identity.names import BEHAVIOUR
from engine.runs.run import begin_run
from engine.stages.keys import Declaration, stage_key
from engine.stages.run import Run
from engine.stages.same_data import agrees
from engine.stages.training import initial_value
from tests.helpers.data.own_problem import own, replaced

READ = """
import functools, json, os, pickle
from pathlib import Path
from types import SimpleNamespace
HERE = Path(__file__).parent
"""
LOSS = 'return cross_entropy(model(batch["x"]), batch["y"], reduction="none")'
NET = "nn.Sequential(nn.Linear(4, width), nn.GELU(), nn.Linear(width, 2))"


SCALED = LOSS.replace("return ", "return SCALE * ")


def headed(lines, old=LOSS, new=SCALED):
    """Return the problem with lines at its head, and a number from them in it."""
    return replaced(old, new).replace("def loss(", f"{READ}{lines}\n\n\ndef loss(", 1)


FILE = "json.loads((HERE / 'number.json').read_text())"
PART = "        names=[f"
WAYS = {
    "a file at the head": headed(f"SCALE = {FILE}"),
    "a file in the loss": headed("", new=LOSS.replace("return ", f"return {FILE} * ")),
    "a variable of the environment": headed("SCALE = float(os.environ['OWN_NUMBER'])"),
    "the same in the loss": headed(
        "", new=LOSS.replace("return ", "return float(os.environ['OWN_NUMBER']) * ")
    ),
    "source that is run by exec": headed(
        "exec('def scale(): return ' + (HERE / 'number.json').read_text())",
        new=LOSS.replace("return ", "return scale() * "),
    ),
    "an attribute of an object": headed(
        f"CONFIG = SimpleNamespace(scale={FILE})",
        new=LOSS.replace("return ", "return CONFIG.scale * "),
    ),
    "an argument that a partial holds": headed(
        "def scaled(model, batch, by): return by * loss(model, batch)",
        "        loss=loss,",
        f"        loss=functools.partial(scaled, by={FILE}),",
    ),
    "an object with slots for a loss": headed(
        "class Scaled:\n    __slots__ = ('by',)\n"
        "    def __call__(self, model, batch): return self.by * loss(model, batch)\n"
        f"def made():\n    one = Scaled()\n    one.by = {FILE}\n    return one",
        "        loss=loss,",
        "        loss=made(),",
    ),
    "a function of torch that is replaced": headed(
        "import torch.nn.functional as F\nplain = F.cross_entropy\n"
        f"def cross_entropy(*a, **k): return {FILE} * plain(*a, **k)",
        LOSS,
        LOSS,
    ),
    "a share of dropout": headed("", NET, NET.replace("GELU()", f"GELU(), nn.Dropout({FILE} / 4)")),
    "a number that a module holds": headed(
        "class Times(nn.Module):\n    def __init__(self, by):\n        super().__init__()\n"
        "        self.by = by\n    def forward(self, x):\n        return self.by * x\n",
        NET,
        NET.replace("nn.GELU()", f"nn.GELU(), Times({FILE})"),
    ),
    "an augmentation": headed(
        f"def moved(batch, generator): return {{**batch, 'x': batch['x'] * {FILE}}}",
        PART,
        f"        augment=moved,\n{PART}",
    ),
    "a metric": headed(
        f"SCALE = {FILE}",
        'return (model(batch["x"]).argmax(1) == batch["y"]).double()',
        'return SCALE * (model(batch["x"]).argmax(1) == batch["y"]).double()',
    ),
    "an output": headed(
        f"SCALE = {FILE}",
        PART,
        f"        output=lambda model: SCALE * loss(model, {{'x': hx, 'y': hy}}).mean(),\n{PART}",
    ),
    "what moves a state of one's own": headed(
        "def advance(state, params, batch, step):\n"
        f"    return {{'t': {{n: {FILE} * p for n, p in params.items()}}}}\n"
        "def pulled(model, batch, state=None):\n"
        "    far = sum((p - state['t'][n]).square().sum() for n, p in model.named_parameters())\n"
        "    return loss(model, batch) + 0.1 * far",
        PART,
        "        training_loss=pulled, state={'t': lambda params: dict(params)}, "
        f"advance=advance,\n{PART}",
    ),
}


def write(folder, number, monkeypatch):
    (folder / "number.json").write_text(json.dumps(number))
    monkeypatch.setenv("OWN_NUMBER", str(number))


def key_and_results(recipe):
    """Return the key of a training, as of another process, and what it and its scores are."""
    problem = build_problem(recipe, anew=True)
    run = Run(recipe, "memory://tried")
    state = train(problem.routine, witness=False)
    bits = {name: fingerprint(row) for name, row in state.items()}
    phi = float(problem.routine.evaluate(problem.output, state).detach())
    return stage_key(Declaration("train"), run, {}), (bits, repr(problem.scores(state)), phi)


@pytest.mark.parametrize("way", WAYS)
def test_what_a_problem_reads_by_itself_is_in_the_key(way, tmp_path, monkeypatch):
    """No list of ways is complete, so what the code computes counts."""
    write(tmp_path, 1.0, monkeypatch)
    recipe = own(tmp_path, WAYS[way])
    key, results = key_and_results(recipe)
    again = key_and_results(recipe)

    write(tmp_path, 2.0, monkeypatch)
    other_key, other_results = key_and_results(recipe)

    assert again == (key, results)
    assert other_results != results  # or the test would say nothing
    assert other_key != key


def test_what_changes_no_result_changes_no_key(tmp_path, monkeypatch):
    """A clock, a counter and a log that a loss keeps are those of a process."""
    write(tmp_path, 1.0, monkeypatch)
    kept = headed(
        "import time\nBEGUN, CALLS, LOG = time.time(), 0, []\n"
        "def noted():\n    global CALLS\n    CALLS += 1\n    LOG.append(time.time() - BEGUN)\n"
        "    return 1.0",
        new=LOSS.replace("return ", "return noted() * "),
    )
    recipe = own(tmp_path, kept)

    assert key_and_results(recipe) == key_and_results(recipe)


def test_run_does_not_go_on_where_its_code_computes_something_else(tmp_path, monkeypatch):
    """It would make all of its stages again under its name, or mix two losses in one report."""
    write(tmp_path, 1.0, monkeypatch)
    recipe, store = own(tmp_path, WAYS["a file in the loss"]), str(tmp_path / "store")
    begin_run(recipe, store)
    initial_value(Run(recipe, store))

    write(tmp_path, 2.0, monkeypatch)
    build_problem(recipe, anew=True)
    with pytest.raises(ConfigurationError, match=f"other {BEHAVIOUR}. Its files are the same"):
        initial_value(Run(recipe, store))

    write(tmp_path, 1.0, monkeypatch)
    build_problem(recipe, anew=True)
    initial_value(Run(recipe, store))


def test_in_another_environment_other_bits_are_no_other_code(tmp_path):
    """Sums of another number of threads are told by the keys; the data are the same."""
    recipe, store = own(tmp_path), str(tmp_path / "store")
    begin_run(recipe, store)
    made = build_problem(recipe)
    other = replace(made, digests={**made.digests, BEHAVIOUR: "of other bits"})

    assert not agrees(store, Run(recipe, store).name, other)
    assert agrees(store, Run(recipe, store).name, replace(other, environment="of another place"))


def test_trying_leaves_generators_and_the_model_as_they_were(tmp_path, monkeypatch):
    """A notebook that builds a problem goes on with its own random numbers."""
    write(tmp_path, 1.0, monkeypatch)
    recipe = own(tmp_path, WAYS["a share of dropout"])
    before = torch.get_rng_state()

    made = build_problem(recipe, anew=True)

    assert torch.equal(torch.get_rng_state(), before)
    assert made.digests["initial parameters of the model"] == tuple(
        fingerprint(p.detach()) for p in (*made.routine.model.parameters(),)
    )


def test_file_that_cannot_be_run_twice_stays_loaded(tmp_path, monkeypatch):
    """It may register an operation of torch, which is refused the second time."""
    write(tmp_path, 1.0, monkeypatch)
    monkeypatch.delattr(torch, "own_once", raising=False)
    once = "assert not hasattr(torch, 'own_once'), 'twice'\ntorch.own_once = True\nSCALE = 1.0"
    recipe = own(tmp_path, headed(once))
    before = build_problem(recipe).digests

    assert build_problem(recipe, anew=True).digests == before
    del torch.own_once
