"""Small routines: more than twenty that are broken on purpose, and more than twenty sound ones.

A broken one trains and gives numbers, or would if nobody looked. ``BROKEN`` says which check has to
find it, and a word that its cause has to hold.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from engine import Counts, ExampleWeights, LearningRatePoints, Metaparameter, Optimizer, Routine
from engine.determinism import generator
from engine.hyperparameters import Scalars
from engine.metaparameters import GroupWeights, InitialParameters, Inputs, TokenWeights
from engine.optim import adam, adamw, sgd
from engine.preflight.verdict import Check, CheckReport, Verdict

NUM_EXAMPLES, NUM_STEPS, BATCH = 96, 30, 16


@dataclass(frozen=True)
class Broken:
    """A routine with one fault.

    Attributes:
        make: Builds it.
        checks: Names of checks that may find the fault.
        words: Text that the cause must hold.
    """

    make: Callable[[], Routine]
    checks: tuple[str, ...]
    words: str

    def found_by(self, report: CheckReport) -> Check | None:
        """Return the check that refuses or warns with the right cause, or None."""
        for each in report.checks:
            is_alarm = each.name in self.checks and each.verdict is not Verdict.PASS
            if is_alarm and self.words in each.cause:
                return each
        return None


def examples(num: int = NUM_EXAMPLES, seed: int = 0, dtype=torch.float64) -> tuple[Tensor, Tensor]:
    """Three classes of points in eight dimensions around their own centres."""
    drawn = generator(seed, "points")
    centres = torch.randn(3, 8, generator=generator(7, "centres"), dtype=torch.float64)
    labels = torch.randint(0, 3, (num,), generator=drawn)
    noise = torch.randn(num, 8, generator=drawn, dtype=torch.float64)
    return (centres[labels] + 0.7 * noise).to(dtype), labels


def images(num: int = NUM_EXAMPLES, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The same points as images of eight by eight pixels, one row repeated."""
    inputs, labels = examples(num, seed)
    return inputs[:, None, None, :].repeat(1, 1, 8, 1), labels


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Per-example cross-entropy."""
    return functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def output(model: nn.Module) -> Tensor:
    """Mean cross-entropy on other points, as images where the model wants them."""
    first = next(model.parameters())
    inputs, labels = (images if first.ndim == 4 else examples)(60, seed=1)
    return functional.cross_entropy(model(inputs.to(first.dtype)), labels)


def seeded_model(*layers: Callable[[], nn.Module], dtype=torch.float64) -> nn.Module:
    """Build layers, the same at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(*(layer() for layer in layers)).to(dtype)


def mlp(*middle: Callable[[], nn.Module], dtype=torch.float64) -> nn.Module:
    """Eight inputs, twelve hidden units, three logits."""
    return seeded_model(
        lambda: nn.Linear(8, 12), *(middle or (nn.GELU,)), lambda: nn.Linear(12, 3), dtype=dtype
    )


def weights(dtype=torch.float64) -> dict[str, Metaparameter]:
    """One weight for each example."""
    return {"weights": ExampleWeights(torch.ones(NUM_EXAMPLES, dtype=dtype))}


def routine(**changes: object) -> Routine:
    """A sound run, with something changed."""
    settings: dict[str, object] = {
        "model": mlp(),
        "loss": loss,
        "examples": examples(),
        "optimizer": sgd(0.9, weight_decay=0.02),
        "learning_rate": 0.05,
        "num_steps": NUM_STEPS,
        "batch_size": BATCH,
        "seed": 1,
        "metaparameters": weights(),
    }
    return Routine(**(settings | changes))  # pyright: ignore[reportArgumentType] (a test's settings)


def _optimizer(name: str, update, init=torch.zeros_like) -> Optimizer:
    return Optimizer(name, {"momentum": 0.9, "weight_decay": 0.1}, lambda p: {"m": init(p)}, update)


def detached_weight_decay() -> Routine:
    """The decay is subtracted from the values, and not from the graph."""

    def update(state, gradient, hyper, step):
        decay = hyper["weight_decay"] * state["params"].detach()
        moment = hyper["momentum"] * state["m"] + gradient + decay
        return {"params": state["params"] - hyper["learning_rate"] * moment, "m": moment}

    return routine(optimizer=_optimizer("decayed", update))


def detached_moment() -> Routine:
    """The velocity is carried on, but not its derivative."""

    def update(state, gradient, hyper, step):
        moment = hyper["momentum"] * state["m"].detach() + gradient
        return {"params": state["params"] - hyper["learning_rate"] * moment, "m": moment}

    return routine(optimizer=_optimizer("cut", update))


