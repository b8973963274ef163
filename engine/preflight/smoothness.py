"""Metasmoothness along few directions: does a small change of z move the trained model evenly?"""

import torch
from torch import Tensor

from engine.determinism import generator
from engine.oracle import train
from engine.preflight.verdict import Check, Verdict
from engine.routine import Routine
from engine.types import Metaparams

DISTANCE = 0.05
"""h, in units of z."""

RANDOM = 2**0.5 - 1
"""The score of two independent increments, a random walk: 0.414 is no smoothness at all."""


def check_metasmoothness(routine: Routine, num_directions: int = 2) -> Check:
    """Warn if the trained parameters answer a change of z as a random walk would."""
    base = train(routine)["params"]
    scores = []
    for number in range(num_directions):
        direction = random_direction(routine, number)
        near, far = (_trained_at(routine, direction, shift) for shift in (DISTANCE, 2 * DISTANCE))
        scores.append(agreement(base, near, far))
    mean = sum(scores) / len(scores)
    named = {"name": "metasmoothness", "value": mean, "limit": RANDOM}
    shown = ", ".join(f"{score:.2f}" for score in scores)
    if mean < RANDOM:
        return Check(
            **named,
            verdict=Verdict.WARN,
            cause=f"Metasmoothness is {shown} along {num_directions} directions, where a random "
            "walk has 0.41: the trained model does not answer a change of z evenly, so following "
            "the metagradient helps little.",
            remedy="Set model.activation to gelu, model.output_scale to 0.1, or lower "
            "training.learning_rate.",
        )
    cause = f"Metasmoothness is {shown} along {num_directions} directions; a random walk has 0.41."
    return Check(**named, verdict=Verdict.PASS, cause=cause)


def random_direction(routine: Routine, number: int) -> Metaparams:
    """Draw v ~ N(0, I), the same at every call with one number."""
    drawn = generator(routine.seed, "smoothness", number)
    return {
        name: torch.randn(tensor.shape, generator=drawn, dtype=torch.float64).to(tensor)
        for name, tensor in routine.point().items()
    }


def _trained_at(routine: Routine, direction: Metaparams, shift: float) -> Tensor:
    point = {name: value + shift * direction[name] for name, value in routine.point().items()}
    return train(routine, point)["params"]


def agreement(base: Tensor, near: Tensor, far: Tensor) -> float:
    """Return the empirical metasmoothness of three trained models, in [-1, 1].

    sign(near - base)^T diag(d / ||d||_1) sign(far - near) with d = |far - base|; 1 where z moves
    nothing.

    References:
        Engstrom et al. 2025, arXiv:2503.13751, Definition 2.
    """
    base, near, far = base.double(), near.double(), far.double()
    weight = (far - base).abs()
    total = weight.sum()
    if total == 0:
        return 1.0
    return float((torch.sign(near - base) * weight * torch.sign(far - near)).sum() / total)
