"""The run of script.py as a problem: which nodes help?"""

from script import NODES, TRAINED, Neighbourhoods, batches, losses_of, make_model

import engine


def nodes() -> engine.Problem:
    """Which nodes help."""
    return engine.Problem(
        model=make_model(),
        loss=losses_of,
        train=Neighbourhoods(range(TRAINED), 0),
        objective=Neighbourhoods(range(TRAINED, 30), 1),
        validation=Neighbourhoods(range(30, 33), 2),
        test=Neighbourhoods(range(33, NODES), 3),
        optimizer=engine.rmsprop(0.9, momentum=0.5, eps=1e-2, eps_root=0.0),
        learning_rate=lambda num_steps: [0.01 * 0.5 ** (step // 3) for step in range(num_steps)],
        order=batches(),
    )
