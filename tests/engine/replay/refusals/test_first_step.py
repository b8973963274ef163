"""What is refused after one step, before hours of training give a wrong number."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from engine import ExampleWeights, central_difference, metagradient
from engine.errors import ConfigurationError, NonFiniteError, UndifferentiableError
from engine.replay.refusals.first_step import check_routine
from engine.routine.module.buffers.batch_norm import BUFFERS
from engine.routine.optimizers import Optimizer, adamw, sgd
from engine.step.step import plain_step
from tests.helpers.trainings import problems
from tests.helpers.trainings.broken_routines import Once, bare_root


def check(routine, output=problems.output, z=None):
    check_routine(routine, [output], routine.point() if z is None else z)


def body(forward, **modules):
    """A small network whose features go through ``forward``."""

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode, self.decode = nn.Linear(4, 8), nn.Linear(8, 3)
            for name, module in modules.items():
                self.add_module(name, module)
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, inputs):
            return self.decode(forward(self, torch.tanh(self.encode(inputs))))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Network().double()


def attend(module, features):
    """Attention by the kernel that torch chooses; the engine has it choose one by formulas."""
    heads = features.view(-1, 1, 2, 4)
    return functional.scaled_dot_product_attention(heads, heads, heads).reshape(-1, 8)


def attend_by_flash(module, features):
    """It calls a kernel without a second derivative itself, where nothing takes its place."""
    heads = features.view(-1, 1, 2, 4)
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return flash(heads, heads, heads)[0].reshape(-1, 8)


def attend_by_math(module, features):
    """The same attention by the kernel that the message recommends."""
    with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        return attend(module, features)


def call_for_nothing(module, features):
    """Call a layer, and leave out what it returns."""
    module.spare(features[:, :2])
    return features


def count(module, features):
    module.seen += 1
    return features / module.seen


def grow(module, features):
    module.seen = torch.cat([module.seen.flatten(), features.detach().mean().flatten()])
    return features + module.seen.mean()


def remember(module, features):
    """State outside parameters and buffers, as a module's running average in a Python number."""
    module.calls = getattr(module, "calls", 0) + 1
    return features / module.calls


def changed(update):
    """SGD whose state and gradient go through ``update`` first."""
    plain = sgd(0.9, weight_decay=0.2)

    def changed_update(state, gradient, hyper, step):
        return plain.update(*update(state, gradient), hyper, step)

    return Optimizer("changed", plain.hyperparameters, plain.init, changed_update)


@pytest.mark.parametrize("kind", problems.kinds())
@pytest.mark.parametrize("optimizer", problems.OPTIMIZERS)
def test_sound_routine_passes(optimizer, kind):
    """A check that refuses what works would be switched off by its users."""
    check(problems.routine(optimizer, kind))


def test_attention_by_the_recommended_kernel_passes():
    """The remedy of a message has to work, or the message is noise."""
    check(problems.routine(model=body(attend_by_math)))


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (attend_by_flash, r"flash_attention.*not implemented.*scaled_dot_product_attention"),
        (lambda module, features: Once.apply(features), "once_differentiable.*second derivative"),
    ],
    ids=["flash-attention", "once-differentiable"],
)
def test_operation_without_double_backward_is_refused_with_the_remedy(forward, reason):
    """The words of torch come from the middle of a reverse sweep and name no remedy."""
    with pytest.raises(UndifferentiableError, match=rf"Step 0 cannot be .* twice.*{reason}"):
        check(problems.routine(model=body(forward)))


def test_metagradient_refuses_before_any_training():
    """The check belongs to the call that everybody makes, not to one that they may forget."""
    steps = []

    def counted(batch, drawn):
        steps.append(1)
        return batch

    routine = problems.routine(model=body(attend_by_flash), augment=counted)

    with pytest.raises(UndifferentiableError, match="cannot be differentiated twice"):
        metagradient(routine, problems.output)
    assert len(steps) <= 6  # tries of step 0 alone; training takes nine


def test_loss_cut_from_all_parameters_is_refused():
    """A detach() before the loss trains nothing and differentiates nothing."""
    routine = problems.routine(
        loss=lambda model, batch: functional.cross_entropy(
            model(batch[0]).detach(), batch[1], reduction="none"
        )
    )

    with pytest.raises(UndifferentiableError, match=r"does not depend on the parameters.*detach"):
        check(routine)


