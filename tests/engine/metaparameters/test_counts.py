"""Counts that do not mislead: several injection steps, and neighbours that agree."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import engine
from engine.errors import ConfigurationError
from engine.preflight.injection import by_step, check_injection, judge, neighbours
from engine.preflight.verdict import Verdict
from engine.problems.built import build_problem
from engine.recipes.files import load_recipe
from engine.recipes.replay import ReplaySettings
from engine.witness.twins import exact_run, long_twin

NUM_EXAMPLES, NUM_STEPS, BATCH, RATE, MOMENTUM = 20, 30, 5, 0.1, 0.9
SEVERAL = (12, 20, 27, 29)


def problem():
    """Three classes in four dimensions, and a network that was drawn before."""
    drawn = torch.Generator().manual_seed(5)
    points = torch.randn(2 * NUM_EXAMPLES, 4, generator=drawn, dtype=torch.float64)
    labels = torch.randint(0, 3, (2 * NUM_EXAMPLES,), generator=drawn)
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    return (
        model,
        (points[:NUM_EXAMPLES], labels[:NUM_EXAMPLES]),
        (
            points[NUM_EXAMPLES:],
            labels[NUM_EXAMPLES:],
        ),
    )


def loss(model, batch):
    return cross_entropy(model(batch[0]), batch[1], reduction="none")


def make(**injected):
    """The run, and its output."""
    model, train, held_out = problem()
    counts = torch.tensor([1, 2, 0, 1, 1] * 4, dtype=torch.float64)
    run = engine.Routine(
        model,
        loss,
        train,
        engine.sgd(MOMENTUM),
        learning_rate=RATE,
        num_steps=NUM_STEPS,
        batch_size=BATCH,
        metaparameters={"counts": engine.Counts(counts, **injected)},
    )
    return run, lambda model: loss(model, held_out).mean()


def torchs_output(batches, added):
    """Torch's own loop and optimizer; ``added`` maps a step to weights of all examples there."""
    model, (points, labels), held_out = problem()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
    for step, batch in enumerate(batches):
        optimizer.zero_grad()
        total = loss(model, (points[batch], labels[batch])).sum()
        if step in added:
            total = total + (added[step] * loss(model, (points, labels))).sum()
        (total / BATCH).backward()
        optimizer.step()
    with torch.no_grad():
        return float(loss(model, held_out).mean())


def difference(batches, steps, direction, distance=1e-4):
    """The central difference of the output by examples that are added in each of the steps."""
    ends = [
        torchs_output(batches, dict.fromkeys(steps, sign * distance * direction))
        for sign in (1, -1)
    ]
    return (ends[0] - ends[1]) / (2 * distance)


def test_each_injection_and_their_sum_are_the_central_differences_of_torchs_own_loop():
    """One sweep finds the sum; another one, step by step, its summands."""
    run, output = make(injection_steps=SEVERAL)
    batches = [run.order.batch(step) for step in range(NUM_STEPS)]
    direction = torch.randn(
        NUM_EXAMPLES, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )

    together = engine.metagradient(run, output)["counts"]
    apart = by_step(run, output, "counts", SEVERAL)

    for row, step in zip(apart, SEVERAL, strict=True):
        assert float(row @ direction) == pytest.approx(
            difference(batches, [step], direction), rel=1e-6
        )
    assert float(together @ direction) == pytest.approx(
        difference(batches, SEVERAL, direction), rel=1e-6
    )
    assert torch.allclose(together, apart.sum(dim=0), rtol=1e-11, atol=0)


@pytest.mark.parametrize("schedule", ["k-ary", "store-all"])
def test_several_steps_have_the_bits_of_every_schedule(schedule):
    """A step that reads z in the middle of a segment is reversed as any other."""
    run, output = make(injection_steps=SEVERAL)

    found = engine.metagradient(run, output, schedule=schedule)["counts"]

    assert torch.equal(found, engine.metagradient(run, output)["counts"])


def test_some_candidates_by_themselves_have_the_bits_of_their_rows():
    """What is compared in the preflight is the run's own metagradient."""
    run, output = make(injection_step=20)
    chosen = torch.tensor([0, 7, 19])

    few = by_step(run, output, "counts", [20], chosen=chosen)

    everything = engine.metagradient(run, output)["counts"]
    assert torch.allclose(few[0], everything[chosen], rtol=1e-12, atol=0)


