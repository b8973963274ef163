"""A routine is a pure function of its parts, and refuses parts that do not fit."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from engine import (
    Counts,
    ExampleWeights,
    LearningRatePoints,
    Metaparameter,
    Routine,
    evaluate,
    train,
)
from engine.errors import ConfigurationError, DataError
from engine.routine.optimizers import sgd
from engine.step.step import plain_step
from tests.helpers.trainings import problems


def trained(routine):
    return train(routine)["params"]


def losses_at(routine, step):
    """Per-example losses of the batch of a step, at the initial parameters."""
    term = next(routine.terms(step))
    return routine.term_losses(routine.initial_state()["params"], term, routine.point(), step)


def same_batch_everywhere(**changes):
    """A routine whose batch is all of its examples, so that steps differ by their draws alone."""
    return problems.routine(
        examples=tuple(column[:1].repeat_interleave(12, 0) for column in problems.examples()),
        batch_size=12,
        **changes,
    )


def noisy(batch, drawn):
    inputs, labels = batch
    return inputs + 0.1 * torch.randn(inputs.shape, generator=drawn, dtype=inputs.dtype), labels


class Tied(nn.Module):
    """One matrix used twice, as in a language model's embedding and head."""

    def __init__(self):
        super().__init__()
        self.encode = nn.Linear(4, 4, bias=False)
        self.decode = nn.Linear(4, 4, bias=False)
        self.decode.weight = self.encode.weight

    def forward(self, inputs):
        """Encode and decode by the same matrix."""
        return self.decode(torch.tanh(self.encode(inputs)))


class Rows:
    """A source of examples of one's own: anything with a length that takes indices."""

    def __init__(self, inputs, labels):
        self.inputs, self.labels = inputs, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, indices):
        return self.inputs[indices], self.labels[indices]


def test_one_step_of_sgd_is_this():
    """Read this to learn what a step is: w <- w - rate * sum_i w_i dl_i/dw / B."""
    net = nn.Linear(1, 1, bias=False).double()
    inputs = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    weights = torch.tensor([1.0, 3.0], dtype=torch.float64)
    routine = Routine(
        model=net,
        loss=lambda model, batch: model(batch[0]).squeeze(1) ** 2 / 2,
        examples=(inputs,),
        optimizer=sgd(),
        learning_rate=0.1,
        num_steps=1,
        batch_size=2,
        metaparameters={"weights": ExampleWeights(weights)},
    )

    after = trained(routine)

    before = net.weight.item()
    gradient = before * (1 * 1.0**2 + 3 * 2.0**2) / 2  # dl_i/dw = w x_i^2
    assert float(after) == pytest.approx(before - 0.1 * gradient, rel=1e-14)


def test_same_seed_gives_the_same_bits():
    """Shuffling, dropout and augmentation all come from the seed, so a run can be made again."""
    expected = trained(problems.routine(augment=noisy))

    found = trained(problems.routine(augment=noisy))

    assert torch.equal(found, expected)


def test_another_seed_gives_other_bits():
    """A seed that reaches nothing would make every repetition of a study the same run."""
    expected = trained(problems.routine())

    found = trained(problems.routine(seed=2))

    assert not torch.equal(found, expected)


def test_dropout_is_active_in_training():
    """Twelve copies of one example have one loss, unless each loses units of its own."""
    losses = losses_at(same_batch_everywhere(), step=0)

    assert len(losses.unique()) > 1


def test_dropout_drops_other_units_at_another_step():
    """One mask for the whole run would train a smaller network instead of an average of many."""
    routine = same_batch_everywhere()

    first, second = losses_at(routine, step=0), losses_at(routine, step=1)

    assert not torch.equal(first, second)


def test_dropout_drops_the_same_units_when_a_step_is_replayed():
    """A replayed step in the middle of the run must not depend on what ran before it."""
    routine = same_batch_everywhere()
    expected = losses_at(routine, step=5)
    torch.rand(3)

    found = losses_at(routine, step=5)

    assert torch.equal(found, expected)


def test_dropout_is_off_in_the_output():
    """An output with dropout would be a random number, and its derivative that of one mask."""
    routine = problems.routine()
    state = routine.initial_state()

    value = evaluate(routine, state, problems.output)

    assert torch.equal(value, problems.output(problems.model().eval()).detach())
    assert torch.equal(evaluate(routine, state, problems.output), value)