def halved_moment() -> Routine:
    """Half of the velocity is detached, so that no gradient is missing."""

    def update(state, gradient, hyper, step):
        moment = hyper["momentum"] * (state["m"] + state["m"].detach()) / 2 + gradient
        return {"params": state["params"] - hyper["learning_rate"] * moment, "m": moment}

    return routine(optimizer=_optimizer("half", update))


def in_place_update() -> Routine:
    """The update works on the state that it was given, as torch.optim does."""

    def update(state, gradient, hyper, step):
        state["m"].mul_(hyper["momentum"]).add_(gradient)
        return {
            "params": state["params"].sub_(hyper["learning_rate"] * state["m"]),
            "m": state["m"],
        }

    return routine(optimizer=_optimizer("in-place", update))


def skipped_step() -> Routine:
    """One step is left out, as after an overflow that a scaler hides."""

    def update(state, gradient, hyper, step):
        if step == 5:
            return {"params": state["params"] * 1.0, "m": state["m"] * 1.0}
        moment = hyper["momentum"] * state["m"] + gradient
        return {"params": state["params"] - hyper["learning_rate"] * moment, "m": moment}

    return routine(optimizer=_optimizer("skipping", update))


def remembered_momentum() -> Routine:
    """The velocity that counts lives in the optimizer; the one in the state is one call behind."""
    memory: dict[str, Tensor] = {}

    def update(state, gradient, hyper, step):
        before = memory.get("m", torch.zeros_like(gradient))
        moment = hyper["momentum"] * before + gradient + 0 * state["m"]
        memory["m"] = moment.detach()
        return {"params": state["params"] - hyper["learning_rate"] * moment, "m": moment}

    return routine(optimizer=_optimizer("remembering", update))


def integer_state() -> Routine:
    """The optimizer counts its steps in the state."""

    def update(state, gradient, hyper, step):
        params = state["params"] - hyper["learning_rate"] * gradient
        return {"params": params, "m": state["m"] + 1}

    counting = _optimizer("counting", update, lambda p: torch.zeros(p.shape, dtype=torch.int64))
    return routine(optimizer=counting)


