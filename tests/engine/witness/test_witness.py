"""The witness: a step of the user's own module beside the engine's."""

import gc
import weakref

import pytest
import torch
from torch import nn

import engine
from engine.errors import WitnessError
from engine.witness.compared_point import moved_state
from engine.witness.witness import testify as ask
from tests.helpers.trainings import problems
from tests.strangers.plain import by_engine, loss, mlp
from tests.strangers.sound import MODULES
from tests.strangers.witnessed import output, routine


def test_a_metagradient_says_what_the_witness_saw():
    """Figures and a sentence, as small as roundings are."""
    found = engine.metagradient(routine(), output)

    assert found.witness.was_asked
    assert found.witness.gradient < 1e-12
    assert found.witness.output < 1e-12
    assert found.witness.curvature < 1e-6
    assert "agrees with the engine's" in found.witness.sentence


def test_without_a_witness_the_result_says_so():
    """One switch, and nobody takes the number for a compared one."""
    run = routine()

    found = engine.metagradient(run, output, witness=False)

    assert not found.witness.was_asked
    assert "no witness" in found.witness.sentence
    asked = engine.metagradient(run, output)
    assert torch.equal(found["weights"], asked["weights"])  # it changes no bit


@pytest.mark.parametrize("call", ["metagradient", "metagradients", "train", "check"])
def test_every_public_call_asks_it(call):
    """A constant from the outer module is one that no reference inside of the engine notices."""
    model = mlp()
    run = routine(model, loss=lambda net, b: loss(net, b) + model[0].weight.detach().norm())
    calls = {
        "metagradient": lambda: engine.metagradient(run, output),
        "metagradients": lambda: engine.metagradients(run, [output]),
        "train": lambda: engine.train(run),
    }
    if call == "check":
        report = engine.check(run, output, num_directions=1)
        (found,) = [each for each in report.checks if each.name == "witness"]
        assert found.verdict.name == "REFUSE"
        return
    with pytest.raises(WitnessError, match="besides the module"):
        calls[call]()


def test_it_leaves_the_module_as_it_was():
    """Parameters, buffers, gradients, modes, caches and torch's generators are the user's."""
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 3))
    model = model.double().eval()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    drawn = torch.get_rng_state()

    engine.metagradient(routine(model), output)

    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert model[1].weight.grad is None
    assert not any(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), drawn)


def test_a_module_that_nobody_holds_is_not_kept_alive():
    """A second model in memory would be the price of a step; the engine's copy serves then."""
    model = mlp()
    held = weakref.ref(model)
    run = routine(model)
    del model
    gc.collect()

    assert held() is None
    assert ask(run, [output], run.point()).gradient < 1e-12


def test_other_values_of_z_have_the_same_witness():
    """The module that was handed in is known to every routine that was made of the first one."""
    model = mlp()
    run = routine(model).with_metaparameters({"weights": torch.full((24,), 2.0).double()})

    assert run.given is model


@pytest.mark.parametrize("kind", problems.kinds())
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_it_is_silent_on_sound_runs(kind, optimizer):
    """Dropout, injected examples, pixels and rates as metaparameters included."""
    run = problems.routine(optimizer, kind)

    seen = ask(run, [problems.output], run.point())

    assert seen.gradient < 1e-10
    assert seen.curvature is None or seen.curvature < 1e-4


@pytest.mark.parametrize("rate", [0.0, [0.0, 0.1, 0.3, 0.3, 0.2, 0.0]])
def test_a_rate_of_zero_at_first_does_not_blind_it(rate):
    """With a warm-up s_1 is s_0, where a read of the initial parameters would be right."""
    model = mlp()
    run = routine(
        model,
        learning_rate=rate,
        loss=lambda net, b: loss(net, b) * model[0].bias.detach().norm(),
    )

    with pytest.raises(WitnessError, match="besides the module"):
        ask(run, [output], run.point())


def test_a_line_of_the_users_code_is_named():
    """Whoever reads the message should not have to look for the place."""
    head = nn.Parameter(torch.eye(3, dtype=torch.float64))
    run = routine(
        loss=lambda net, b: torch.nn.functional.cross_entropy(
            net(b[0]) @ head, b[1], reduction="none"
        )
    )

    with pytest.raises(WitnessError, match=r"shape \(3, 3\).*test_witness\.py:\d+"):
        engine.metagradient(run, output)


def test_an_optimizer_that_reads_another_tensor_is_refused():
    """A learned rate that is no metaparameter would be a constant."""
    rate = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)

    def update(state, gradient, hyper, step):
        return {"params": state["params"] - rate * gradient + 0 * hyper["learning_rate"]}

    own = engine.Optimizer("own", {}, lambda params: {}, update)

    with pytest.raises(WitnessError, match="optimizer reads"):
        engine.metagradient(routine(optimizer=own), output)


def test_low_precision_in_the_output_alone_is_refused():
    """Its digits are noise, whatever the training computes in."""

    def low(model):
        return output(model).to(torch.bfloat16)

    with pytest.raises(engine.EngineError, match="output computes in torch.bfloat16"):
        engine.metagradient(routine(), low)


