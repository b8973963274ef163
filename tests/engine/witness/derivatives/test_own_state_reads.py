"""What a loss reads from the problem's own state, and takes out of the graph."""

import copy

import pytest
import torch
from torch.func import functional_call

import engine
from engine import metagradient
from engine.errors import WitnessError
from engine.metaparameters.initial_parameters import InitialParameters
from tests.engine.routine.own_states import STEPS, TEMPLATE, follow, run, teacher_loop, weights
from tests.helpers.trainings import routines

EVERY = 4


def taught(read):
    """A loss that reads its teacher as ``read`` says."""

    def loss(model, batch, state):
        losses = routines.loss(model, batch)
        wanted = read(lambda: functional_call(TEMPLATE, state["teacher"], (batch[0],)))
        return losses + (model(batch[0]) - wanted).square().mean(dim=1)

    return loss


def without_graph(call):
    with torch.no_grad():
        return call()


def start():
    return {"teacher": {n: 0.9 * p.detach() for n, p in routines.mlp().named_parameters()}}


def copied(state, params, batch, step):
    """The teacher of a Q-learner: a copy of the parameters at every fourth step."""
    del batch
    return {"teacher": dict(params)} if (step + 1) % EVERY == 0 else state


def of(loss, advance=follow, **changes):
    return run(loss=loss, state=start(), advance=advance, **changes)


@pytest.mark.parametrize(
    ("read", "what"),
    [(without_graph, r"no_grad\(\)"), (lambda call: call().detach(), r"detach\(\)")],
    ids=["no_grad", "detach"],
)
def test_a_teacher_without_a_graph_is_refused_by_line(read, what):
    """A step's gradient is right, and so is its derivative by the parameters of that step."""
    with pytest.raises(WitnessError, match=rf"state\['teacher'\].*by {what} at \S+\.py:\d+, so"):
        metagradient(of(taught(read)), routines.output)


def test_it_is_refused_in_float32():
    """Where differences are taken in float64, of a state that is in float32."""
    single = lambda tree: {n: v.float() for n, v in tree.items()}  # noqa: E731 (of one line)
    inputs, labels = routines.examples()
    routine = engine.Routine(
        routines.mlp().float(),
        taught(without_graph),
        (inputs.float(), labels),
        engine.sgd(0.9),
        learning_rate=0.1,
        num_steps=STEPS,
        batch_size=16,
        metaparameters={"weights": engine.ExampleWeights(torch.ones(len(labels)))},
        state={"teacher": single(start()["teacher"])},
        advance=follow,
    )
    with pytest.raises(WitnessError, match="taken out of the graph by no_grad"):
        engine.train(routine)


def test_a_target_that_is_copied_now_and_then_is_refused_later():
    """Nothing follows it in the steps that are looked at first."""
    with pytest.raises(WitnessError, match=r"state\['teacher'\].*so in step \d+"):
        metagradient(of(taught(without_graph), copied), routines.output)


@pytest.mark.parametrize("read", [lambda call: call(), lambda call: engine.stop_gradient(call())])
def test_both_remedies_are_the_loop_without_a_graph(read):
    """The loop reads its teacher under no_grad, as scripts do."""
    own = of(taught(read))
    batches = [own.order.batch(step) for step in range(STEPS)]
    found = metagradient(own, routines.output)
    v = torch.randn(routines.NUM_EXAMPLES, generator=torch.Generator().manual_seed(1)).double()
    above, below = (student_loss(batches, weights() + h * v) for h in (1e-5, -1e-5))

    assert float(found["weights"] @ v) == pytest.approx((above - below) / 2e-5, rel=1e-6)
    assert "not compared" not in found.witness.sentence


def student_loss(batches, z):
    """The loop of ``teacher_loop``, of which the student is judged."""
    students = []
    made = routines.mlp

    def remembered():
        students.append(made())
        return students[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routines, "mlp", remembered)
        teacher_loop(batches, z)
    return float(routines.output(students[0]).detach())


