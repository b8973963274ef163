"""An optimizer's update that is cut, that jumps, or that is compared on a sample of its numbers."""

import pytest
import torch

import engine
from engine.errors import WitnessError
from engine.metaparameters.initial_parameters import InitialParameters
from engine.witness.witness import testify as ask
from tests.strangers.plain import loss, mlp
from tests.strangers.witnessed import output, routine


@pytest.mark.parametrize("which", ["decay", "momentum", "half of the momentum", "rate"])
def test_an_update_that_cuts_a_part_of_itself_is_refused(which):
    """Nothing is missing from its graph, and each metagradient would be wrong."""

    def cut(tensor, name):
        return tensor.detach() if which == name else tensor

    def update(state, gradient, hyper, step):
        velocity = cut(state["m"], "momentum")
        if which == "half of the momentum":
            velocity = (velocity + velocity.detach()) / 2
        moment = 0.9 * velocity + gradient + 0.1 * cut(state["params"], "decay")
        rate = hyper["learning_rate"] / (1 + 1e3 * cut(gradient.square().mean(), "rate"))
        return {"params": state["params"] - rate * moment, "m": moment}

    own = engine.Optimizer("own", {}, lambda p: {"m": torch.zeros_like(p)}, update)

    with pytest.raises(engine.EngineError, match="update of optimizer 'own'"):
        engine.metagradient(routine(optimizer=own, learning_rate=0.1), output)


PARTS = {
    "alone": lambda own: own,
    "beside muon": lambda own: engine.muon(rest=own),
    "beside muon, averaged and clipped": lambda own: engine.averaged(
        engine.muon(rest=own, clip_norm=1.0, groups=[{"rate": 0.5}])
    ),
}


@pytest.mark.parametrize("made", PARTS)
def test_an_update_that_cuts_a_part_of_itself_in_later_steps_is_refused(made):
    """Also where it is a part of one of the engine's own, which are compared at one step."""

    def update(state, gradient, hyper, step):
        velocity = state["m"]
        if step > 1:
            velocity = (velocity + velocity.detach()) / 2
        moment = 0.9 * velocity + gradient
        return {"params": state["params"] - hyper["learning_rate"] * moment, "m": moment}

    own = engine.Optimizer("own", {}, lambda p: {"m": torch.zeros_like(p)}, update)

    with pytest.raises(WitnessError, match="update of optimizer"):
        engine.metagradient(routine(optimizer=PARTS[made](own)), output)


UNSETTLED = {
    "not finite": lambda params: (0 * params).abs().sqrt(),
    "in float32": lambda params: 0.1 * params.float().double(),
}


@pytest.mark.parametrize("part", UNSETTLED)
def test_an_update_beside_which_differences_do_not_settle_is_told(part):
    """Else the witness would vouch for a derivative of which it has learned nothing."""

    def update(state, gradient, hyper, step):
        params = state["params"]
        more = UNSETTLED[part](params) if step == 3 else 0.0
        return {"params": params - hyper["learning_rate"] * gradient + more}

    torch.manual_seed(0)
    run = routine(optimizer=engine.Optimizer("own", {}, lambda params: {}, update))

    assert "derivative of the update was not compared" in ask(run, [], run.point()).note


def _wide(optimizer):
    """A run of more numbers than an update is compared on."""
    return routine(mlp(width=8192), optimizer=optimizer, learning_rate=1e-3)


@pytest.mark.parametrize("coupled", [False, True])
def test_of_many_numbers_a_sample_is_enough_where_each_is_treated_by_itself(coupled):
    """A norm of all of them is not that of a sample; then all are compared."""
    sizes = []

    def update(state, gradient, hyper, step):
        sizes.append(len(gradient))
        share = 1 / (1 + gradient.norm()) if coupled else 1.0
        return {"params": state["params"] - hyper["learning_rate"] * share * gradient}

    run = _wide(engine.Optimizer("own", {}, lambda params: {}, update))

    ask(run, [], run.point())

    assert run.layout.size > 1 << 16
    assert (sizes[-1] == run.layout.size) is coupled


