"""Rates, weights and batches at the edges of what they may be, under every way to reverse a run.

The reference is a loop of torch's own: the module is trained in place, twice, on either side.
"""

import pytest
import torch

import engine
from engine.routine.batch_order import Order
from tests.strangers.plain import NUM_EXAMPLES, data, direction, loss, mlp

ONES = torch.ones(NUM_EXAMPLES, dtype=torch.float64)
ALTERNATING = ONES.clone()
ALTERNATING[::2] = -1
PLAIN = {"weights": ONES, "rate": 0.3, "steps": 6, "batch": 8}
EDGES = {
    "a rate of zero": {"rate": 0.0},
    "a rate of zero at first and at last": {"rate": [0.0, 0.1, 0.3, 0.3, 0.1, 0.0]},
    "a rate of next to nothing": {"rate": 1e-9},
    "a rate that leaps": {"rate": 4.0},
    "no weight at all": {"weights": 0 * ONES},
    "one weight alone": {"weights": torch.eye(NUM_EXAMPLES, dtype=torch.float64)[0]},
    "weights of both signs": {"weights": ALTERNATING},
    "weights of a thousand": {"weights": 1e3 * ONES, "rate": 3e-4},
    "weights of a millionth": {"weights": 1e-6 * ONES},
    "batches of one": {"batch": 1},
    "batches of all": {"batch": NUM_EXAMPLES},
    "batches that do not divide the examples": {"batch": 7, "steps": 8},
    "one step": {"steps": 1},
    "one example in one step": {"batch": 1, "steps": 1},
    "more steps than examples": {"batch": 5, "steps": 30, "rate": 0.1},
}
WAYS = {
    "k-ary": {"arity": 2},
    "all states, unrolled": {"schedule": "store-all", "unroll": 2},
    "by roots": {"schedule": "sqrt"},
    "forward over reverse": {"vjp": "forward-over-reverse"},
    "few examples at a time": {"micro_batch": 3},
}


def _differences(weights, rate, steps, batch):
    """Return the derivative of the output along a direction, by two trainings, and the output."""
    order = Order(torch.ones(NUM_EXAMPLES, dtype=torch.int64), batch, 0)
    held = tuple(column[NUM_EXAMPLES:] for column in data())
    inputs, labels = data()

    def phi(shift):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = mlp()
        moved, optimizer = weights + shift * direction(), torch.optim.SGD(net.parameters(), 1.0)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = rate if isinstance(rate, float) else rate[step]
            rows = order.batch(step)
            optimizer.zero_grad()
            (moved[rows] * loss(net, (inputs[rows], labels[rows]))).sum().div(batch).backward()
            optimizer.step()
        with torch.no_grad():
            return float(loss(net, held).mean())

    distance = 1e-5 * max(1.0, float(weights.abs().max()))
    return (phi(distance) - phi(-distance)) / (2 * distance), phi(0.0)


@pytest.mark.parametrize("edge", EDGES)
def test_every_way_to_reverse_is_right_at_the_edges(edge):
    """Where a weight, a rate or a batch is nothing, one or all, formulas lose a case."""
    given = PLAIN | EDGES[edge]
    wanted, value = _differences(**given)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = mlp()
    routine = engine.Routine(
        net,
        loss,
        tuple(column[:NUM_EXAMPLES] for column in data()),
        engine.sgd(),
        learning_rate=given["rate"],
        num_steps=given["steps"],
        batch_size=given["batch"],
        metaparameters={"weights": engine.ExampleWeights(given["weights"])},
    )
    held = tuple(column[NUM_EXAMPLES:] for column in data())

    for way, options in WAYS.items():
        found = engine.metagradient(routine, lambda model: loss(model, held).mean(), **options)
        assert found.output == pytest.approx(value, rel=1e-9), way
        along = float(found["weights"] @ direction())
        assert along == pytest.approx(wanted, rel=1e-5, abs=1e-11), way