def test_a_read_that_counts_without_a_graph_at_rare_steps_is_refused():
    """Its line is run through at every step, and compared where nothing depends on it."""

    def loss(model, batch, state):
        due = float(int(state["step"]) % 11 == 4)
        read = state["bias"].sum()
        return routines.loss(model, batch) * (1 + due * read.detach() + (1 - due) * read)

    def advance(state, params, batch, step):
        del batch, step
        return {"bias": 1.0 * params["0.bias"], "step": state["step"] + 1}

    own = {"bias": 0.1 + params_of_start()["0.bias"], "step": torch.zeros((), dtype=torch.float64)}
    routine = run(loss=loss, state=own, advance=advance, num_steps=40)
    with pytest.raises(WitnessError, match=r"state\['bias'\].*comes only now and then"):
        metagradient(routine, routines.output)


def params_of_start():
    return {n: p.detach() for n, p in routines.mlp().named_parameters()}


def ramped(model, batch, state):
    return float(state["ramp"]) * routines.loss(model, batch)


def test_a_ramp_may_be_a_number_of_pythons():
    """It follows the number of the step alone, so nothing is lost."""
    routine = run(
        loss=ramped,
        state={"ramp": torch.zeros((), dtype=torch.float64)},
        advance=lambda state, params, batch, step: {"ramp": state["ramp"] * 0 + step / STEPS},
    )
    found = metagradient(routine, routines.output)
    v = torch.randn(routines.NUM_EXAMPLES, generator=torch.Generator().manual_seed(1)).double()
    expected = engine.central_difference(routine, routines.output, {"weights": v})

    assert float(found["weights"] @ v) == pytest.approx(expected, rel=1e-6)


def test_a_reference_that_stays_may_be_read_without_a_graph_unless_the_start_is_z():
    """It is a constant of the run, but for a run that asks for its initial parameters."""
    anchored = {
        "loss": taught(without_graph),
        "state": {"teacher": lambda params: {n: 0.9 * p for n, p in params.items()}},
        "advance": lambda state, params, batch, step: state,
    }
    found = metagradient(run(**anchored), routines.output)
    assert float(found["weights"].norm()) > 0

    flat = torch.nn.utils.parameters_to_vector(copy.deepcopy(TEMPLATE).parameters()).detach()
    kinds = {"start": InitialParameters(flat)}
    with pytest.raises(WitnessError, match="taken out of the graph by no_grad"):
        metagradient(run(**anchored, metaparameters=kinds), routines.output)


def _ramp(state, params, batch, step):
    del params, batch, step
    return {"ramp": state["ramp"] + torch.tensor([0.1, 0.2], dtype=torch.float64)}


def _mixed(state, params, batch, step):
    if step != 2:  # and never again
        return _ramp(state, params, batch, step)
    return {"ramp": state["ramp"] + next(iter(params.values())).mean()}


def _ramped(model, batch, state=None):
    losses = routines.loss(model, batch)
    return losses if state is None else losses * (1 + state["ramp"].detach()[1])


def test_several_numbers_that_follow_the_step_alone_may_be_read_in_any_way():
    """As a ramp of one number; that earlier steps have moved them says nothing of what moved."""
    start = {"ramp": torch.tensor([0.1, 0.2], dtype=torch.float64)}
    training = run(loss=_ramped, state=start, advance=_ramp)
    direction = torch.randn(
        routines.NUM_EXAMPLES, generator=torch.Generator().manual_seed(5), dtype=torch.float64
    )

    found = next(iter(metagradient(training, routines.output).gradient.items()))

    wanted = engine.central_difference(training, routines.output, {found[0]: direction})
    assert float(found[1] @ direction) == pytest.approx(wanted, rel=1e-6)


def test_several_numbers_that_followed_the_parameters_once_may_not():
    """No step that is compared moves them with the parameters."""
    start = {"ramp": torch.tensor([0.1, 0.2], dtype=torch.float64)}

    with pytest.raises(WitnessError, match=r"state\['ramp'\]"):
        metagradient(run(loss=_ramped, state=start, advance=_mixed), routines.output)
