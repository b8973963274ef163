"""The run of script.py as a problem: which pairs help? Its loss compares the pairs of a batch."""

import torch
from script import POINTS, STEPS, make_model, ntxent, order, views

import engine


class NTXent:
    """Embeddings of both views, and what compares them."""

    def __call__(self, model, batch, *, multiplicity=None):
        return self.couple(model, self.embed(model, batch), multiplicity)

    def embed(self, model, batch):
        return torch.stack([model(batch[0]), model(batch[1])], dim=1)

    def couple(self, model, embeddings, multiplicity=None):
        counts = embeddings.new_ones(len(embeddings)) if multiplicity is None else multiplicity
        return ntxent(embeddings[:, 0], embeddings[:, 1], counts)

    def join(self, model, embeddings, joining, multiplicity=None):
        counts = embeddings.new_ones(len(embeddings)) if multiplicity is None else multiplicity
        before = (self.couple(model, embeddings, counts) * counts).sum()
        more = torch.cat([counts, counts.new_ones(1)])
        raised = [
            (self.couple(model, torch.cat([embeddings, each[None]]), more) * more).sum()
            for each in joining
        ]
        return torch.stack(raised) - before


def scheduler(num_steps):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.3)
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)


def pairs() -> engine.Problem:
    """Which pairs help."""
    loss, held_out = NTXent(), views(12, 1)
    return engine.Problem(
        model=make_model(),
        loss=loss,
        train=views(POINTS, 0),
        objective=held_out,
        validation=views(8, 2),
        test=views(8, 3),
        num_classes=0,
        chunk=12,
        optimizer=engine.sgd(0.9, nesterov=True),
        learning_rate=scheduler,
        order=order(),
    )
