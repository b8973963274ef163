"""Small routines that are broken on purpose, more than twenty.

Each trains and gives numbers, or would if nobody looked. ``BROKEN`` says which check has to find
it, and a word that its cause has to hold.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from engine import ExampleWeights, Optimizer, Routine
from engine.preflight.verdict import Check, CheckReport, Verdict
from engine.routine.optimizers import adam
from tests.helpers.trainings.routines import (
    NUM_EXAMPLES,
    attend_by_flash,
    examples,
    loss,
    mlp,
    routine,
    single,
    through,
)


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


def _optimizer(name: str, update, init=torch.zeros_like) -> Optimizer:
    return Optimizer(name, {"momentum": 0.9, "weight_decay": 0.1}, lambda p: {"m": init(p)}, update)


def bare_root() -> Optimizer:
    """RMSprop as a user may write it: its root has no derivative where no gradient came."""

    def update(state, gradient, hyper, step):
        second = 0.9 * state["m"] + 0.1 * gradient**2
        move = gradient / (torch.sqrt(second + hyper["eps_root"]) + 1e-3)
        return {"params": state["params"] - hyper["learning_rate"] * move, "m": second}

    init = torch.zeros_like
    return Optimizer("bare root", {"eps_root": 0.0}, lambda p: {"m": init(p)}, update)


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
        """Multiply by the slope, where autograd does not see it."""
        (values,) = ctx.saved_tensors
        return torch.from_numpy(2 * values.numpy() * gradient.numpy())


class Constant(torch.autograd.Function):
    """The same with a backward pass that treats what it saved as a constant."""

    @staticmethod
    def forward(ctx, values):
        """Keep the values."""
        ctx.save_for_backward(values)
        return values**3 + values

    @staticmethod
    def backward(ctx, gradient):
        """Multiply by the slope."""
        return (3 * ctx.saved_tensors[0].detach() ** 2 + 1) * gradient


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


_OWN_DRAWS = torch.Generator()
"""A generator that nobody seeds for a step, unlike torch's own."""


def _noisy(batch, drawn):
    noise = torch.randn(batch[0].shape, dtype=batch[0].dtype, generator=_OWN_DRAWS)
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
        lambda: single(loss=_autocast_loss), ("number-format",), "bfloat16"
    ),
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
        lambda: through(lambda _, hidden: Constant.apply(hidden)),
        ("central-differences",),
        "the gradient of the model or the loss",
    ),
    "once_differentiable": Broken(
        lambda: through(lambda _, hidden: Once.apply(hidden)),
        ("second-derivatives",),
        "once_differentiable",
    ),
    "flash attention": Broken(
        lambda: through(attend_by_flash),
        ("second-derivatives",),
        "_scaled_dot_product_flash_attention",
    ),
    "hidden generator": Broken(
        lambda: routine(loss=_random_loss), ("first-step",), "two different states"
    ),
    "counter outside the state": Broken(
        lambda: through(_count), ("first-step",), "two different states"
    ),
    "momentum one call behind": Broken(
        remembered_momentum, ("first-step",), "earlier call has left"
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
        "With eps_root 0, adam divides",
    ),
}
