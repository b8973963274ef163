"""What a step's loss leaves out is skipped, as torch's optimizers do, and a run says so."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import engine
from engine.errors import ConfigurationError, IdleParametersError
from engine.metaparameters.counts import Counts
from engine.preflight.verdict import Verdict
from engine.replay.batched import train_many
from engine.step.step import plain_step, traced_step

STEPS, BATCH, EXAMPLES, RATE = 12, 3, 24, 0.05


class Routed(nn.Module):
    """A mixture of experts; ``calls_idle`` decides whether one with nothing to do is called."""

    def __init__(self, calls_idle: bool = False) -> None:
        super().__init__()
        self.first, self.gate, self.last = nn.Linear(5, 8), nn.Linear(8, 4), nn.Linear(8, 3)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.calls_idle = calls_idle

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits, shape (batch, 3)."""
        hidden = torch.tanh(self.first(inputs))
        share = self.gate(hidden).softmax(-1)
        found = hidden
        for number, expert in enumerate(self.experts):
            rows = (share.argmax(-1) == number).nonzero()[:, 0]
            if len(rows) or self.calls_idle:
                own = torch.tanh(expert(hidden[rows])) * share[rows, number : number + 1]
                found = found.index_add(0, rows, own)
        return self.last(found)


class Forgotten(nn.Module):
    """A layer that no step of training uses, and that evaluation does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 3)
        self.never = nn.Linear(8, 8)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits, shape (batch, 3)."""
        hidden = torch.tanh(self.first(inputs))
        return self.last(hidden if self.training else hidden + self.never(hidden))


class Dropped(nn.Module):
    """Layers that are left out at random in training."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 3)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits, shape (batch, 3)."""
        hidden = torch.tanh(self.first(inputs))
        for layer in self.layers:
            if not self.training or torch.rand(()) < 0.5:
                hidden = hidden + torch.tanh(layer(hidden))
        return self.last(hidden)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "experts that are not called": Routed,
    "experts that are called with nothing": lambda: Routed(calls_idle=True),
    "layers dropped at random": Dropped,
    "a layer that no step uses": Forgotten,
}
Pair = tuple[engine.Optimizer, Callable[[list[nn.Parameter]], torch.optim.Optimizer]]
OPTIMIZERS: dict[str, Pair] = {
    "momentum and decay": (
        engine.sgd(0.9, weight_decay=0.1),
        lambda own: torch.optim.SGD(own, RATE, 0.9, weight_decay=0.1),
    ),
    "Adam": (
        engine.adam((0.8, 0.9), eps=1e-3, eps_root=0.0, weight_decay=0.3),
        lambda own: torch.optim.Adam(own, RATE, (0.8, 0.9), 1e-3, 0.3),
    ),
    "RMSprop": (
        engine.rmsprop(0.9, eps=1e-2, eps_root=0.0, weight_decay=0.3),
        lambda own: torch.optim.RMSprop(own, RATE, 0.9, 1e-2, 0.3),
    ),
    "AdamW, groups": (
        engine.adamw(
            eps=1e-3,
            eps_root=0.0,
            weight_decay=0.3,
            groups=[{"names": "*.bias", "weight_decay": 0.1}],
        ),
        lambda own: torch.optim.AdamW(
            [
                {"params": [p for p in own if p.ndim > 1], "weight_decay": 0.3},
                {"params": [p for p in own if p.ndim == 1], "weight_decay": 0.1},
            ],
            RATE,
            eps=1e-3,
        ),
    ),
}


def _data() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    inputs = 1.5 * torch.randn(EXAMPLES, 5, generator=draw, dtype=torch.float64)
    return inputs, torch.randint(3, (EXAMPLES,), generator=draw)


def _loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def _output(model: nn.Module) -> Tensor:
    inputs, labels = _data()
    return F.cross_entropy(model(inputs.flip(1)), labels)


def _routine(
    model: str, optimizer: engine.Optimizer, skip_idle: bool | None = None
) -> engine.Routine:
    torch.manual_seed(3)
    return engine.Routine(
        MODELS[model]().double(),
        _loss,
        _data(),
        optimizer,
        learning_rate=RATE,
        num_steps=STEPS,
        batch_size=BATCH,
        metaparameters={"weights": engine.ExampleWeights(torch.ones(EXAMPLES).double())},
        skip_idle=skip_idle,
    )


