"""One step and its vector-Jacobian product, against autograd of the same step."""

from dataclasses import dataclass, replace

import pytest
import torch

from engine.errors import ConfigurationError, UndifferentiableError
from engine.metaparameters.weights import ExampleWeights
from engine.routine.optimizers import Optimizer, sgd
from engine.step.reference import step_vjp
from engine.step.step import plain_step, traced_step
from tests.engine.step.one_step import STEP, autograd_vjp, setting, worst_error
from tests.helpers.trainings import problems


@dataclass(frozen=True, eq=False)
class Scaled(ExampleWeights):
    """Weights that somebody detached on their way to the loss."""

    def weights(self, z, indices):
        """Cut z out of the graph."""
        return z.detach()[indices]


@pytest.mark.parametrize("shift", [0.0, 0.3], ids=["at-z", "off-z"])
@pytest.mark.parametrize("kind", problems.kinds())
@pytest.mark.parametrize("optimizer", problems.OPTIMIZERS)
def test_vjp_equals_autograd_of_the_whole_step(optimizer, kind, shift):
    """Every part of the adjoint and of z's share; counts off z = 0 have a second derivative too.

    1e-12: float64 sums of under a hundred terms in another order.
    """
    routine, state, z, cotangent = setting(optimizer, kind, shift=shift)
    expected_adjoint, expected_shares = autograd_vjp(routine, state, z, STEP, cotangent)

    adjoint, shares = step_vjp(routine, state, z, STEP, cotangent)

    entering = {name for name, each in routine.metaparameters.items() if each.enters(STEP)}
    assert adjoint.keys() == state.keys()
    assert shares.keys() == entering
    assert worst_error(adjoint, expected_adjoint) < 1e-12
    assert all(worst_error({n: shares[n]}, {n: expected_shares[n]}) < 1e-12 for n in entering)


@pytest.mark.parametrize("kind", problems.kinds())
def test_share_is_the_same_when_the_adjoint_is_not_wanted(kind):
    """The first step that reads z saves the product with the state, and nothing else."""
    routine, state, z, cotangent = setting("adamw", kind)
    _, expected = step_vjp(routine, state, z, STEP, cotangent)

    adjoint, shares = step_vjp(routine, state, z, STEP, cotangent, to_state=False)

    assert adjoint == {}
    assert shares.keys() == expected.keys()
    assert all(torch.equal(shares[name], expected[name]) for name in expected)


def test_step_that_z_does_not_enter_has_an_adjoint_and_no_share():
    """Counts act at one step; all later ones still carry the adjoint back to it."""
    routine, state, z, cotangent = setting("adamw", "counts")
    expected, _ = autograd_vjp(routine, state, z, STEP + 1, cotangent)

    adjoint, shares = step_vjp(routine, state, z, STEP + 1, cotangent)

    assert shares == {}
    assert worst_error(adjoint, expected) < 1e-12


def test_vjp_is_linear_in_its_cotangent():
    """A product that mixes in anything else, such as a stale gradient, is not linear."""
    routine, state, z, cotangent = setting("adamw", "all")
    adjoint, shares = step_vjp(routine, state, z, STEP, cotangent)

    twice, twice_shares = step_vjp(
        routine, state, z, STEP, {name: 2 * row for name, row in cotangent.items()}
    )

    assert all(torch.equal(twice[name], 2 * adjoint[name]) for name in adjoint)
    assert all(torch.equal(twice_shares[name], 2 * shares[name]) for name in shares)


def test_vjp_does_not_depend_on_the_order_of_names():
    """A state that comes back from zarr lists its vectors in another order."""
    routine, state, z, cotangent = setting("adamw", "all")
    expected, _ = step_vjp(routine, state, z, STEP, cotangent)

    adjoint, _ = step_vjp(
        routine, dict(reversed(state.items())), z, STEP, dict(reversed(cotangent.items()))
    )

    assert all(torch.equal(adjoint[name], expected[name]) for name in expected)


@pytest.mark.parametrize("optimizer", problems.OPTIMIZERS)
def test_plain_step_repeats_every_bit_with_dropout(optimizer):
    """Replay is only replay if the step made again is the step."""
    routine, state, z, _ = setting(optimizer, "all")
    before = {name: row.clone() for name, row in state.items()}

    first, loss = plain_step(routine, state, z, STEP)
    again, loss_again = plain_step(routine, state, z, STEP)

    assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(loss, loss_again)
    assert all(torch.equal(state[name], before[name]) for name in before)


