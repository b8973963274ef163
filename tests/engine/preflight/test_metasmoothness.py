"""Metasmoothness: its formulas on known responses, its directions, and real routines."""

import math

import pytest
import torch
from torch import nn

from engine import ExampleWeights, Routine, sgd, train
from engine.errors import ConfigurationError
from engine.preflight.metasmoothness import (
    CHAOS,
    INDEPENDENT,
    agreement,
    draw_direction,
    explain,
    gather,
    metasmoothness,
    second_difference,
    shifted,
)
from engine.recipes.smoothness import SmoothnessSettings
from tests.helpers.trainings import problems

PARAMS = 200_000


def normal(seed, size=PARAMS):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def settings(**changes):
    return SmoothnessSettings.model_validate({"directions": 3, "by": "example", **changes})


def test_a_linear_response_scores_one():
    """However unequal the parameters' speeds are."""
    start, speed = normal(0), normal(1)

    assert agreement(start, start + speed, start + 2 * speed) == 1.0


def test_each_parameter_weighs_as_much_as_it_moves_in_all():
    """By hand: moves of 4, 2 and 1 in all, the last of which turned round: (4 + 2 - 1) / 7."""
    at_0 = torch.zeros(3)
    at_h = torch.tensor([3.0, -1.0, 5.0])
    at_2h = torch.tensor([4.0, -2.0, 1.0])

    assert agreement(at_0, at_h, at_2h) == pytest.approx(5 / 7)


@pytest.mark.parametrize(
    ("noise", "expected"), [(0.1, 0.988), (0.3, 0.899), (1.0, 0.407), (3.0, -0.125)]
)
def test_noise_at_the_ends_has_its_known_score(noise, expected):
    """The table of null values that every score is read against."""
    speed = normal(9)
    ends = [position * speed + noise * normal(position) for position in (1, 2)]

    assert agreement(0 * speed, *ends) == pytest.approx(expected, abs=0.01)


def test_independent_increments_and_chaos_have_the_scores_that_are_told():
    """0.41 looks like something and is nothing."""
    first, second = normal(1), normal(2)

    walk = agreement(torch.zeros(PARAMS).double(), first, first + second)
    chaos = agreement(torch.zeros(PARAMS).double(), first, second)

    assert walk == pytest.approx(INDEPENDENT, abs=0.01)
    assert chaos == pytest.approx(CHAOS, abs=0.01)


def test_where_nothing_moved_there_is_no_score():
    """1 would praise a step that is too small, or a direction that no step reads."""
    still, moved = torch.ones(3), torch.zeros(3)

    assert agreement(still, still, still) is None
    assert agreement(still, moved, still) == -1.0
    with pytest.raises(ConfigurationError, match="No trained parameter moved.*larger step"):
        gather([0.0], [None], 0.1)


def test_directions_along_which_nothing_moved_are_left_out_and_told():
    """The mean of the others is what was measured."""
    found = gather([1.0, 5.0, 3.0], [0.5, None, 0.7], 0.1)

    assert found.definition_1.mean == 2.0
    assert found.definition_2.mean == pytest.approx(0.6)
    assert found.content()["definition_2"]["directions"] == [0.5, None, 0.7]
    assert "Along 1 directions nothing moved" in explain(found)[-1]


def test_second_difference_of_a_parabola_is_its_curvature():
    """f(a) = 3 a^2 has the second derivative 6 for every h."""
    values = [3 * (1 + position * 0.1) ** 2 for position in range(3)]

    assert second_difference(*values, 0.1) == pytest.approx(6)


def test_a_direction_by_example_differs_everywhere_and_by_group_is_one_number_a_group():
    """The two were one and the same in a public re-implementation's table."""
    z = {"weights": torch.ones(12, dtype=torch.float64)}
    groups = torch.arange(12) % 3

    each = draw_direction(z, settings(), 0, groups)["weights"]
    grouped = draw_direction(z, settings(by="group"), 0, groups)["weights"]

    assert len(each.unique()) == 12
    assert len(grouped.unique()) == 3
    assert all(len(grouped[groups == group].unique()) == 1 for group in range(3))


def test_a_direction_by_coordinate_moves_one_coordinate_of_all_kinds():
    """Every metaparameter is reached, and only one number at a time."""
    z = {"a": torch.zeros(3, 2), "b": torch.zeros(4)}

    drawn = [draw_direction(z, settings(by="coordinate"), index) for index in range(40)]

    assert all(sum(float(part.sum()) for part in each.values()) == 1.0 for each in drawn)
    assert len({int(torch.cat([p.flatten() for p in e.values()]).argmax()) for e in drawn}) == 10