def test_steps_are_counted_in_the_run_that_they_are_of():
    """By default 90 % of the run; a twin keeps their places."""
    default, _ = make()
    several, _ = make(injection_steps=(29, 12))

    assert default.metaparameters["counts"].steps == (27,)
    assert (several.metaparameters["counts"].steps, several.first_step) == ((12, 29), 12)
    assert exact_run(several).metaparameters["counts"].steps == (3, 7)
    assert long_twin(several).metaparameters["counts"].steps == (12, 29)


@pytest.mark.parametrize(
    ("injected", "message"),
    [
        ({"injection_step": 3, "injection_steps": (4,)}, "Use one of the two"),
        ({"injection_steps": (4, 4)}, "named twice.*each once"),
        ({"injection_steps": (-1, 4)}, "negative.*from 0"),
        ({"injection_steps": (4, NUM_STEPS)}, "step 30, but the run has 30 steps.*below num_steps"),
    ],
    ids=["both", "twice", "negative", "beyond"],
)
def test_steps_that_say_nothing_are_refused(injected, message):
    """Left out without a word they would be missing from the sum."""
    with pytest.raises(ConfigurationError, match=message):
        make(**injected)


@pytest.fixture(scope="module")
def swinging():
    """Digits with 40 % wrong labels, momentum, and a rate that does not fall."""
    recipe = load_recipe("digits-selection", ["training.rate_schedule=flat"])
    return build_problem(recipe)


def at(built, **injected):
    counts = engine.Counts(built.kind.value, **injected)
    return replace(built.routine, metaparameters={"counts": counts})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("injected", "verdict"),
    [
        ({"injection_step": 170}, Verdict.REFUSE),
        ({"injection_step": 195}, Verdict.PASS),
        ({"injection_steps": range(140, 200, 6)}, Verdict.PASS),
    ],
    ids=["between-swings", "near-the-end", "sum"],
)
def test_a_step_that_calls_wrong_labels_helpful_is_refused(swinging, injected, verdict):
    """Where the neighbours disagree, wrong labels have the lower metagradient, and vice versa."""
    from sklearn.metrics import roc_auc_score

    run = at(swinging, **injected)

    found = check_injection(run, swinging.output, "counts", ReplaySettings())

    gradient = engine.metagradient(run, swinging.output, witness=False)["counts"]
    auc = roc_auc_score(swinging.data.corrupted.numpy(), gradient.numpy())
    assert found.verdict is verdict, found.cause
    assert auc < 0.4 if verdict is Verdict.REFUSE else auc > 0.9
    assert ("injection_steps=[140, 146" in found.remedy) == (verdict is Verdict.REFUSE)


def test_long_runs_are_not_trained_to_be_checked():
    """A single step is warned of then, and a sum of several is not."""
    run, output = make(injection_step=27)
    long = replace(run, num_steps=2000)

    single = check_injection(long, output, "counts", ReplaySettings())
    counts = engine.Counts(run.metaparameters["counts"].value, injection_steps=(1500, 1900))
    summed = replace(long, metaparameters={"counts": counts})
    several = check_injection(summed, output, "counts", ReplaySettings())

    assert (single.verdict, single.value) == (Verdict.WARN, None)
    assert several.verdict is Verdict.PASS
    assert "injection_steps" in single.remedy


def test_neighbours_reach_to_the_end_and_are_none_of_the_run():
    """The last step's derivative is that of one plain step, whose sign means something."""
    assert neighbours([140], 200) == [147, 154, 162, 169, 176, 184, 191, 199]
    assert neighbours([7], 10) == [8, 9]
    assert neighbours([9], 10) == []
    assert set(neighbours(range(140, 200, 6), 200)).isdisjoint(range(140, 200, 6))


def test_what_cannot_be_compared_is_not_refused():
    """A metagradient that is the same for all examples has no correlation, which is said."""
    assert judge("counts", [3], [4], float("nan"), 5).verdict is Verdict.WARN


def test_only_counts_are_injected():
    """Weights enter every step."""
    run, output = make()
    weights = engine.ExampleWeights(torch.ones(NUM_EXAMPLES).double())

    with pytest.raises(ConfigurationError, match="ExampleWeights, which is not injected"):
        by_step(replace(run, metaparameters={"w": weights}), output, "w", [3])