def test_the_users_model_is_left_alone():
    """A notebook goes on with its model, which must be neither trained nor switched to eval."""
    net = problems.model()
    before = copy.deepcopy(net.state_dict())
    routine = problems.routine(model=net)

    evaluate(routine, train(routine), problems.output)

    assert net.training
    assert all(torch.equal(row, before[name]) for name, row in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_model_changed_later_does_not_change_the_routine():
    """The routine is what was given; going on with the same model must not move its start."""
    net = problems.model()
    routine = problems.routine(model=net)
    with torch.no_grad():
        net[0].weight.zero_()

    start = routine.initial_state()["params"]

    assert torch.equal(start, problems.routine().initial_state()["params"])


def test_the_users_random_numbers_are_left_alone():
    """Whether a metagradient is taken must not change what the user draws next."""
    routine = problems.routine(augment=noisy)
    before = torch.random.get_rng_state()

    train(routine)

    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_users_random_numbers_change_nothing():
    """A run that read the global generator would depend on the cells executed before it."""
    expected = trained(problems.routine(augment=noisy))
    with torch.random.fork_rng():
        torch.manual_seed(1234)

        found = trained(problems.routine(augment=noisy))

    assert torch.equal(found, expected)


def test_tied_parameters_stay_tied():
    """A tied matrix is one set of numbers with the sum of both gradients, not two that part."""
    routine = replace(problems.routine(model=Tied().double()), optimizer=sgd())
    reference = copy.deepcopy(routine.model)
    (inputs, labels), indices = problems.examples(), routine.order.batch(0)
    weights = routine.point()["weights"][indices]
    losses = functional.cross_entropy(reference(inputs[indices]), labels[indices], reduction="none")
    ((weights * losses).sum() / 5).backward()
    expected = reference.encode.weight - 0.05 * reference.encode.weight.grad

    after, _ = plain_step(routine, routine.initial_state(), routine.point(), 0)

    assert routine.layout.size == 16
    assert after["params"].tolist() == pytest.approx(expected.flatten().tolist(), rel=1e-13)


def test_frozen_parameters_stay_out_of_the_state_and_are_not_trained():
    """Fine-tuning a head keeps the body; a frozen parameter still takes part in the loss."""
    net = problems.model()
    net[0].requires_grad_(False)
    routine = problems.routine(model=net)
    fewer = sum(parameter.numel() for parameter in net[0].parameters())

    final = trained(routine)

    assert len(final) == problems.routine().layout.size - fewer
    assert not any(name.startswith("0.") for name in routine.layout.shapes)
    assert torch.equal(routine.model[0].weight, net[0].weight)


def test_augmentation_draws_by_step():
    """The generator is made for the step, so a replayed step augments as the step did."""
    seen = []

    def record(batch, drawn):
        seen.append(float(torch.rand((), generator=drawn)))
        return batch

    routine = problems.routine(augment=record)

    losses_at(routine, 0)
    losses_at(routine, 1)
    losses_at(routine, 0)

    assert seen[0] == seen[2] != seen[1]


def test_augmentation_changes_the_run():
    """An augment function that is never called would be a silent no-op."""
    assert not torch.equal(trained(problems.routine(augment=noisy)), trained(problems.routine()))


def test_examples_of_a_source_of_ones_own_are_those_of_tensors():
    """Data that do not fit in memory come from any object with a length."""
    expected = trained(problems.routine())

    found = trained(problems.routine(examples=Rows(*problems.examples())))

    assert torch.equal(found, expected)


def test_learning_rate_for_each_step_is_used_at_that_step():
    """With a rate of zero from step 1 on, the run ends where step 0 left it."""
    routine = problems.routine("sgd", learning_rate=[0.05] + [0.0] * 8)
    after, _ = plain_step(routine, routine.initial_state(), routine.point(), 0)

    assert torch.equal(trained(routine), after["params"])


def test_with_metaparameters_changes_the_named_ones_only():
    """An outer step moves z and keeps the run; the original stays for comparison."""
    routine = problems.routine(kind="all")
    moved = torch.full((problems.NUM_EXAMPLES,), -1.0, dtype=torch.float64)

    other = routine.with_metaparameters({"weights": moved})

    assert other.point()["weights"].tolist() == [0.0] * 12  # projected
    assert torch.equal(other.point()["rates"], routine.point()["rates"])
    assert routine.point()["weights"].min() == 0.5


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("weights", 0), ("counts", problems.INJECTION_STEP), ("all", 0), ("learning-rate", 0)],
)
def test_first_step_is_the_first_that_reads_z(kind, expected):
    """The reverse sweep ends there; one too early costs time, one too late loses a share."""
    assert problems.routine(kind=kind).first_step == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 0}, "num_steps is 0.*Use num_steps=1"),
        ({"batch_size": 0}, "batch_size is 0.*Use batch_size=1"),
        ({"learning_rate": [0.1, 0.2]}, "learning_rate has 2 values for 9 steps"),
        (
            {"metaparameters": {"weights": ExampleWeights(torch.ones(11))}},
            "'weights' has 11 values for 12 examples",
        ),
        (
            {"metaparameters": {"counts": Counts(torch.ones(13))}},
            "'counts' has 13 values for 12 examples",
        ),
        (
            {"metaparameters": {"counts": Counts(torch.ones(12), injection_step=9)}},
            "'counts' enters none of the 9 steps.*injection_step below num_steps",
        ),
        (
            {"metaparameters": {"rates": LearningRatePoints(-torch.ones(3), num_steps=4)}},
            "'rates' spreads its key points over 4 steps.*the run has 9.*num_steps=9",
        ),
    ],
    ids=["no-steps", "no-batch", "rates", "weights", "counts", "late", "points"],
)
def test_parts_that_do_not_fit_are_refused_before_training(changes, message):
    """What costs hours must not fail, or go wrong in silence, on what is known at the start."""
    with pytest.raises(ConfigurationError, match=message):
        problems.routine(**changes)


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ((torch.zeros(0, 4), torch.zeros(0)), "no training examples"),
        ((torch.zeros(12, 4), torch.zeros(11)), r"\[11, 12\] rows"),
        ((torch.full((12, 4), torch.nan), torch.zeros(12)), "NaN or infinite.*clean the data"),
        ((torch.zeros(12, 4), torch.full((12,), torch.inf)), "NaN or infinite.*clean the data"),
    ],
    ids=["none", "lengths", "nan", "infinite"],
)
def test_examples_that_cannot_be_trained_on_are_refused(examples, message):
    """One NaN pixel makes every number after its batch NaN, in training and in the adjoint."""
    with pytest.raises(DataError, match=message):
        problems.routine(examples=examples)