def test_directions_are_a_pure_function_of_seed_and_number():
    """A stage that is tried again perturbs the same way; another direction is another one."""
    z = {"weights": torch.ones(5)}

    first, again, other, seeded = (
        draw_direction(z, settings(seed=seed), index)["weights"]
        for seed, index in ((0, 0), (0, 0), (0, 1), (1, 0))
    )

    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, seeded)


def test_groups_that_do_not_fit_z_are_refused():
    """A learning rate has no classes."""
    rates = {"rates": torch.zeros(3)}

    with pytest.raises(ConfigurationError, match=r"group of each coordinate of 'rates'"):
        draw_direction(rates, settings(by="group"), 0, torch.arange(12))


@pytest.mark.parametrize("kind", ["weights", "counts", "learning-rate", "all"])
def test_every_kind_of_metaparameter_is_measured(kind):
    """A smooth toy run answers almost linearly, whatever is perturbed."""
    routine = problems.routine("momentum", kind)

    found = metasmoothness(routine, problems.output, settings(step=1e-3))

    assert found.definition_2.mean > 0.95
    assert found.definition_1.mean >= 0
    assert len(found.definition_2.directions) == 3


def test_definition_1_is_the_second_derivative_of_the_output_along_the_direction():
    """For a small step, three trainings by hand, with another stencil."""
    routine = problems.routine("momentum")
    point, h = routine.point(), 1e-3
    (direction,) = (draw_direction(point, settings(), 0),)

    def value(distance):
        state = train(routine, shifted(point, direction, distance))
        return float(routine.evaluate(problems.output, state))

    centred = abs(value(2 * h) - 2 * value(h) + value(0.0)) / h**2

    found = metasmoothness(routine, problems.output, settings(step=h, directions=1))

    assert found.definition_1.directions[0] == pytest.approx(centred, rel=1e-9)
    assert found.definition_1.spread is None


@pytest.mark.slow
def test_a_smooth_routine_scores_higher_than_a_chaotic_one():
    """ReLU at a rate far too high against GELU at a tenth of it: what the numbers are for."""
    inputs, labels = problems.examples(60)

    def score(activation, rate):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Sequential(
                nn.Linear(4, 16), activation, nn.Linear(16, 16), activation, nn.Linear(16, 3)
            )
        routine = Routine(
            model.double(),
            problems.loss,
            (inputs, labels),
            sgd(0.9),
            learning_rate=rate,
            num_steps=60,
            batch_size=20,
            metaparameters={"weights": ExampleWeights(torch.ones(60, dtype=torch.float64))},
        )
        return metasmoothness(routine, problems.output, settings(step=0.05), groups=labels)

    rough, smooth = score(nn.ReLU(), 0.9), score(nn.GELU(), 0.02)

    assert smooth.definition_2.mean > rough.definition_2.mean + 0.3
    assert smooth.definition_1.mean < rough.definition_1.mean / 3
    assert "useless" in " ".join(explain(rough)) or "not smooth" in " ".join(explain(rough))


def test_a_trainer_of_ones_own_gets_all_points_at_once():
    """Batched training, or a cluster, trains them together."""
    routine = problems.routine("momentum")
    seen = []

    def together(routine, points):
        seen.append(len(points))
        return [train(routine, point) for point in points]

    found = metasmoothness(routine, problems.output, settings(), trainer=together)

    assert seen == [7]
    alone = metasmoothness(routine, problems.output, settings(retraining="loop"))
    assert found.content() == alone.content()


@pytest.mark.parametrize(
    ("value", "word"),
    [(0.97, "almost in proportion"), (0.42, "Not smooth"), (-0.2, "Close to chaos")],
)
def test_a_score_is_told_beside_the_null_values(value, word):
    """Nobody shall read 0.4 as smooth."""
    lines = " ".join(explain(gather([1.0, 2.0], [value, value], 0.05)))

    assert "0.414" in lines
    assert "-0.29" in lines
    assert word in lines


def test_null_values_are_those_of_the_formulas():
    """sqrt(2) - 1 and 1 / sqrt(2) - 1."""
    assert pytest.approx(0.4142, abs=1e-4) == INDEPENDENT
    assert pytest.approx(-0.2929, abs=1e-4) == CHAOS
    assert math.isclose(INDEPENDENT, math.sqrt(2) * -CHAOS)
