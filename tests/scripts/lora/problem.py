"""The run of script.py as a problem: which rows help?"""

from script import ROWS, losses_of, make_model, order, rate
from script import rows as read

import engine


def adapted() -> engine.Problem:
    """Which rows help."""
    adapters = {"names": ["*.down", "*.up"], "rate": 0.4, "weight_decay": 0.0}
    return engine.Problem(
        model=make_model(),
        loss=losses_of,
        train=read(ROWS, 0),
        objective=read(15, 1),
        validation=read(9, 2),
        test=read(9, 3),
        num_classes=0,
        optimizer=engine.adamw(
            eps=1e-3, eps_root=0.0, weight_decay=0.1, clip_norm=0.5, groups=[adapters]
        ),
        learning_rate=lambda num_steps: [0.05 * rate(step) for step in range(num_steps)],
        order=order(),
    )
