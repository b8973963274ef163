"""The run of script.py as a problem: which rows help?"""

from script import ROWS, Rows, batches, make_net, pos_weight
from torch.nn.functional import binary_cross_entropy_with_logits

import engine


def tabular() -> engine.Problem:
    """Which rows help to see rare events."""
    data = Rows(ROWS, 0)
    positive = pos_weight(data)

    def loss(model, batch):
        logits = model(batch["numbers"], batch["kind"])
        return binary_cross_entropy_with_logits(
            logits, batch["event"], pos_weight=positive, reduction="none"
        )

    return engine.Problem(
        model=make_net(),
        loss=loss,
        train=data,
        objective=Rows(24, 1),
        validation=Rows(12, 2),
        test=Rows(12, 3),
        order=batches(data),
    )