@pytest.mark.parametrize(
    "model",
    [
        body(lambda module, features: features.detach()),
        body(lambda module, features: features + module.spare.bias.data[0], spare=nn.Linear(2, 2)),
    ],
    ids=["detached", "data"],
)
def test_parameter_whose_value_alone_is_read_is_named(model):
    """A gradient of None becomes zeros in a flat vector, and then nobody sees it any more."""
    with pytest.raises(
        UndifferentiableError, match=r"'(spare|encode)\.weight' has no part.*detach"
    ):
        check(problems.routine(model=model))


@pytest.mark.parametrize("optimizer", [sgd(0.9), adamw(weight_decay=0.1)])
def test_parameter_that_nobody_reads_stays(optimizer):
    """As the pooling layer of a language model whose tokens are averaged."""
    models = [body(call_for_nothing, spare=nn.Linear(2, 2)) for _ in range(2)]
    models[1].spare.requires_grad_(False)

    found, wanted = (
        metagradient(replace(problems.routine(model=model), optimizer=optimizer), problems.output)
        for model in models
    )

    assert torch.equal(found["weights"], wanted["weights"])


def test_frozen_spare_parameter_passes():
    """The remedy that the message names."""
    model = body(call_for_nothing, spare=nn.Linear(2, 2))
    model.spare.requires_grad_(False)

    check(problems.routine(model=model))


def test_parameter_of_a_module_that_is_not_called_passes():
    """An expert that has nothing to do in step 0 has a gradient of zero there, no cut one."""
    check(problems.routine(model=body(lambda module, features: features, spare=nn.Linear(2, 2))))


@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        (
            lambda model: problems.loss(model, problems.examples()),
            ConfigurationError,
            r"returned \(12,\).*mean of the losses",
        ),
        (
            lambda model: problems.output(model).detach(),
            UndifferentiableError,
            r"does not depend on the model's parameters.*detach",
        ),
        (
            lambda model: (model(problems.examples()[0]).argmax(1) == 1).double().mean(),
            UndifferentiableError,
            "accuracy has no derivative, use a loss",
        ),
        (
            lambda model: problems.output(model) / 0.0,
            NonFiniteError,
            "output of the model is inf",
        ),
    ],
    ids=["vector", "detached", "accuracy", "infinite"],
)
def test_output_without_a_derivative_is_refused(output, error, message):
    """A run of hours must not end at the line that differentiates its result."""
    with pytest.raises(error, match=message):
        check(problems.routine(), output)


def test_output_that_is_a_number_is_refused():
    """item() and float() are how people return losses everywhere else."""
    with pytest.raises(ConfigurationError, match=r"returned float.*leave out item\(\) and float"):
        check(problems.routine(), lambda model: float(problems.output(model).detach()))


@pytest.mark.parametrize(
    "draw",
    [lambda: float(np.random.default_rng().normal()), lambda: random.gauss(0, 1)],
    ids=["numpy", "python"],
)
@pytest.mark.parametrize("place", ["forward", "augment"])
def test_randomness_that_no_seed_reaches_is_refused(draw, place):
    """A replayed step would see other noise, and its adjoint would be that of another run."""
    changes = {
        "forward": {"model": body(lambda module, features: features + draw())},
        "augment": {"augment": lambda batch, drawn: (batch[0] + draw(), batch[1])},
    }

    with pytest.raises(ConfigurationError, match=r"run twice.*differs first at .*generator"):
        check(problems.routine(**changes[place]))


def test_state_in_python_attributes_is_refused():
    """A counter in the module is state that no checkpoint holds."""
    with pytest.raises(ConfigurationError, match=r"run twice.*outside the parameters"):
        check(problems.routine(model=body(remember)))


def test_buffer_that_counts_is_a_part_of_the_state():
    """A replayed step reads what the step read."""
    routine = problems.routine(model=body(count))

    check(routine)

    state = routine.initial_state()
    following, _ = plain_step(routine, state, routine.point(), 0)
    assert (float(state[BUFFERS]), float(following[BUFFERS])) == (0, 1)


def test_buffer_that_grows_is_refused():
    """A state has one place for each number, so a replayed step would read a later value."""
    with pytest.raises(ConfigurationError, match=r"Buffer 'seen' changes during training"):
        check(problems.routine(model=body(grow)))


def test_optimizer_state_of_integers_is_refused():
    """torch.optim keeps its step as a tensor; here the step number is an argument."""
    plain = sgd(0.9)
    counting = Optimizer(
        "counting",
        plain.hyperparameters,
        lambda params: {**plain.init(params), "count": torch.zeros(1, dtype=torch.int64)},
        plain.update,
    )

    with pytest.raises(ConfigurationError, match=r"'count' as torch.int64.*step number"):
        check(replace(problems.routine(), optimizer=counting))