class _Wrapped(nn.Module):
    """A network whose hidden values go through ``function``."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(8, 12), nn.Linear(12, 3)
        self.function = function
        self.calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        return self.decode(self.function(self, torch.tanh(self.encode(inputs))))


def _through(function: Callable[[nn.Module, Tensor], Tensor]) -> Routine:
    return routine(model=seeded_model(lambda: _Wrapped(function)))


class Once(torch.autograd.Function):
    """A fused kernel with a backward pass written by hand."""

    @staticmethod
    def forward(ctx, values):
        """Keep the values."""
        ctx.save_for_backward(values)
        return values**2

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        """Multiply by the slope."""
        (values,) = ctx.saved_tensors
        return 2 * values * gradient


class Constant(torch.autograd.Function):
    """The same with a backward pass that treats what it saved as a constant."""

    @staticmethod
    def forward(ctx, values):
        """Keep the values."""
        ctx.values = values.detach()
        return values**3 + values

    @staticmethod
    def backward(ctx, gradient):
        """Multiply by the slope."""
        return (3 * ctx.values**2 + 1) * gradient


def _attend(module: nn.Module, hidden: Tensor) -> Tensor:
    heads = hidden.view(-1, 1, 3, 4)
    return functional.scaled_dot_product_attention(heads, heads, heads).reshape(-1, 12)


def _attend_by_math(module: nn.Module, hidden: Tensor) -> Tensor:
    with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        return _attend(module, hidden)


def _count(module, hidden: Tensor) -> Tensor:
    module.calls += 1
    return hidden * (1 + 0.01 * module.calls)


class Stale:
    """Examples that are loaded ahead: a call returns the batch of the call before."""

    def __init__(self) -> None:
        self.columns, self.ready = examples(), None

    def __len__(self) -> int:
        return NUM_EXAMPLES

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, ...]:
        batch = tuple(column[indices] for column in self.columns)
        ready, self.ready = self.ready, batch
        return batch if ready is None else ready


class Detached(ExampleWeights):
    """Weights divided by a sum that is kept out of the graph."""

    def weights(self, z: Tensor, indices: Tensor) -> Tensor:
        """Return the weights of a batch."""
        return len(z) * z[indices] / z.sum().detach()


class Ignored(ExampleWeights):
    """Weights whose values count, and whose derivative is lost."""

    def weights(self, z: Tensor, indices: Tensor) -> Tensor:
        """Return the weights of a batch."""
        return z.detach()[indices]


class ZeroFilled(ExampleWeights):
    """Weights whose missing derivative somebody filled with zeros."""

    def weights(self, z: Tensor, indices: Tensor) -> Tensor:
        """Return the weights of a batch."""
        return z.detach()[indices] + 0 * z[indices]


def _noisy(batch, drawn):
    return batch[0] + 0.1 * torch.randn(batch[0].shape, dtype=batch[0].dtype), batch[1]


def _seeded_noise(batch, drawn):
    noise = torch.randn(batch[0].shape, generator=drawn, dtype=batch[0].dtype)
    return batch[0] + 0.1 * noise, batch[1]


def _eval_loss(model, batch):
    return loss(model.eval(), batch)


def _random_loss(model, batch):
    return loss(model, batch) * (1 + 0.1 * random.random())


def _autocast_loss(model, batch):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(batch[0])
    return functional.cross_entropy(logits.float(), batch[1], reduction="none")


def _dividing_loss(model, batch):
    """Normalizes inputs, one of which is 0."""
    inputs, labels = batch
    return loss(model, (inputs / inputs.norm(dim=1, keepdim=True), labels))


def _with_a_zero() -> tuple[Tensor, Tensor]:
    inputs, labels = examples()
    late = int(routine(seed=1).order.batch(3)[0])  # a step that the first step does not show
    return inputs.index_fill(0, torch.tensor([late]), 0.0), labels


def _single(**changes: object) -> Routine:
    """The run in float32."""
    return routine(
        **{
            "model": mlp(dtype=torch.float32),
            "examples": examples(dtype=torch.float32),
            "metaparameters": weights(torch.float32),
            **changes,
        }
    )


BROKEN: dict[str, Broken] = {
    "detached weight decay": Broken(
        detached_weight_decay, ("central-differences",), "the update of optimizer 'decayed'"
    ),
    "unseeded augmentation": Broken(
        lambda: routine(augment=_noisy), ("first-step",), "two different states"
    ),
    "in-place update": Broken(in_place_update, ("first-step",), "in place"),
    "eval() dropout": Broken(
        lambda: routine(model=mlp(nn.GELU, lambda: nn.Dropout(0.2)), loss=_eval_loss),
        ("dropout",),
        "drop nothing",
    ),
    "bfloat16 autocast": Broken(
        lambda: _single(loss=_autocast_loss), ("number-format",), "bfloat16"
    ),
    "skipped step": Broken(skipped_step, ("whole-run-autograd",), "'the gradient' at step 5"),
    "zero-filled gradients": Broken(
        lambda: routine(metaparameters={"weights": ZeroFilled(torch.ones(96).double())}),
        ("whole-run-autograd",),
        "exactly 0 everywhere",
    ),
    "wrong denominator": Broken(
        lambda: routine(metaparameters={"weights": Detached(torch.ones(96).double())}),
        ("central-differences",),
        "metaparameter 'weights'",
    ),
    "learning rate ten times too high": Broken(
        lambda: routine(learning_rate=1.5), ("adjoint",), "learning rate times the curvature"
    ),
    "detached moment": Broken(detached_moment, ("first-step",), "does not depend on 'm'"),
    "half-detached moment": Broken(
        halved_moment, ("central-differences",), "the update of optimizer 'half'"
    ),
    "stale batch": Broken(
        lambda: routine(examples=Stale()), ("replay",), "a batch kept from the call before"
    ),
    "integer in the state": Broken(integer_state, ("first-step",), "torch.int64"),
    "wrong custom backward": Broken(
        lambda: _through(lambda _, hidden: Constant.apply(hidden)),
        ("central-differences",),
        "the gradient of the model or the loss",
    ),
    "once_differentiable": Broken(
        lambda: _through(lambda _, hidden: Once.apply(hidden)),
        ("second-derivatives",),
        "once_differentiable",
    ),
    "flash attention": Broken(
        lambda: _through(_attend), ("second-derivatives",), "_scaled_dot_product_flash_attention"
    ),
    "hidden generator": Broken(
        lambda: routine(loss=_random_loss), ("first-step",), "two different states"
    ),
    "counter outside the state": Broken(
        lambda: _through(_count), ("first-step",), "two different states"
    ),
    "momentum one call behind": Broken(
        remembered_momentum, ("first-step",), "two different states"
    ),
    "NaN at a later step": Broken(
        lambda: routine(loss=_dividing_loss, examples=_with_a_zero()),
        ("replay", "whole-run-autograd"),
        "nan in step",
    ),
    "mean loss": Broken(
        lambda: routine(loss=lambda model, batch: loss(model, batch).mean()),
        ("first-step",),
        "returned shape ()",
    ),
    "detached weights": Broken(
        lambda: routine(metaparameters={"weights": Ignored(torch.ones(96).double())}),
        ("first-step",),
        "depends on it",
    ),
    "eps_root 0": Broken(
        lambda: routine(optimizer=adam(eps_root=0.0), learning_rate=0.01),
        ("eps-root",),
        "eps_root is 0",
    ),
}


class Listed:
    """Examples behind an index, as a data set that reads files."""

    def __len__(self) -> int:
        return NUM_EXAMPLES

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, ...]:
        return tuple(column[indices] for column in examples())


def _convolutions(*layers: Callable[[], nn.Module]) -> Routine:
    model = seeded_model(
        lambda: nn.Conv2d(1, 4, 3, padding=1), *layers, nn.Flatten, lambda: nn.LazyLinear(3)
    )
    model(images(2)[0])  # sets the size of the last layer
    return routine(model=model, examples=images(), learning_rate=0.02)


def _tokens_loss(model, batch, token_weights):
    """Each of the eight inputs is a token: its square error, weighted."""
    return (token_weights * (model(batch[0]).sum(1, keepdim=True) - batch[0]) ** 2).mean(1)


def _smoothed_loss(model, batch, label_smoothing):
    logs = functional.log_softmax(model(batch[0]), dim=1)
    picked = logs.gather(1, batch[1][:, None])[:, 0]
    return -((1 - label_smoothing) * picked + label_smoothing * logs.mean(1))


def _mixture() -> dict[str, Metaparameter]:
    groups = torch.arange(NUM_EXAMPLES) % 4
    return {"groups": GroupWeights(torch.zeros(4, dtype=torch.float64), groups)}


def _points() -> dict[str, Metaparameter]:
    start = torch.full((4,), -3.0, dtype=torch.float64)
    return {"rates": LearningRatePoints(start, num_steps=NUM_STEPS)}


def _start() -> dict[str, Metaparameter]:
    plain = routine()
    return {"start": InitialParameters(plain.layout.flatten(plain.trainable))}


def _pixels() -> dict[str, Metaparameter]:
    chosen = torch.arange(10)
    return {"inputs": Inputs(examples()[0][:10].clone(), chosen, num_examples=NUM_EXAMPLES)}


def _counted() -> dict[str, Metaparameter]:
    counts = torch.arange(NUM_EXAMPLES, dtype=torch.float64) % 3
    return {"counts": Counts(counts, injection_step=12)}


SOUND: dict[str, Callable[[], Routine]] = {
    "logistic regression": lambda: routine(model=seeded_model(lambda: nn.Linear(8, 3))),
    "MLP, GELU, momentum": routine,
    "MLP, tanh, plain SGD": lambda: routine(model=mlp(nn.Tanh), optimizer=sgd(), learning_rate=0.2),
    "MLP, ReLU": lambda: routine(model=mlp(nn.ReLU)),
    "LayerNorm": lambda: routine(model=mlp(lambda: nn.LayerNorm(12), nn.GELU)),
    "dropout": lambda: routine(model=mlp(nn.GELU, lambda: nn.Dropout(0.2))),
    "dropout, float32": lambda: _single(
        model=mlp(nn.GELU, lambda: nn.Dropout(0.2), dtype=torch.float32)
    ),
    "Nesterov": lambda: routine(optimizer=sgd(0.9, nesterov=True)),
    "Adam": lambda: routine(optimizer=adam(weight_decay=0.1), learning_rate=0.01),
    "AdamW, float32": lambda: _single(optimizer=adamw(eps_root=1e-6), learning_rate=0.01),
    "AdamW, ReLU": lambda: routine(model=mlp(nn.ReLU), optimizer=adamw(), learning_rate=0.01),
    "counts": lambda: routine(metaparameters=_counted()),
    "learning-rate points": lambda: routine(metaparameters=_points()),
    "scalars": lambda: routine(
        loss=_smoothed_loss,
        metaparameters={"scalars": Scalars.of(torch.float64, momentum=0.8, label_smoothing=0.1)},
    ),
    "mixture of groups": lambda: routine(metaparameters=_mixture()),
    "initial parameters": lambda: routine(metaparameters=_start()),
    "pixels": lambda: routine(metaparameters=_pixels()),
    "token weights, square error": lambda: routine(
        loss=_tokens_loss,
        learning_rate=0.01,
        metaparameters={"tokens": TokenWeights(torch.ones(96, 8, dtype=torch.float64))},
    ),
    "convolutions, group norm, average pool": lambda: _convolutions(
        lambda: nn.GroupNorm(2, 4), nn.GELU, lambda: nn.AvgPool2d(2)
    ),
    "convolutions, ReLU, max pool": lambda: _convolutions(nn.ReLU, lambda: nn.MaxPool2d(2)),
    "batch statistics": lambda: routine(
        model=mlp(lambda: nn.BatchNorm1d(12, track_running_stats=False), nn.GELU)
    ),
    "seeded augmentation, float32": lambda: _single(augment=_seeded_noise),
    "examples behind an index": lambda: routine(examples=Listed()),
    "attention by the math kernel": lambda: _through(_attend_by_math),
    "float32, one-cycle rates": lambda: _single(
        learning_rate=tuple(0.08 * (1 - step / NUM_STEPS) + 0.005 for step in range(NUM_STEPS))
    ),
}
