"""Many runs as one batched run, against the same runs one by one."""

import pytest
import torch
from torch import nn

import engine
from engine.errors import ConfigurationError, NonFiniteError, WitnessError
from engine.replay.batched import evaluate_each, train_each, train_many
from engine.replay.plain_training import train_unchecked
from tests.helpers.trainings import problems


def smooth_routine(optimizer="adamw", kind="all", **changes):
    """The shared problem without dropout, whose masks a batched run may not draw as the loop."""
    model = problems.model()
    model[2] = nn.Dropout(0.0)
    return problems.routine(optimizer, kind, model=model, **changes)


def points_around(routine, count=3):
    """Points of several runs, each off the routine's own."""
    drawn = torch.Generator().manual_seed(2)
    return [
        {
            name: row + 0.2 * torch.rand(row.shape, generator=drawn, dtype=row.dtype)
            for name, row in routine.point().items()
        }
        for _ in range(count)
    ]


def worst_error(found, expected):
    return max(
        float((found[name] - expected[name]).norm() / expected[name].norm()) for name in expected
    )


@pytest.mark.parametrize(
    ("optimizer", "kind"),
    [
        *((optimizer, "all") for optimizer in problems.OPTIMIZERS),
        *(("adamw", kind) for kind in problems.kinds() if kind != "all"),
    ],
)
def test_batched_runs_equal_the_runs_one_by_one(optimizer, kind):
    """Finite differences read the difference of two runs: 1e-12 is rounding of nine steps."""
    routine = smooth_routine(optimizer, kind)
    points = points_around(routine)

    states = train_many(routine, points, together="batched")

    for state, z in zip(states, points, strict=True):
        assert worst_error(state, train_unchecked(routine, z)) < 1e-12


def test_runs_in_several_groups_are_all_there_in_order(monkeypatch):
    """More runs than go through a step together are several batched runs, of no fixed size."""
    monkeypatch.setattr("engine.replay.at_once.KEPT_BYTES", {"cpu": 0})  # the fewest, four
    routine = smooth_routine("momentum", "all")
    points = points_around(routine, 10)

    states = train_many(routine, points, together="batched")

    assert len(states) == 10
    for state, z in zip(states, points, strict=True):
        assert worst_error(state, train_unchecked(routine, z)) < 1e-12


def test_effect_of_z_on_batched_runs_is_what_the_metagradient_says():
    """What batched trainings are for: their difference is the derivative, in every digit it has."""
    routine = smooth_routine("adamw", "all")
    z, (direction,) = routine.point(), points_around(routine, 1)
    h = 1e-6
    ends = [{name: row + way * h * direction[name] for name, row in z.items()} for way in (1, -1)]

    above, below = train_many(routine, ends, together="batched")

    found = engine.metagradient(routine, problems.output)
    predicted = sum(float((found[name] * row).sum()) for name, row in direction.items())
    values = [float(routine.evaluate(problems.output, state)) for state in (above, below)]
    assert (values[0] - values[1]) / (2 * h) == pytest.approx(predicted, rel=1e-6)


def test_run_that_diverges_leaves_the_others_as_they_are():
    """A search tries rates that are far too high beside good ones."""
    routine = smooth_routine("sgd", "learning-rate")
    (good,) = points_around(routine, 1)
    wild = {name: row + 1000 for name, row in good.items()}

    for together in ("batched", "loop"):
        first, second, third = train_each(routine, [good, wild, good], together=together)

        assert second is None
        assert worst_error(first, train_unchecked(routine, good)) < 1e-12
        assert worst_error(third, first) < 1e-12
    with pytest.raises(NonFiniteError, match="loss became"):
        train_many(routine, [good, wild], together="batched")


def test_runs_of_several_seeds_each_draw_their_own_order():
    """Seeds differ in the order of examples, which a batched run reads as one more axis."""

    def loss(model, batch):  # one_hot, in the shared loss, reads its labels, which vmap refuses
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    def routine_of(seed):
        return smooth_routine("momentum", "weights", loss=loss, seed=seed)

    routine, seeds = routine_of(1), [1, 5, 9]

    states = train_many(routine, [routine.point()] * 3, seeds=seeds, together="batched")

    expected = [train_unchecked(routine_of(seed)) for seed in seeds]
    assert all(worst_error(a, b) < 1e-12 for a, b in zip(states, expected, strict=True))
    assert worst_error(states[0], states[1]) > 1e-3