@pytest.mark.parametrize("which", ["all", "norm"])
def test_an_update_of_many_numbers_that_cuts_a_part_is_refused(which):
    """In the sample as in all."""

    def update(state, gradient, hyper, step):
        if which == "all":
            gradient = gradient + 0.5 * state["params"].detach()
        else:
            gradient = gradient / (1 + gradient.detach().norm())
        return {"params": state["params"] - hyper["learning_rate"] * gradient}

    run = _wide(engine.Optimizer("own", {}, lambda params: {}, update))

    with pytest.raises(WitnessError, match="update of optimizer"):
        ask(run, [], run.point())


def test_a_small_rate_hides_no_part_that_an_update_cuts():
    """Beside the parameters themselves, what is added to them in a step is next to nothing."""

    def update(state, gradient, hyper, step):
        moment = gradient + 1e-3 * state["params"].detach()
        return {"params": state["params"] - hyper["learning_rate"] * moment}

    own = engine.Optimizer("own", {}, lambda params: {}, update)
    torch.manual_seed(0)  # of few numbers, what is cut may cancel along a direction

    with pytest.raises(WitnessError, match="update of optimizer"):
        ask(routine(optimizer=own, learning_rate=1e-6), [], routine().point())


def _lion(direction):
    def update(state, gradient, hyper, step):
        moved = direction(0.9 * state["m"] + 0.1 * gradient) + 0.01 * state["params"]
        moment = 0.99 * state["m"] + 0.01 * gradient
        return {"params": state["params"] - hyper["learning_rate"] * moved, "m": moment}

    return engine.Optimizer("lion", {}, lambda p: {"m": torch.zeros_like(p)}, update)


@pytest.mark.parametrize("rate", [1e-3, [0.0, 0.0, 1e-3, 1e-3, 1e-3, 0.0]])
@pytest.mark.parametrize(
    "direction",
    [torch.sign, lambda c: torch.round(1e3 * c) / 1e3, lambda c: (c > 0).double() - 0.5 + 0 * c],
    ids=["sign", "rounded", "compared"],
)
def test_an_optimizer_that_follows_its_gradient_in_jumps_is_refused_by_name(direction, rate):
    """A finite difference agrees that its derivative is 0, and so would a metagradient be."""
    run = routine(optimizer=_lion(direction), learning_rate=rate)

    words = "'lion' uses its gradient only through jumps.*'weights'"
    with pytest.raises(engine.EngineError, match=words):
        engine.metagradient(run, output)

    # Whoever only trains it, as to measure how smooth it is, is not refused.
    assert ask(run, [output], run.point(), jumps=True).was_asked


def test_where_a_rate_is_asked_for_jumps_are_only_told():
    """Its metagradient does not go through the gradient, and that of the weights is 0 by right."""
    rates = engine.LearningRatePoints(torch.full((2,), -7.0).double(), num_steps=6)
    run = routine(
        optimizer=_lion(torch.sign), metaparameters=routine().metaparameters | {"rates": rates}
    )

    found = engine.metagradient(run, output)

    assert found["rates"].any()
    assert "'weights' is 0 whatever the data" in found.witness.sentence


@pytest.mark.parametrize(
    "direction",
    [lambda c: torch.tanh(c / 1e-3), lambda c: c / (c.square() + 1e-6).sqrt()],
    ids=["tanh", "root"],
)
def test_a_smooth_sign_is_heard(direction):
    """What the remedy says has a metagradient that is not 0."""
    found = engine.metagradient(routine(optimizer=_lion(direction), learning_rate=1e-3), output)

    assert found["weights"].any()
    assert "jumps" not in found.witness.sentence


def test_an_update_that_rests_every_second_step_does_not_jump():
    """Gradients are accumulated meanwhile: nothing follows them in that one step."""

    def update(state, gradient, hyper, step):
        moment = state["m"] + gradient
        if step % 2:
            return {"params": 1.0 * state["params"], "m": moment}
        return {"params": state["params"] - hyper["learning_rate"] * moment, "m": 0 * moment}

    own = engine.Optimizer("every second", {}, lambda p: {"m": torch.zeros_like(p)}, update)

    found = engine.metagradient(routine(optimizer=own), output)

    assert found["weights"].any()


