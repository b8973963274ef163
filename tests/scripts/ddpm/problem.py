"""The run of script.py as a problem: which points help the averaged model?"""

from script import POINTS, Moons, batches, losses_of, make_model

import engine


def loss(model, batch):
    _, points, times, noises = batch
    return losses_of(model, points, times, noises)


def moons() -> engine.Problem:
    """Which points help."""
    data = Moons(POINTS, 0)
    return engine.Problem(
        model=make_model(),
        loss=loss,
        train=data,
        objective=Moons(30, 1),
        validation=Moons(10, 2),
        test=Moons(10, 3),
        optimizer=engine.averaged(engine.adam((0.9, 0.99), eps=1e-4, eps_root=0.0), 0.8),
        learning_rate=lambda num_steps: [
            0.02 * min(1, (step + 1) / 4) for step in range(num_steps)
        ],
        order=batches(data),
    )
