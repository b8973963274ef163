# %% [markdown]
# # Which examples to drop
# A descent on the weights of examples, of which a fifth has a wrong label.

# %%
import torch
from torch.nn.functional import cross_entropy

import engine

torch.manual_seed(0)
y = torch.randint(0, 2, (180,))
x = torch.randn(180, 4) + 1.5 * y[:, None]
y[:12] = 1 - y[:12]  # the first 12 of 60 candidates are wrong
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 2))


def loss(model, batch):
    return cross_entropy(model(batch[0]), batch[1], reduction="none")


problem = engine.Problem(
    model=model,
    loss=loss,
    train=(x[:60], y[:60]),
    objective=(x[60:100], y[60:100]),
    validation=(x[100:140], y[100:140]),
    test=(x[140:], y[140:]),
)
problem

# %%
found = engine.descend(
    problem,
    training={"num_steps": 30, "batch_size": 20, "learning_rate": 0.1},
    metaparameters={"name": "weights"},
    outer={"num_steps": 3, "update": "sign", "step_size": 0.3},
    check=False,
)
found

# %% [markdown]
# A positive metagradient says that more of an example raises the loss: those go first.

# %%
first = found.iterates[0].metagradient
wrong = int((first.topk(12).indices < 12).sum())
print(wrong, "of the 12 most harmful examples have a wrong label, where chance finds 2.4")
assert wrong >= 6