def test_a_metagradient_of_nothing_but_zeros_is_told():
    """Each value of each gradient is clipped, so no weight reaches the output."""
    run = routine(optimizer=engine.sgd(clip_value=1e-5))

    for witness in (True, False):
        found = engine.metagradient(run, output, witness=witness)
        assert not found["weights"].any()
        assert "'weights' is 0 in every number" in found.witness.sentence


def _first_step_apart(state, gradient, hyper, step):
    moment = gradient if step == 0 else 0.9 * state["m"] + gradient
    return {"params": state["params"] - hyper["learning_rate"] * moment, "m": moment}


def test_an_update_that_reads_its_moments_from_the_second_step_on_is_right():
    """As torch's own momentum does: nothing is lost of what is not read."""
    own = engine.Optimizer("own", {}, lambda p: {"m": torch.zeros_like(p)}, _first_step_apart)

    net, settings = mlp(), {"learning_rate": 0.1}

    found = engine.metagradient(routine(net, optimizer=own, **settings), output)

    wanted = engine.metagradient(routine(net, optimizer=engine.sgd(0.9), **settings), output)
    assert torch.allclose(found["weights"], wanted["weights"], rtol=1e-10, atol=1e-14)


def test_a_moment_that_is_read_without_a_graph_is_refused_in_the_first_step_too():
    """Its value is in the result."""

    def update(state, gradient, hyper, step):
        return _first_step_apart({**state, "m": state["m"].detach()}, gradient, hyper, step + 1)

    own = engine.Optimizer("own", {}, lambda p: {"m": torch.zeros_like(p)}, update)

    with pytest.raises(engine.EngineError, match="does not depend on 'm'|derivative that is off"):
        engine.metagradient(routine(optimizer=own), output)


