"""Privacy canaries: examples whose loss reveals whether the model was trained on them.

The canaries' pixels are z. Each step draws a random half of them to be IN the training and leaves
the others OUT, with another start and another order, and lowers

    phi(s_T, z) = mean over IN of l(s_T; z_i) - mean over OUT of l(s_T; z_i),

which is minus the gap that an attacker would measure. z enters twice: through the whole training,
whose share is the metagradient, and through the losses at the end. Both are differentiated. An
audit trains with fresh halves, starts and orders.

References:
    Boglioni et al. 2025, arXiv:2507.15836. There the audited model has another architecture and is
    trained with DP-SGD; here it is the same, without noise.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from engine.errors import DataError
from engine.metaparameters.initial_parameters import InitialParameters
from engine.metaparameters.inputs import Inputs
from engine.metaparameters.weights import ExampleWeights
from engine.numerics.determinism import generator, seed_for
from engine.problems.built import BuiltProblem
from engine.problems.fits import check_classes, check_single_losses, continuous_inputs
from engine.problems.metaparameters import initial_vector
from engine.recipes.canaries import CanariesSettings
from engine.recipes.descent import DescentRecipe
from engine.recipes.training import Retraining
from engine.replay.batched import train_many
from engine.replay.metagradient import differentiate
from engine.replay.refusals.later_steps import LaterSteps
from engine.replay.refusals.unbatched import refuse_unbatched
from engine.routine.module.stop_gradient import whole_derivatives
from engine.routine.routine import Routine
from engine.types import Loss, Metaparams

PIXELS, WEIGHTS, START = "pixels", "weights", "start"
"""Names of the metaparameters of a training with canaries."""


@dataclass(frozen=True)
class Canaries:
    """Canaries among the training examples: the first ones.

    Attributes:
        images: Shape (canaries, channels, height, width).
        labels: What they are trained with, shape (canaries,).
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def first_canaries(problem: BuiltProblem, number: int) -> Canaries:
    """Return canaries as they are in the data.

    Raises:
        ConfigurationError: If losses are not those of single examples, inputs cannot be moved, or
            labels are no classes.
        DataError: If no other examples are left.
    """
    check_single_losses(problem.loss, "canaries")
    train = problem.data.splits["train"]
    if number >= len(train):
        raise DataError(
            f"canaries.num_canaries is {number}, but the problem has {len(train)} training "
            "examples, and some of them must not be canaries. Lower canaries.num_canaries, or give "
            "more training examples."
        )
    continuous_inputs(problem.data, "kind is canaries")
    check_classes(problem.data, "kind is canaries")  # of the mislabelled ones beside them
    inputs, labels = problem.routine.examples
    return Canaries(inputs[:number].clone(), labels[:number].clone())


def with_wrong_labels(canaries: Canaries, num_classes: int, seed: int) -> Canaries:
    """Return the same images, each with another class, drawn uniformly."""
    drawn = generator(seed, "wrong labels")
    offsets = torch.randint(1, num_classes, (len(canaries),), generator=drawn)
    wrong = (canaries.labels + offsets.to(canaries.labels)) % num_classes
    return Canaries(canaries.images, wrong)


