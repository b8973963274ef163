"""The run of script.py as a problem: at which learning rates?"""

from script import error, make_model, order, points, residuals

import engine


def loss(model, batch):
    x, at_end = batch
    return residuals(model, x, at_end)


def field() -> engine.Problem:
    """At which learning rates; phi is the error of the solution, which training never sees."""
    return engine.Problem(
        model=make_model(),
        loss=loss,
        train=points(),
        objective=points(),
        validation=points(),
        test=points(),
        output=error,
        optimizer=engine.adam(eps=1e-3, eps_root=0.0),
        order=order(),
    )
