# %% [markdown]
# # Six training examples that are learned
# A descent on the inputs of the training set: what would six examples have to look like, so that a
# model that is trained on them alone does well on real data?

# %%
import torch
from torch.nn.functional import cross_entropy

import engine

torch.manual_seed(0)
centres = 2 * torch.randn(3, 5)


def draw(number):
    """Three clouds, of one class each."""
    y = torch.arange(number) % 3
    return centres[y] + torch.randn(number, 5), y


splits = {name: draw(90) for name in ("objective", "validation", "test")}
model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.GELU(), torch.nn.Linear(8, 3))


def loss(model, batch):
    return cross_entropy(model(batch[0]), batch[1], reduction="none")


def accuracy(model, batch):
    return (model(batch[0]).argmax(1) == batch[1]).float()


problem = engine.Problem(
    model=model,
    loss=loss,
    metrics={"accuracy": accuracy},
    train=(torch.randn(6, 5), torch.arange(6) % 3),  # noise, two examples of each class
    bounds=(-8.0, 8.0),
    **splits,
)
problem

# %%
found = engine.descend(
    problem,
    training={"num_steps": 25, "batch_size": 6, "learning_rate": 0.2},
    metaparameters={"name": "inputs", "fraction": 1.0},
    outer={"num_steps": 12, "update": "Adam", "step_size": 0.2},
    check=False,
)
found

# %% [markdown]
# Each entry of the metagradient is a coordinate of an example: its unit is loss for each unit of
# the input. The learned examples have moved towards the clouds of their classes.

# %%
first, chosen = found.iterates[0], found.iterates[found.chosen]
for name, each in (("noise", first), ("learned", chosen)):
    scores = each.scores["validation"]
    print(f"{name}: validation loss {scores['loss']:.3f}, accuracy {scores['accuracy']:.0%}")
assert chosen.scores["validation"]["loss"] < 0.5 * first.scores["validation"]["loss"]
