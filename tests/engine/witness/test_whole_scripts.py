"""Whole scripts of strangers, in every call that differentiates them, beside torch alone."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import engine
from tests.strangers.whole import (
    NETS,
    NUM_EXAMPLES,
    OUTPUTS,
    Script,
    direction,
    mean_loss,
)

SCRIPTS = {
    **{f"{net}, k-ary": (Script(net), {"arity": 2}) for net in NETS},
    **{
        f"{net}, an average, shards": (Script(net, averaged=0.8, shards=2), {"schedule": "sqrt"})
        for net in NETS
        if net != "normed"  # which refuses shards
    },
    **{
        f"{net}, repeated examples": (
            Script(net, repeats=True),
            {"schedule": "store-all", "unroll": 2},
        )
        for net in NETS
    },
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_several_outputs_and_kinds_at_once_are_right(name):
    """Weights, rates and inputs in one sweep, with groups, clipping and buffers that move."""
    script, options = SCRIPTS[name]
    z = script.point()

    found = engine.metagradients(script.routine(), OUTPUTS, **options)

    assert [each.output for each in found] == pytest.approx(script.train(z), rel=1e-9)
    for kind, value in z.items():
        way = direction(value.shape)
        along = [float((each[kind] * way).sum()) for each in found]
        assert along == pytest.approx(script.difference(z, kind, way), rel=1e-5, abs=1e-9)


def _of_weights(net):
    """Return a script, and its run with the weights alone as metaparameter."""
    script = Script(net)
    run = script.routine()
    kept = {"weights": run.metaparameters["weights"]}
    rates = [float(run.hyperparameters(run.point(), t)["learning_rate"]) for t in range(7)]
    made = engine.Routine(
        run.model,
        run.loss,
        run.examples,
        run.optimizer,
        rates,
        run.num_steps,
        run.batch_size,
        metaparameters=kept,
    )
    return script, made


@pytest.mark.parametrize("net", NETS)
def test_each_outer_step_is_right(net):
    """A descent trains and reverses one run at several values, which share what is kept of it."""
    script, run = _of_weights(net)
    way = direction(torch.Size([NUM_EXAMPLES]))

    found = engine.descend(
        run,
        mean_loss,
        outer={"num_steps": 2, "update": "SGD", "step_size": 20.0},
        replay={"steps_per_segment": 3},
        check=False,
    )

    for each in found.iterates:
        z = {**script.point(), "weights": each.value}
        assert each.scores["objective"]["loss"] == pytest.approx(script.train(z)[0], rel=1e-9)
        if each.metagradient is not None:
            wanted = script.difference(z, "weights", way)[0]
            assert float(each.metagradient @ way) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("net", NETS)
def test_one_run_in_several_threads_is_right_at_each_value(net):
    """Runs share one module and what was noted of its step, and none sees another's numbers."""
    script, run = _of_weights(net)
    way = direction(torch.Size([NUM_EXAMPLES]))
    values = [0.2 + torch.rand(NUM_EXAMPLES, dtype=torch.float64) for _ in range(3)]

    def differentiate(number):
        weights = {"weights": values[number]}
        if number:
            return engine.metagradient(run, mean_loss, weights)
        return engine.metagradient(run.with_metaparameters(weights), mean_loss)

    with ThreadPoolExecutor(len(values)) as threads:
        found = list(threads.map(differentiate, range(len(values))))

    for value, each in zip(values, found, strict=True):
        z = {**script.point(), "weights": value}
        wanted = script.difference(z, "weights", way)[0]
        assert float(each["weights"] @ way) == pytest.approx(wanted, rel=1e-5)