@pytest.mark.parametrize(
    ("update", "lost"),
    [
        (lambda state, gradient: (state, gradient.detach()), "'the gradient'"),
        (
            lambda state, gradient: ({**state, "momentum": state["momentum"].detach()}, gradient),
            "'momentum'",
        ),
    ],
    ids=["gradient", "moment"],
)
def test_optimizer_that_detaches_a_whole_input_is_refused(update, lost):
    """Public re-implementations did this; the metagradient plots nicely and is wrong."""
    routine = replace(problems.routine(), optimizer=changed(update))

    with pytest.raises(UndifferentiableError, match=rf"does not depend on {lost}.*detach"):
        check(routine)


def test_optimizer_that_detaches_its_weight_decay_is_found_by_differences():
    """The parameters still reach the update by another path, so only an oracle can see this.

    The witness takes one of the update; without it, a central difference of the run shows it.

    Training is the same to the bit; the metagradient is wrong by far more than the 1e-5 to which
    it agrees with central differences otherwise.
    """

    def update(state, gradient):
        decay = 0.5 * state["params"]
        return state, gradient + decay.detach()

    def along(routine):
        found = metagradient(routine, problems.output, witness=False)["weights"]
        estimate = central_difference(routine, problems.output, {"weights": torch.ones(12)})
        return float(found.sum()), estimate

    honest = changed(lambda state, gradient: (state, gradient + 0.5 * state["params"]))
    routine = replace(problems.routine(learning_rate=0.2), optimizer=honest)
    found, expected = along(routine)
    wrong, same = along(replace(routine, optimizer=changed(update)))

    assert same == expected
    assert found == pytest.approx(expected, rel=1e-5)
    assert wrong != pytest.approx(expected, rel=1e-2)
    with pytest.raises(UndifferentiableError, match="cut out of the graph"):
        metagradient(replace(routine, optimizer=changed(update)), problems.output)


def test_routine_without_metaparameters_is_refused():
    """There is nothing to differentiate with respect to; the message shows how to add some."""
    with pytest.raises(ConfigurationError, match=r"no metaparameters.*ExampleWeights"):
        check(problems.routine(metaparameters={}))


@pytest.mark.parametrize(
    ("z", "message"),
    [
        ({"weight": torch.ones(12)}, r"z has \['weight'\], but .* are \['weights'\]"),
        ({}, r"z has \[\]"),
        ({"weights": torch.ones(11)}, r"z\['weights'\] is .* of shape \(11,\).*\(12,\)"),
        ({"weights": torch.ones(12, 1)}, r"of shape \(12, 1\)"),
        ({"weights": torch.ones(12, dtype=torch.int64)}, "torch.int64.*floating point"),
    ],
    ids=["name", "none", "length", "axes", "integers"],
)
def test_z_that_does_not_fit_is_refused(z, message):
    """A column of weights would broadcast to a matrix and give a number."""
    with pytest.raises(ConfigurationError, match=message):
        check(problems.routine(), z=z)


def test_integer_weights_are_refused():
    """torch.ones(n, dtype=int) reads well and has no derivative."""
    with pytest.raises(ConfigurationError, match="torch.int64.*floating point"):
        ExampleWeights(torch.ones(12, dtype=torch.int64))


def test_first_loss_that_is_nan_is_named():
    """A log of zero shows at step 0 more often than not."""
    routine = problems.routine(
        loss=lambda model, batch: problems.loss(model, batch) + (0 * batch[0].sum(dim=1)).log()
    )

    with pytest.raises(NonFiniteError, match=r"in step 0.*log\(0\)"):
        check(routine)


def test_check_leaves_no_trace():
    """It runs before every metagradient, which must not depend on it."""
    routine = problems.routine("adamw", "all")
    before = torch.random.get_rng_state()
    start = {name: row.clone() for name, row in routine.initial_state().items()}

    check(routine)

    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(row, start[name]) for name, row in routine.initial_state().items())


def test_own_optimizer_with_a_bare_root_is_stopped_where_a_gradient_is_zero():
    """One dead unit is enough; the check of step 0 need not see it, the sweep does."""
    dark = torch.zeros(12, 4, dtype=torch.float64)
    routine = problems.routine(examples=(dark, problems.examples()[1]))

    with pytest.raises(NonFiniteError, match="eps_root"):
        metagradient(replace(routine, optimizer=bare_root()), problems.output)