def draw_inside(number: int, seed: int, *purpose: str | int) -> Tensor:
    """Return which canaries are IN: a random half, shape (canaries,)."""
    inside = torch.zeros(number, dtype=torch.bool)
    drawn = generator(seed, "inside", *purpose)
    inside[torch.randperm(number, generator=drawn)[: number // 2]] = True
    return inside


def canary_training(problem: BuiltProblem, canaries: Canaries, seed: int) -> Routine:
    """Return a training in the order of ``seed`` with z, weights and start as metaparameters."""
    base = problem.routine
    inputs, labels = base.examples
    number, total = len(canaries), len(labels)
    return replace(
        base,
        seed=seed,
        examples=(inputs, torch.cat([canaries.labels, labels[number:]])),
        metaparameters={
            PIXELS: Inputs(canaries.images, torch.arange(number), total, problem.data.bounds),
            WEIGHTS: ExampleWeights(torch.ones(total, dtype=base.layout.dtype)),
            START: InitialParameters(base.initial_state()["params"].cpu()),
        },
    )


def point_of(problem: BuiltProblem, canaries: Canaries, inside: Tensor, seed: int) -> Metaparams:
    """Return z of one training: pixels, weight 0 for those OUT, and a start of its own."""
    base = problem.routine
    inputs = base.examples[0]
    weights = torch.ones(len(inputs), dtype=base.layout.dtype, device=base.device)
    weights[: len(canaries)] = inside.to(weights)
    model = problem.fresh_model(seed)
    start = initial_vector(model).to(base.device)
    return {PIXELS: canaries.images, WEIGHTS: weights, START: start}


def gap_loss(loss: Loss, model: nn.Module, canaries: Canaries, inside: Tensor) -> Tensor:
    """Return phi, minus the gap between OUT and IN in the problem's loss, a scalar."""
    losses = loss(model, (canaries.images, canaries.labels))
    inside = inside.to(losses.device)
    return losses[inside].mean() - losses[~inside].mean()


def pixel_gradient(
    recipe: DescentRecipe, problem: BuiltProblem, canaries: Canaries, inside: Tensor, seed: int
) -> tuple[float, Tensor, LaterSteps]:
    """Return phi, d phi / d z through the training and directly, and what later steps showed.

    z is the pixels of the canaries, shaped like them.

    Cost:
        One training and one reverse sweep, in memory and as one segment, as ``recipe.replay``
        says.
    """
    training = canary_training(problem, canaries, seed)
    point = point_of(problem, canaries, inside, seed)
    later = LaterSteps(training, point, refuses=False)
    (found,) = differentiate(
        training,
        [lambda model: gap_loss(problem.loss, model, canaries, inside)],
        point,
        recipe.replay,
        later=later,
    )
    images = canaries.images.detach().requires_grad_()
    with torch.enable_grad():
        own = Canaries(images, canaries.labels)
        value = training.evaluate(
            lambda model: gap_loss(problem.loss, model, own, inside), found.state
        )
    with whole_derivatives():
        (direct,) = torch.autograd.grad(value, images)
    return found.output, found[PIXELS] + direct, later


def check_batched(settings: CanariesSettings, problem: BuiltProblem, canaries: Canaries) -> None:
    """Refuse trainings of an audit that cannot go as one batch, if they should.

    Raises:
        ConfigurationError: If it is refused; names the reason, and the setting that trains them one
            by one.
    """
    if settings.retraining is Retraining.LOOP:
        return
    training, points, seeds, _ = _trainings(problem, canaries, 2, settings.seed)
    refuse_unbatched(training, points, "canaries.retraining", seeds=seeds)


def _trainings(
    problem: BuiltProblem, canaries: Canaries, number: int, seed: int
) -> tuple[Routine, list[Metaparams], list[int], Tensor]:
    """Return the shared routine of an audit's trainings, z and seed of each, and who is IN."""
    inside = torch.stack([draw_inside(len(canaries), seed, "audit", i) for i in range(number)])
    seeds = [seed_for(seed, "audit", i) % 2**62 for i in range(number)]
    training = canary_training(problem, canaries, seeds[0])
    points = [
        point_of(problem, canaries, half, each) for half, each in zip(inside, seeds, strict=True)
    ]
    return training, points, seeds, inside


@torch.no_grad()
def audit(
    problem: BuiltProblem,
    canaries: Canaries,
    num_audits: int,
    seed: int,
    retraining: Retraining,
) -> tuple[Tensor, Tensor]:
    """Train with fresh halves, starts and orders; return losses of the canaries, and who was IN.

    Returns:
        Both of shape (audits, canaries).
    """
    training, points, seeds, inside = _trainings(problem, canaries, num_audits, seed)
    states = train_many(training, points, seeds=seeds, together=retraining.value)
    batch = canaries.images, canaries.labels
    losses = [
        training.evaluate(lambda model: problem.loss(model, batch), state) for state in states
    ]
    return torch.stack(losses).cpu(), inside
