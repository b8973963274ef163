"""What a compiled pair keeps: less than the eager graph, and the numbers of the eager step."""

import pytest
import torch
from torch import nn

import engine
from engine.recipes.replay import StepPath
from engine.replay.step_costs import graph_bytes


def losses(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def run(**changes):
    """Wide layers that are cheap to compute again, and dropout, whose draws must not be."""
    torch.manual_seed(0)
    layers = [nn.Linear(8, 64), nn.GELU(), nn.Dropout(0.5), nn.LayerNorm(64), nn.Tanh()]
    return engine.Routine(
        nn.Sequential(*layers, nn.Linear(64, 3)),
        losses,
        (torch.randn(64, 8), torch.arange(64) % 3),
        engine.adamw(),
        learning_rate=1e-2,
        num_steps=3,
        batch_size=32,
        metaparameters={"w": engine.ExampleWeights(torch.ones(64))},
        path=StepPath.GRAPH,
        **changes,
    )


@pytest.mark.slow
def test_compiled_pair_keeps_less_and_draws_no_second_time():
    """Another mask in the second program would make another metagradient."""
    eager, compiled = run(), run(compile=True)

    def output(model):
        return losses(model, eager.examples).mean()

    options = {"schedule": "store-all", "unroll": 2, "witness": False}
    expected = engine.metagradient(eager, output, **options)["w"]
    found = engine.metagradient(compiled, output, **options)["w"]
    sizes = [
        graph_bytes(routine, routine.initial_state(), routine.point(), 1)
        for routine in (eager, compiled)
    ]

    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)
    assert sizes[1] < 0.8 * sizes[0]
