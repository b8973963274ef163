# %% [markdown]
# # How much changed inputs can hurt
# Uphill on the inputs of a tenth of the training examples; their labels stay.

# %%
import torch
from torch.nn.functional import cross_entropy

import engine

torch.manual_seed(0)
y = torch.randint(0, 2, (240,))
x = torch.randn(240, 4) + 1.5 * y[:, None]
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 2))


def loss(model, batch):
    return cross_entropy(model(batch[0]), batch[1], reduction="none")


problem = engine.Problem(
    model=model,
    loss=loss,
    train=(x[:90], y[:90]),
    objective=(x[90:140], y[90:140]),
    validation=(x[140:190], y[140:190]),
    test=(x[190:], y[190:]),
    bounds=(-4.0, 6.0),  # between which an input may lie
)
problem

# %%
found = engine.descend(
    problem,
    training={"num_steps": 30, "batch_size": 30, "learning_rate": 0.1},
    metaparameters={"name": "inputs", "fraction": 0.1},
    outer={"num_steps": 6, "update": "sign", "step_size": 0.5, "maximize": True},
    check=False,
)
found

# %% [markdown]
# Test examples took no part. How much of the harm is the metagradient's can only be seen beside
# random changes of the same size, which the recipe `digits-poison` trains too.

# %%
before, after = found.iterates[0], found.iterates[found.chosen]
moved = (after.value - before.value).abs().max()
old, new = (each.scores["test"]["loss"] for each in (before, after))
print(
    f"no input moved by more than {float(moved):.1f}; test loss {old:.4f} before, {new:.4f} after"
)
assert new > 1.1 * old