def _by_torch(
    routine: engine.Routine,
    make: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    weights: Tensor,
    clip: float | None = None,
) -> tuple[float, int]:
    """Return the output of the user's own loop, and how often a parameter had no gradient."""
    model, (inputs, labels) = copy.deepcopy(routine.model).train(), _data()
    optimizer, missing = make(list(model.parameters())), 0
    for step in range(STEPS):
        (term,) = routine.batch_terms(step)
        rows = term.indices
        optimizer.zero_grad()
        with routine.seeded(term, step):
            losses = _loss(model, (inputs[rows], labels[rows]))
        ((weights[rows] * losses).sum() / BATCH).backward()
        missing += sum(parameter.grad is None for parameter in model.parameters())
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    with torch.no_grad():
        return float(_output(model.eval())), missing


def _slope(
    routine: engine.Routine,
    make: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    direction: Tensor,
    clip: float | None = None,
) -> float:
    ones, h = torch.ones_like(direction), 1e-6
    up, down = (_by_torch(routine, make, ones + s * h * direction, clip)[0] for s in (1, -1))
    return (up - down) / (2 * h)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("model", MODELS)
def test_metagradient_is_that_of_torchs_own_loop(model, name):
    """Without a word of the user: what torch skips is skipped, what it moves is moved."""
    mine, theirs = OPTIMIZERS[name]
    routine = _routine(model, mine)
    if "AdamW" in name:  # its first step has to be one of a finite derivative
        routine = _routine(model, mine, skip_idle=True)
    output, missing = _by_torch(routine, theirs, torch.ones(EXAMPLES).double())
    assert (missing > 0) == ("with nothing" not in model)
    if missing == 0 and "AdamW" in name:
        pytest.skip("an infinite derivative, in torch's own loop too")

    found = engine.metagradient(routine, _output, witness=False)

    direction = torch.randn(
        EXAMPLES, generator=torch.Generator().manual_seed(7), dtype=torch.float64
    )
    expected = _slope(routine, theirs, direction)
    assert found.output == pytest.approx(output, rel=1e-12)
    assert float(found["weights"] @ direction) == pytest.approx(expected, rel=1e-6)
    assert missing == 0 or "skipped" in found.state


def test_clipping_and_an_average_take_part():
    """A clipped norm is that of all gradients there are; an average goes on at every step."""
    inner = engine.adamw(weight_decay=0.3, clip_norm=0.5)
    routine = _routine("experts that are not called", engine.averaged(inner, 0.8), skip_idle=True)
    z, state = routine.point(), routine.initial_state()
    expected = state["params"]
    for step in range(STEPS):
        before = state["params"]
        state, _ = plain_step(routine, state, z, step)
        expected = state["params"] if step == 0 else 0.8 * expected + 0.2 * state["params"]
        moved = [
            name
            for name, row in routine.layout.views(state["params"] - before).items()
            if row.any()
        ]
        assert len(moved) < len(routine.layout.shapes)

    torch.testing.assert_close(state["average"], expected, rtol=1e-13, atol=0)


def test_state_counts_what_each_tensor_skipped():
    """A count lies in the state, so that a resumed run has the bias of the one that was stopped."""
    mine, theirs = OPTIMIZERS["AdamW, groups"]
    routine = _routine("experts that are not called", mine, skip_idle=True)
    _, missing = _by_torch(routine, theirs, torch.ones(EXAMPLES).double())

    skipped = engine.train(routine)["skipped"]

    counted = dict(zip(routine.layout.shapes, skipped.tolist(), strict=True))
    assert counted["first.weight"] == 0
    assert counted["experts.0.weight"] == counted["experts.0.bias"]
    assert sum(counted.values()) == missing


@pytest.mark.parametrize(
    "options", [{"arity": 3}, {"schedule": "store-all", "unroll": 3}, {"shards": 2}]
)
def test_replay_is_the_gradient_through_the_whole_graph(options):
    """Whatever is kept or replayed, and in shards, it is autograd's own through all steps."""
    options = dict(options)
    routine = _routine("experts that are not called", engine.adamw(), skip_idle=True)
    if shards := options.pop("shards", None):
        routine = engine.Routine(**{**_fields(routine), "shards": shards, "skip_idle": True})
    z = {name: value.requires_grad_() for name, value in routine.point().items()}
    state = routine.initial_state()
    state["params"].requires_grad_()  # as every later state, which comes from z
    with torch.enable_grad():
        for step in range(STEPS):
            state = traced_step(routine, state, z, step)
        (expected,) = torch.autograd.grad(routine.evaluate(_output, state), list(z.values()))

    found = engine.metagradient(routine, _output, **options)

    torch.testing.assert_close(found["weights"], expected, rtol=1e-9, atol=1e-14)