@pytest.mark.parametrize("shift", [0.0, 0.3], ids=["at-z", "off-z"])
@pytest.mark.parametrize("optimizer", problems.OPTIMIZERS)
def test_traced_step_is_the_plain_step(optimizer, shift):
    """The oracle must differentiate the run that is trained: 1e-15 is a few roundings."""
    routine, state, z, _ = setting(optimizer, "all", shift=shift)
    leaves = {name: row.clone().requires_grad_() for name, row in state.items()}

    traced = traced_step(routine, leaves, z, STEP)

    plain, _ = plain_step(routine, state, z, STEP)
    assert max(float((traced[name].detach() - plain[name]).abs().max()) for name in plain) <= 1e-15


def test_plain_step_keeps_no_graph():
    """A state that drags its graph along fills the memory one step at a time."""
    routine, state, z, _ = setting("adamw", "all")

    following, loss = plain_step(routine, state, z, STEP)

    assert not any(row.requires_grad for row in [*following.values(), loss])


def test_loss_of_a_step_is_that_of_its_batch_at_its_start():
    """People compare the loss curve with their own loop, which prints it before the update."""
    routine, state, z, _ = setting("sgd", "weights")
    term = next(routine.terms(STEP))
    weights = z["weights"][routine.order.batch(STEP)]
    expected = (
        weights * routine.term_losses(state["params"], term, routine.point(), STEP)
    ).sum() / 5

    _, loss = plain_step(routine, state, z, STEP)

    assert float(loss) == pytest.approx(float(expected), rel=1e-14)


def test_loss_that_is_linear_in_the_parameters_is_refused():
    """Its gradient is a constant; so is one whose custom backward is cut out of the graph."""
    routine, state, z, cotangent = setting("sgd", "weights")
    linear = replace(
        routine, loss=lambda model, batch: model[0](batch[0]).sum(dim=1), skip_idle=False
    )

    with pytest.raises(UndifferentiableError, match=r"step 4 does not depend on the parameters"):
        step_vjp(linear, state, z, STEP, cotangent)


def test_metaparameter_that_is_detached_is_refused():
    """Its metagradient would be zero by mistake, and look like an example without influence."""
    routine, state, z, cotangent = setting("sgd", "weights")
    cut = replace(routine, metaparameters={"weights": Scaled(routine.point()["weights"])})

    with pytest.raises(UndifferentiableError, match=r"'weights' enters step 4.*detach"):
        step_vjp(cut, state, z, STEP, cotangent)


def test_optimizer_that_forgets_a_moment_is_refused():
    """A state that shrinks on the way cannot be pulled back, so the names are compared."""
    plain = sgd(0.9)

    def update(state, gradient, hyper, step):
        return {"params": plain.update(state, gradient, hyper, step)["params"]}

    routine, state, z, cotangent = setting("momentum", "weights")
    forgetful = Optimizer("forgetful", plain.hyperparameters, plain.init, update)

    with pytest.raises(ConfigurationError, match=r"'forgetful' maps.*momentum"):
        step_vjp(replace(routine, optimizer=forgetful), state, z, STEP, cotangent)


def test_optimizer_that_detaches_a_moment_is_refused():
    """The metagradient would lose all that reached the parameters by way of the moment."""
    plain = sgd(0.9)

    def update(state, gradient, hyper, step):
        return plain.update(
            {**state, "momentum": state["momentum"].detach()}, gradient, hyper, step
        )

    routine, state, z, cotangent = setting("momentum", "weights")
    detached = Optimizer("detached", plain.hyperparameters, plain.init, update)

    with pytest.raises(UndifferentiableError, match=r"'detached' does not depend on 'momentum'"):
        step_vjp(replace(routine, optimizer=detached), state, z, STEP, cotangent)


def test_an_error_of_the_users_own_keeps_its_words():
    """Only torch's words for a missing second derivative are replaced, nothing else is hidden."""

    def broken(model, batch):
        raise RuntimeError("the tokenizer has no vocabulary")

    routine, state, z, cotangent = setting("sgd", "weights")

    with pytest.raises(RuntimeError, match="^the tokenizer has no vocabulary$"):
        step_vjp(replace(routine, loss=broken), state, z, STEP, cotangent)