def test_dropout_of_several_seeds_goes_one_by_one():
    """A batched run has one generator for all masks, so it would train other runs."""
    routine = problems.routine("momentum", "weights")
    points, seeds = [routine.point()] * 2, [1, 5]

    with pytest.raises(ConfigurationError, match=r"cannot be trained as one.*together='loop'"):
        train_many(routine, points, seeds=seeds, together="batched")
    states = train_many(routine, points, seeds=seeds)

    expected = [
        train_unchecked(problems.routine("momentum", "weights", seed=seed)) for seed in seeds
    ]
    assert all(
        torch.equal(state[name], row)
        for state, alone in zip(states, expected, strict=True)
        for name, row in alone.items()
    )


def test_loop_repeats_the_bits_of_each_run():
    """A stage that is named by its bits asks for the loop."""
    routine = problems.routine("adamw", "weights")
    points = points_around(routine, 2)

    states = train_many(routine, points, together="loop")

    for state, z in zip(states, points, strict=True):
        assert all(
            torch.equal(row, state[name]) for name, row in train_unchecked(routine, z).items()
        )


def test_seeds_without_a_point_are_refused():
    """A run that is silently left out shifts all results after it."""
    routine = smooth_routine()

    with pytest.raises(ConfigurationError, match="3 seeds for 2 points"):
        train_many(routine, points_around(routine, 2), seeds=[1, 2, 3])


def _plain_loss(model, batch):
    """Per-example cross-entropy, by operations that a batched run can carry."""
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


@pytest.mark.slow
def test_code_that_keeps_tensors_is_called_plainly():
    """What it is given in a batched run is no tensor afterwards, and a log is harmless."""
    log = []

    def logged(model, batch):
        losses = _plain_loss(model, batch)
        log.append(losses.detach().mean())
        assert torch.stack(log).isfinite().all()  # reads all that it has kept
        return losses

    routine = smooth_routine("momentum", "weights", loss=logged)
    expected = train_unchecked(smooth_routine("momentum", "weights", loss=_plain_loss))

    states = train_many(routine, [routine.point()] * 3)
    values = evaluate_each(
        routine, lambda m: logged(m, problems.examples()).mean(), states, together="auto"
    )

    assert all(torch.equal(state["params"], expected["params"]) for state in states)
    assert (values == values[0]).all()
    with pytest.raises(ConfigurationError, match="keeps tensors of a call for itself"):
        train_many(routine, [routine.point()] * 3, together="batched")


def test_runs_whose_later_steps_cannot_go_together_go_one_by_one():
    """A loss that is printed now and then stops no run, whatever step 0 has shown."""
    calls = []

    def printed(model, batch):
        losses = _plain_loss(model, batch)
        calls.append(0)
        if len(calls) == 12:  # after all that is tried in step 0, and before the loop
            losses.detach().mean().item()
        return losses

    routine = smooth_routine("momentum", "weights", loss=printed)
    expected = train_unchecked(smooth_routine("momentum", "weights", loss=_plain_loss))

    states = train_many(routine, [routine.point()] * 3, together="batched")

    assert all(torch.equal(state["params"], expected["params"]) for state in states)


def test_a_tensor_that_is_kept_now_and_then_is_named():
    """Torch would speak of its own insides."""
    log, calls = [], []

    def logged(model, batch):
        losses = _plain_loss(model, batch)
        calls.append(0)
        if len(calls) % 5 == 0:
            log.append(losses.detach().mean())
        if len(calls) > 9:
            assert torch.stack(log).isfinite().all()
        return losses

    routine = smooth_routine("momentum", "weights", loss=logged)

    with pytest.raises(WitnessError, match=r"has kept a tensor .* Keep numbers"):
        train_many(routine, [routine.point()] * 3, together="batched")