def test_an_update_by_the_difference_of_gradients_is_right():
    """Steps of Barzilai and Borwein: the witness must not hand it the same gradient twice."""

    def update(state, gradient, hyper, step):
        way, change = state["params"] - state["before"], gradient - state["last"]
        share = ((way @ change).abs() / (change @ change + 1e-8)).clamp(max=0.5)
        rate = share if step else hyper["learning_rate"]
        moved = state["params"] - rate * gradient
        return {"params": moved, "before": state["params"], "last": gradient}

    def init(params):
        return {"before": params.clone(), "last": torch.zeros_like(params)}

    run = routine(optimizer=engine.Optimizer("bb", {}, init, update), learning_rate=0.05)
    v = torch.randn(24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    found = float(engine.metagradient(run, output)["weights"] @ v)

    wanted = engine.central_difference(run, output, {"weights": v})
    assert found == pytest.approx(wanted, rel=1e-5)


def test_an_update_in_place_is_told_as_one():
    """Not as a layer of the module, which it may be as well."""
    own = engine.Optimizer(
        "own",
        {},
        lambda p: {},
        lambda state, gradient, hyper, step: {
            "params": state["params"].sub_(hyper["learning_rate"] * gradient)
        },
    )

    with pytest.raises(engine.EngineError, match="update of optimizer 'own', changes .* new tens"):
        engine.metagradient(routine(optimizer=own), output)


@pytest.mark.parametrize("maps", [torch.sign, lambda g: g.clamp(-1, 1)], ids=["sign", "clipped"])
def test_an_update_that_reads_a_large_gradient_outside_of_the_graph_is_refused(maps):
    """A sign, or what is clipped, stays as it is where its input moves a little."""

    def update(state, gradient, hyper, step):
        return {"params": state["params"] - hyper["learning_rate"] * maps(gradient.detach())}

    run = routine(
        loss=lambda model, batch: 1e7 * loss(model, batch),
        optimizer=engine.Optimizer("cut", {}, lambda p: {}, update),
        learning_rate=0.01,
    )

    with pytest.raises(engine.EngineError, match="'cut'"):
        engine.metagradient(run, output)


@pytest.mark.parametrize("every", [7, 10, 100])
@pytest.mark.parametrize("cut", [torch.Tensor.detach, lambda g: g.data, None])
def test_an_update_that_cuts_a_part_of_itself_now_and_then_is_refused(cut, every):
    """A preconditioner that is made anew every so many steps, at none that is always compared."""

    def update(state, gradient, hyper, step):
        scale = state["v"]
        if (step + 1) % every == 0 or step == every + 8 - 100:
            scale = 0.5 * scale + 0.5 * (gradient if cut is None else cut(gradient)).square()
        rate = hyper["learning_rate"] / (scale + 0.01).sqrt()
        return {"params": state["params"] - rate * gradient, "v": scale}

    own = engine.Optimizer("own", {}, lambda p: {"v": torch.zeros_like(p)}, update)
    run = routine(mlp(torch.nn.Tanh()), optimizer=own, learning_rate=0.01, num_steps=22)
    if cut is not None:
        with pytest.raises(WitnessError, match=r"update of optimizer 'own'.*only now and then"):
            engine.metagradient(run, output)
        return
    found, along = engine.metagradient(run, output), torch.randn(24).double()

    wanted = engine.central_difference(run, output, {"weights": along})
    assert float(found["weights"] @ along) == pytest.approx(float(wanted), rel=1e-4)


def _anchored(start, own_state=False):
    """A run that is drawn back to what its moments, or its own state, began as."""

    def update(state, gradient, hyper, step):
        pull = gradient + (0 if own_state else 0.1 * (state["params"] - state["anchor"]))
        following = {"params": state["params"] - hyper["learning_rate"] * pull}
        return following if own_state else {**following, "anchor": state["anchor"]}

    def drawn_back(model, batch, state=None):
        losses = loss(model, batch)
        if state is None:
            return losses
        far = [(p - state[n]).square().sum() for n, p in model.named_parameters()]
        return losses + 0.05 * sum(far)

    def anchor(params):
        return {} if own_state else {"anchor": start(params)}

    net = mlp(torch.nn.Tanh())
    flat = torch.cat([p.detach().flatten() for p in net.parameters()])
    more = {}
    if own_state:
        more = {
            "loss": drawn_back,
            "state": {n: lambda p, n=n: start(p[n]) for n, _ in net.named_parameters()},
            "advance": lambda state, params, batch, step: state,
        }
    return routine(
        net,
        optimizer=engine.Optimizer("own", {}, anchor, update),
        metaparameters={"start": InitialParameters(flat)},
        learning_rate=0.1,
        **more,
    )


@pytest.mark.parametrize("own_state", [False, True])
@pytest.mark.parametrize("start", [torch.clone, torch.sin, lambda p: p + 0.1 * torch.randn_like(p)])
def test_what_begins_as_a_function_of_the_start_is_a_part_of_its_metagradient(start, own_state):
    """Slow weights, anchors and averages begin at the parameters; noise there is drawn once."""
    run, along = _anchored(start, own_state), torch.randn(103).double()

    found = engine.metagradient(run, output)["start"] @ along

    wanted = engine.central_difference(run, output, {"start": along})
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)


@pytest.mark.parametrize("own_state", [False, True])
@pytest.mark.parametrize("start", [lambda p: p.detach().clone(), lambda p: (p + p.data) / 2])
def test_a_start_that_is_cut_out_of_the_graph_is_refused(start, own_state):
    """Its share of the metagradient would be missing."""
    with pytest.raises(WitnessError, match="The start of .* is made of the parameters"):
        engine.metagradient(_anchored(start, own_state), output)


def _root_in_place(moment):
    root = moment.sqrt()
    return root.square() / root.add_(1.0)


def _into_another(moment):
    return torch.mul(moment, 2.0, out=torch.empty_like(moment))


@pytest.mark.parametrize("first", [0, 1, 4])
@pytest.mark.parametrize("change", [_root_in_place, _into_another])
def test_an_update_that_torch_cannot_differentiate_gets_one_message(change, first):
    """Also where only a later step goes that way."""

    def update(state, gradient, hyper, step):
        moment = 0.9 * state["v"] + gradient.square() + 1e-3
        moved = change(moment) if step >= first else moment
        return {"params": state["params"] - hyper["learning_rate"] * moved, "v": moment}

    own = engine.Optimizer("own", {}, lambda p: {"v": torch.zeros_like(p)}, update)

    with pytest.raises(engine.EngineError, match="(?s)in place|new tensors|fails"):
        engine.metagradient(routine(optimizer=own, learning_rate=0.01), output)
