# %% [markdown]
# # Which learning rate at which step
# A descent on the logarithm of the rate at four key points; between them the rate is linear.

# %%
import torch
from torch.nn.functional import cross_entropy

import engine

torch.manual_seed(0)
y = torch.randint(0, 3, (240,))
x = torch.randn(240, 4) + 1.5 * torch.nn.functional.one_hot(y, 4)
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 3))


def loss(model, batch):
    return cross_entropy(model(batch[0]), batch[1], reduction="none")


problem = engine.Problem(
    model=model,
    loss=loss,
    train=(x[:90], y[:90]),
    objective=(x[90:140], y[90:140]),
    validation=(x[140:190], y[140:190]),
    test=(x[190:], y[190:]),
)
problem

# %%
found = engine.descend(
    problem,
    training={"num_steps": 30, "batch_size": 30, "learning_rate": 0.01},
    metaparameters={"name": "learning-rate", "num_key_points": 4},
    outer={"num_steps": 8, "update": "Adam", "step_size": 0.4},
    check=False,
)
found

# %% [markdown]
# z is the natural logarithm of the rate: an entry of the metagradient of -0.1 says that a rate
# 1 % higher around that point lowers the loss by about 0.001.

# %%
first, chosen = found.iterates[0], found.iterates[found.chosen]
for name, each in (("at the start", first), ("chosen", chosen)):
    rates = ", ".join(f"{float(rate):.3f}" for rate in each.value.exp())
    print(f"{name}: rates {rates}; validation loss {each.scores['validation']['loss']:.4f}")
assert chosen.scores["validation"]["loss"] < 0.8 * first.scores["validation"]["loss"]
