"""The run of script.py as a problem: an example is a labelled node of the one graph."""

import torch
from script import LABELLED, NODES, graph, make_model
from torch.nn.functional import cross_entropy

import engine


def nodes() -> engine.Problem:
    """Which labelled nodes help."""
    features, labels, adjacency = graph()

    def loss(model, batch):
        chosen, wanted = batch
        return cross_entropy(model(features, adjacency)[chosen], wanted, reduction="none")

    def split(begin, end):
        return torch.arange(begin, end), labels[begin:end]

    return engine.Problem(
        model=make_model(),
        loss=loss,
        train=split(0, LABELLED),
        objective=split(LABELLED, 24),
        validation=split(24, 27),
        test=split(27, NODES),
        optimizer=engine.adam(
            eps=1e-3, eps_root=0.0, groups=[{"names": "conv1.*", "weight_decay": 5e-2}]
        ),
        learning_rate=0.03,
        order=lambda step: range(LABELLED),
    )