def test_without_the_hooks_of_a_parameter_it_would_notice(monkeypatch):
    """The witness is worth something only if it sees what the engine drops."""
    monkeypatch.setattr(engine.Routine, "hooked", lambda self, gradient, *_: gradient)

    with pytest.raises(WitnessError, match="gradient by '0.weight' is off"):
        by_engine(MODULES["hook that masks"])


def test_without_bound_parameters_in_the_backward_pass_it_would_notice(monkeypatch):
    """What 0.1.0 did: the initial parameters were back before a checkpoint computed again."""
    call = engine.Routine.call

    def forgetful(self, function, params, *args, training):
        result = call(self, function, params, *args, training=training)
        if training:
            with self.binding.keeping():
                self.binding.put({n: t.clone().requires_grad_() for n, t in self.trainable.items()})
        return result

    monkeypatch.setattr(engine.Routine, "call", forgetful)

    with pytest.raises(WitnessError, match="gradient by"):
        by_engine(MODULES["checkpoint"])


def _counted(run_loss, seen):
    def counted(net, batch, **given):
        seen.append(len(batch[0]))
        return run_loss(net, batch, **given)

    return counted


@pytest.mark.parametrize(("width", "few"), [(8192, 1), (2048, 6), (10, 8)])
def test_it_takes_three_steps_and_a_product_of_few_examples(width, few):
    """The price of every run: what needs no step, no twin and no more examples takes none.

    More of them cost nothing where a net is so small that calls cost, and not numbers.
    """
    seen = []
    model = mlp(width=width).float()
    run = routine(
        model,
        loss=_counted(loss, seen),
        examples=tuple(c.float() if c.is_floating_point() else c for c in routine().examples),
        metaparameters={"weights": engine.ExampleWeights(torch.ones(24))},
    )
    seen.clear()

    found = ask(run, [], run.point())

    # The fourth of the few is by their weights, and the last in float32.
    assert seen == [8, 8, 8, few, few, few, few]
    assert found.curvature < 1e-5  # float32, whatever the processor adds up first


def test_a_loss_that_depends_on_other_examples_is_compared_among_few():
    """One alone has another mean than the batch, and a loss of its own; then two are asked."""
    seen = []

    def centred(net, batch):
        logits = net(batch[0])
        return torch.nn.functional.cross_entropy(
            logits - logits.mean(0).detach(), batch[1], reduction="none"
        )

    run = routine(mlp(width=8192), loss=_counted(centred, seen), learning_rate=1e-3)
    seen.clear()

    with pytest.raises(WitnessError, match="second derivative"):
        ask(run, [], run.point())

    assert seen[:6] == [8, 8, 8, 1, 2, 2]


def test_no_tensor_is_where_the_run_begins():
    """What reads the initial parameters or statistics would agree there."""
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).double()
    run = routine(model)
    first = run.initial_state()

    state = moved_state(run, first)

    layouts = {"params": run.layout, "buffers": run.statistics.layout}
    for name, layout in layouts.items():
        before, after = layout.views(first[name]), layout.views(state[name])
        for key, value in before.items():
            assert (after[key].norm() - value.norm()).abs() > 5e-3 * value.norm()
            assert (after[key] - value).abs().max() <= 0.2 * max(1, value.abs().max())
    assert (layouts["buffers"].views(state["buffers"])["1.running_var"] > 0).all()


def test_the_witness_runs_the_step_twice_in_place_of_the_other_checks():
    """Noise in an update is in neither the gradient nor the losses that are compared."""
    drawn = torch.Generator().manual_seed(0)

    def update(state, gradient, hyper, step):
        noise = 1e-3 * torch.randn(gradient.shape, generator=drawn, dtype=gradient.dtype)
        return {"params": state["params"] - hyper["learning_rate"] * (gradient + noise)}

    run = routine(optimizer=engine.Optimizer("noisy", {}, lambda params: {}, update))

    with pytest.raises(engine.EngineError, match="Step 1, run twice, gave two different states"):
        engine.metagradient(run, output)


@pytest.mark.parametrize("where", ["loss", "hook", "update"])
def test_in_float32_the_last_bit_tells_who_reads_the_handed_in_module(where):
    """By so little that roundings of another kernel might make as much."""
    model = mlp().float()
    weight = model[0].weight
    examples = tuple(c.float() if c.is_floating_point() else c for c in routine().examples)
    changes = {"metaparameters": {"weights": engine.ExampleWeights(torch.ones(24))}}
    if where == "loss":
        changes["loss"] = lambda net, b: loss(net, b) * (1 + 1e-4 * weight.detach().norm())
    elif where == "hook":
        weight.register_hook(lambda gradient: gradient + 1e-4 * weight.detach())
    else:

        def update(state, gradient, hyper, step):
            rate = hyper["learning_rate"] * (1 + 1e-4 * weight.detach().norm())
            return {"params": state["params"] - rate * gradient}

        changes["optimizer"] = engine.Optimizer("own", {}, lambda params: {}, update)
    run = routine(model, examples=examples, **changes)

    with pytest.raises(WitnessError, match="depends on the numbers that the module"):
        ask(run, [], run.point())