def _fields(routine: engine.Routine) -> dict[str, object]:
    names = "model loss examples optimizer learning_rate num_steps batch_size metaparameters"
    return {name: getattr(routine, name) for name in names.split(" ")}


def _stepped(routine: engine.Routine) -> None:
    state, z = routine.initial_state(), routine.point()
    for step in range(STEPS):
        state, _ = plain_step(routine, state, z, step)


def test_without_a_word_a_step_refuses_where_it_matters():
    """A flow carries out steps by themselves, and has to be told before it trains for days."""
    routine = _routine("layers dropped at random", engine.adamw())
    with pytest.raises(IdleParametersError, match=r"'layers\.\d\.weight'.*skip_idle=True") as error:
        _stepped(routine)
    assert error.value.settings == ("training.skip_idle",)


@pytest.mark.parametrize(
    ("optimizer", "skip_idle"), [(engine.sgd(), None), (engine.adamw(), False)]
)
def test_nothing_is_skipped_where_it_makes_no_difference_or_is_not_wanted(optimizer, skip_idle):
    """Plain descent does not move what has no gradient; False says what zeros do."""
    routine = _routine("layers dropped at random", optimizer, skip_idle)

    assert "skipped" not in engine.train(routine)


def test_many_runs_and_checks_skip_too():
    """Every call of a user's means the same run."""
    routine = _routine("layers dropped at random", engine.adamw())
    z = routine.point()

    one = engine.train(routine)
    first, second = train_many(routine, [z, z])
    report = engine.check(routine, _output, num_directions=2)

    assert torch.equal(first["params"], one["params"])
    assert torch.equal(second["params"], one["params"])
    assert report.verdict is not Verdict.REFUSE, str(report)


def test_a_process_that_begins_in_the_middle_sees_what_was_used_before():
    """Moments tell it: the next segment of a flow may be carried out elsewhere."""
    before = _routine("experts that are not called", engine.adamw(), skip_idle=False)
    state = engine.train(before)
    another = _routine("experts that are not called", engine.adamw())

    plain_step(another, another.initial_state(), another.point(), 3)  # nothing was used before
    with pytest.raises(IdleParametersError, match="experts"):
        plain_step(
            _routine("experts that are not called", engine.adamw()), state, another.point(), 3
        )


def test_a_trained_state_has_what_no_step_used_where_it_began():
    """Whoever evaluates it reads that too."""
    routine = _routine("a layer that no step uses", engine.adamw())

    found = routine.layout.views(engine.train(routine)["params"])

    assert torch.equal(found["never.weight"], routine.trainable["never.weight"])


@pytest.mark.parametrize("decay", [[0.0] + [0.3] * (STEPS - 1), 0.3], ids=["from step 1", "always"])
@pytest.mark.parametrize("together", ["auto", "loop"])
def test_a_decay_that_begins_later_counts_and_batched_runs_are_asked(decay, together):
    """One look at the first step would find that nothing moves."""
    routine = _routine("experts that are not called", engine.sgd(weight_decay=decay))
    z = routine.point()

    states = train_many(routine, [z] * 6, together=together)

    expected = engine.train(_routine("experts that are not called", routine.optimizer, True))
    torch.testing.assert_close(states[3]["params"], expected["params"], rtol=1e-12, atol=0)


def test_a_run_that_is_carried_out_again_keeps_its_checkpoints_apart(tmp_path):
    """Those of the run that was given up have other states."""
    routine = _routine("layers dropped at random", engine.adamw())

    found = engine.metagradient(routine, _output, store=tmp_path, arity=2)

    assert torch.equal(found["weights"], engine.metagradient(routine, _output)["weights"])


def test_injected_counts_use_what_they_read_at_zero_too():
    """Else a derivative at 0 would lack the share of what only the injected examples use."""
    routine = _routine("experts that are not called", engine.sgd(weight_decay=0.3))
    ones = torch.ones(EXAMPLES).double()
    counts = Counts(ones, injection_step=4)
    fields = {**_fields(routine), "metaparameters": {"n": counts}}
    routine = engine.Routine(**fields, skip_idle=True)

    found = engine.metagradient(routine, _output, witness=False)["n"]

    slope = engine.central_difference(routine, _output, {"n": ones}, step_size=1e-6)
    assert float(found @ ones) == pytest.approx(float(slope), rel=1e-6)


def test_a_compiled_step_is_refused():
    """It is one program, the same at every step."""
    routine = _routine("layers dropped at random", engine.adamw())
    with pytest.raises(ConfigurationError, match=r"skip_idle is True, but a compiled step"):
        engine.Routine(**{**_fields(routine), "skip_idle": True, "compile": True})
