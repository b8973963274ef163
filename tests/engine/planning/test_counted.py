"""The recipe for many GPUs: planned without its pairs, and run as a small twin of itself."""

from dataclasses import replace

import pytest
import torch

import engine
from engine.metaparameters.outer_updates import make_outer
from engine.planning.plan import plan
from engine.problems.built import build_problem
from engine.problems.pairs.images import PairBatches
from engine.recipes.files import load_recipe
from tests.helpers.data.pair_files import SMALL, shards

pytest.importorskip("PIL.Image", reason="images need the extra clip")


@pytest.fixture
def recipe(tmp_path):
    """The recipe with tiny towers, on shards that were just made."""
    pool, target = tmp_path / "pool", tmp_path / "target"
    pool.mkdir()
    target.mkdir()
    urls = [
        f"arguments.url={shards(pool, 24)}",
        f"arguments.contrastive.target_url={shards(target, 14)}",
    ]
    return load_recipe("datacomp-small", [*SMALL, *urls])


@pytest.mark.slow
def test_small_twin_moves_along_the_exact_metagradient(recipe):
    """The same code as at full size: pairs read batch by batch, embedded in pieces, exchanged."""
    problem = build_problem(recipe)
    routine = problem.routine

    found = engine.metagradient(routine, problem.output).gradient["counts"]

    assert isinstance(routine.examples, PairBatches)
    assert routine.piece == 4
    images, tokens = routine.examples[torch.arange(24)]
    held = replace(routine, examples=(images, tokens), piece=None)
    _, expected = engine.whole_run_gradient(held, problem.output)
    assert float((found - expected["counts"]).norm() / expected["counts"].norm()) < 1e-9
    moved, _ = make_outer(recipe.rule)(problem.kind.value, found, {}, 0)
    assert moved.sum() == problem.kind.value.sum() == 12
    assert not torch.equal(moved, problem.kind.value)


@pytest.mark.slow
def test_small_twin_is_planned_by_counting_where_its_pairs_are_missing(recipe, tmp_path):
    """A batch of twice the size takes twice the operations; bytes of a state are exact."""
    away = recipe.arguments | {"url": str(tmp_path / "nowhere")}
    small = recipe.model_copy(update={"arguments": away})
    training = small.training.model_copy(update={"batch_size": 12})
    large = small.model_copy(update={"training": training})

    found, twice = plan(small, str(tmp_path)), plan(large, str(tmp_path))

    assert found.note.startswith("Counted, not measured, because arguments.url is")
    assert found.reverse_steps == 2
    steps = [float(each.note.split(": ")[1].split()[0]) for each in (found, twice)]
    assert steps[1] == pytest.approx(2 * steps[0], rel=0.01)
    state = build_problem(recipe).routine.initial_state()
    state_bytes = sum(row.nbytes for row in state.values())
    assert found.peak_bytes["device"] % state_bytes == 0


def test_shipped_recipe_has_the_papers_settings():
    """ViT-B/32, batches of 4,096, 3,125 steps, injection at 2,800, a ranked exchange."""
    recipe = load_recipe("datacomp-small")

    model, training = recipe.arguments["model"], recipe.training
    sizes = [model[name] for name in ("name", "width", "depth", "patch_size")]
    assert sizes == ["vit", 768, 12, 32]
    assert (training.num_steps, training.batch_size, recipe.injection_step) == (3125, 4096, 2800)
    assert recipe.outer.update == "ranked-exchange"
