"""Small routines of different kinds whose metagradient may be trusted, more than twenty."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine import Counts, LearningRatePoints, Metaparameter, Routine
from engine.metaparameters.group_weights import GroupWeights
from engine.metaparameters.initial_parameters import InitialParameters
from engine.metaparameters.inputs import Inputs
from engine.metaparameters.scalars import Scalars
from engine.metaparameters.weights import TokenWeights
from engine.routine.optimizer import Optimizer
from engine.routine.optimizers import adam, adamw, sgd
from tests.helpers.trainings.routines import (
    NUM_EXAMPLES,
    NUM_STEPS,
    attend,
    examples,
    images,
    loss,
    mlp,
    routine,
    seeded_model,
    single,
    through,
)


def _skipping() -> Optimizer:
    """Momentum that leaves out one step, as after an overflow: that step reads no gradient."""

    def update(state, gradient, hyper, step):
        if step == 5:
            return {"params": state["params"] * 1.0, "m": state["m"] * 1.0}
        moment = hyper["momentum"] * state["m"] + gradient
        return {"params": state["params"] - hyper["learning_rate"] * moment, "m": moment}

    return Optimizer("skipping", {"momentum": 0.9}, lambda p: {"m": torch.zeros_like(p)}, update)


def _seeded_noise(batch, drawn):
    noise = torch.randn(batch[0].shape, generator=drawn, dtype=batch[0].dtype)
    return batch[0] + 0.1 * noise, batch[1]


def _attend_by_math(module: nn.Module, hidden: Tensor) -> Tensor:
    with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        return attend(module, hidden)


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
    return {"counts": Counts(counts)}  # late: step 12 of 30 contradicts those after it


def _logged(keep: Callable[[list[Tensor], Tensor], object]) -> Callable[..., Tensor]:
    """Return the shared loss with a log of its own, on which nothing of it depends."""
    log: list[Tensor] = []

    def logged(model, batch):
        losses = loss(model, batch)
        keep(log, losses.detach().mean())
        return losses

    return logged


def _all_stacked(log: list[Tensor], value: Tensor) -> None:
    log.append(value)
    torch.stack(log).max()


def _running_mean(log: list[Tensor], value: Tensor) -> None:
    log[:] = [0.9 * log[0] + 0.1 * value if log else value]


def _lowest(log: list[Tensor], value: Tensor) -> None:
    log[:] = [value if not log or value < log[0] else log[0]]


SOUND: dict[str, Callable[[], Routine]] = {
    "logistic regression": lambda: routine(model=seeded_model(lambda: nn.Linear(8, 3))),
    "MLP, GELU, momentum": routine,
    "MLP, tanh, plain SGD": lambda: routine(model=mlp(nn.Tanh), optimizer=sgd(), learning_rate=0.2),
    "MLP, ReLU": lambda: routine(model=mlp(nn.ReLU)),
    "LayerNorm": lambda: routine(model=mlp(lambda: nn.LayerNorm(12), nn.GELU)),
    "dropout": lambda: routine(model=mlp(nn.GELU, lambda: nn.Dropout(0.2))),
    "dropout, float32": lambda: single(
        model=mlp(nn.GELU, lambda: nn.Dropout(0.2), dtype=torch.float32)
    ),
    "Nesterov": lambda: routine(optimizer=sgd(0.9, nesterov=True)),
    "Adam": lambda: routine(optimizer=adam(weight_decay=0.1), learning_rate=0.01),
    "AdamW, float32": lambda: single(optimizer=adamw(eps_root=1e-6), learning_rate=0.01),
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
    "seeded augmentation, float32": lambda: single(augment=_seeded_noise),
    "a step that is left out": lambda: routine(optimizer=_skipping()),
    "examples behind an index": lambda: routine(examples=Listed()),
    "attention by the math kernel": lambda: through(_attend_by_math),
    "float32, one-cycle rates": lambda: single(
        learning_rate=tuple(0.08 * (1 - step / NUM_STEPS) + 0.005 for step in range(NUM_STEPS))
    ),
    "a log of all losses": lambda: routine(loss=_logged(_all_stacked)),
    "a running mean of the loss": lambda: routine(loss=_logged(_running_mean)),
    "the lowest loss so far": lambda: routine(loss=_logged(_lowest)),
}
