"""The run of script.py as a problem: an optimizer of one's own, and a collate_fn.

Torch's Adam has no derivative where a gradient has always been zero, as of words that no text has:
``engine.adamw`` has ``eps_root`` for that. Here the optimizer is the script's to the last digit.
"""

from fnmatch import fnmatchcase

import torch
from script import BATCH, NO_DECAY, STEPS, TEXTS, collate, losses_of, make_model, make_scheduler
from script import texts as read
from torch.utils.data import DataLoader

import engine


def adamw_with_zeros(layout, device):
    """AdamW with a decay for each parameter, whose derivative exists where no gradient came."""
    decay = {
        name: torch.full(
            shape,
            0.0 if any(fnmatchcase(name, f"*{word}*") for word in NO_DECAY) else 0.1,
            device=device,
            dtype=layout.dtype,
        )
        for name, shape in layout.shapes.items()
    }
    decays = layout.flatten(decay)

    def init(params):
        return {"first": torch.zeros_like(params), "second": torch.zeros_like(params)}

    def update(state, gradient, hyper, step):
        rate, beta1, beta2 = hyper["learning_rate"], hyper["beta1"], hyper["beta2"]
        norm = torch.linalg.vector_norm(gradient)
        gradient = gradient * (hyper["largest"] / (norm + 1e-6)).clamp(max=1.0)
        first = beta1 * state["first"] + (1 - beta1) * gradient
        second = beta2 * state["second"] + (1 - beta2) * gradient * gradient
        unbiased = second / (1 - beta2 ** (step + 1))
        root = torch.where(unbiased > 0, torch.where(unbiased > 0, unbiased, 1.0).sqrt(), 0.0)
        moved = first / (1 - beta1 ** (step + 1)) / (root + hyper["eps"])
        params = state["params"] * (1 - rate * decays) - rate * moved
        return {"params": params, "first": first, "second": second}

    numbers = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-3, "largest": 0.5}
    return engine.Optimizer("adamw with zeros", numbers, init, update)


def unfitted(*given):
    raise RuntimeError("adamw_with_zeros has to know the names of the parameters.")


def order():
    """What the script's loader draws."""
    loader = DataLoader(
        range(TEXTS),
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        generator=torch.Generator().manual_seed(0),
    )
    found = []
    while len(found) < STEPS:
        found += [batch.tolist() for batch in loader]
    return found[:STEPS]


def rates(num_steps):
    parameter = torch.nn.Parameter(torch.zeros(1))
    return engine.rates(make_scheduler(torch.optim.AdamW([parameter], lr=0.02)), num_steps)


def texts() -> engine.Problem:
    """Which texts help."""
    fitted = engine.Optimizer(
        "adamw with zeros",
        {"beta1": 0.9, "beta2": 0.999, "eps": 1e-3, "largest": 0.5},
        unfitted,
        unfitted,
        fit=adamw_with_zeros,
    )
    return engine.Problem(
        model=make_model(),
        loss=losses_of,
        train=engine.collated(read(TEXTS, 0), collate),
        objective=engine.collated(read(16, 1), collate),
        validation=engine.collated(read(8, 2), collate),
        test=engine.collated(read(8, 3), collate),
        optimizer=fitted,
        learning_rate=rates,
        order=order(),
        chunk=4,
    )
