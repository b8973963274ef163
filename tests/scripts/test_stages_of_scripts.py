"""Scripts as stages of a run: cut into segments, each in a process of its own, and tried before."""

import sys

import pytest
import torch

from engine import metagradient
from engine.preflight.checkup import checked
from engine.preflight.verdict import Verdict
from engine.problems import built
from engine.problems.built import build_problem
from engine.routine.own_state import OWN
from engine.stages import stage
from engine.stages import training as stages
from engine.stages.commits import read_rows
from engine.stages.run import Run
from tests.helpers.runs.tiny_stages import reverse_all, train_all
from tests.scripts.folders import EACH, HERE, draw_pictures, recipe_of, script_of


def forget():
    """What another process would not know: problems that were built, modules of their folders."""
    built._build.cache_clear()
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(HERE)) and "tests" not in name:
            del sys.modules[name]


@pytest.fixture
def each_stage_alone(monkeypatch):
    """Let every stage build the problem anew."""
    run_stage = stage.run_stage

    def alone(declared, run, *given, **named):
        forget()
        vars(run).pop("problem", None)
        return run_stage(declared, run, *given, **named)

    monkeypatch.setattr(stage, "run_stage", alone)


@pytest.mark.parametrize("name", EACH)
@pytest.mark.usefixtures("each_stage_alone")
def test_segments_in_processes_of_their_own_give_the_same_bits(name, tmp_path):
    """Order, rates, moments and a state of one's own are at every border what they were."""
    draw_pictures(script_of(name), tmp_path / "pictures")
    recipe, store = recipe_of(name, tmp_path / "pictures"), str(tmp_path / "store")
    stages.prepare(Run(recipe, store))

    value = stages.initial_value(Run(recipe, store))
    borders = train_all(recipe, store, value)
    adjoint = reverse_all(recipe, store, value, borders)

    built = build_problem(recipe)
    whole = metagradient(built.routine, built.output, schedule="store-all")
    rows = read_rows(store, adjoint)
    ((kind, gradient),) = whole.gradient.items()
    assert len(borders) > 2
    assert torch.equal(rows[f"metagradient_{kind}"], gradient.reshape(-1))
    final = read_rows(store, borders[-1])
    assert final.keys() == whole.state.keys()
    assert all(torch.equal(final[part], whole.state[part]) for part in final)
    assert (OWN in final) == (name in ("codebook", "qlearning", "recurrent", "teacher", "vae"))


SAID = {"metasmoothness"}
"""What the preflight has against some of the scripts: torch's Adam, and ReLU at a large rate."""

GROWS = {"simclr"}
"""Whose adjoint grows in the ten steps: two views of few pictures, at a low temperature."""


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH)
def test_preflight_tries_all_parts_of_a_script(name, tmp_path):
    """Its twins are shorter and in another format, and read the same order, rates and state."""
    draw_pictures(script_of(name), tmp_path / "pictures")
    recipe = recipe_of(name, tmp_path / "pictures")
    built = build_problem(recipe)

    report = checked(built.routine, built.output, recipe.replay)

    found = {check.name: check.cause for check in report.checks if check.verdict != Verdict.PASS}
    assert found.keys() <= SAID | ({"adjoint"} if name in GROWS else set()), found