def test_model_without_trainable_parameters_is_refused():
    """Everything frozen is a forgotten requires_grad_, not a run."""
    with pytest.raises(ConfigurationError, match="no trainable parameters"):
        problems.routine(model=problems.model().requires_grad_(False))


@pytest.mark.parametrize("reduce", [torch.mean, torch.sum, lambda loss: loss.view(-1, 1)])
def test_loss_that_is_not_one_number_for_each_example_is_refused(reduce):
    """A mean hides the examples, so their weights would have nothing to act on."""
    routine = problems.routine(loss=lambda model, batch: reduce(problems.loss(model, batch)))

    with pytest.raises(ConfigurationError, match="for 5 examples.*reduction='none'"):
        train(routine)


def test_batch_norm_without_running_statistics_is_accepted():
    """Batch statistics are a function of the batch, so the step stays pure."""
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False)).double()

    final = trained(problems.routine(model=net))

    assert torch.isfinite(final).all()


def test_kind_of_ones_own_needs_one_value_for_each_example_only_if_it_weights_them():
    """A scalar metaparameter is not mistaken for example weights of the wrong number."""

    class Decay(Metaparameter):
        def hyperparameters(self, z, step):
            return {"weight_decay": z[0]}

    routine = problems.routine(metaparameters={"decay": Decay(torch.tensor([0.3]))})

    assert float(routine.hyperparameters(routine.point(), 2)["weight_decay"]) == pytest.approx(0.3)


def test_value_for_an_unknown_metaparameter_is_refused():
    """A mistyped name would leave the run as it is, and look as if the change had no effect."""
    with pytest.raises(ConfigurationError, match="no metaparameter 'typo'.*'weights'"):
        problems.routine().with_metaparameters({"typo": torch.ones(12)})
