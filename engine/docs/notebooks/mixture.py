# %% [markdown]
# # How much of each source of data to train on
# Three sources of 60 examples each; what counts is a task that only the first one is about. A
# descent on the logits of their shares.

# %%
import torch
from torch.nn.functional import cross_entropy

import engine

torch.manual_seed(0)


def draw(number, direction):
    """Examples whose label depends on one direction."""
    x = torch.randn(number, 6)
    return x, (x @ direction > 0).long()


task, other = torch.eye(6)[0], torch.eye(6)[1]
sources = [draw(60, task), draw(60, other), draw(60, -task)]  # the third one says the contrary
x, y = (torch.cat(parts) for parts in zip(*sources, strict=True))
splits = {name: draw(80, task) for name in ("objective", "validation", "test")}
model = torch.nn.Linear(6, 2)


def loss(model, batch):
    return cross_entropy(model(batch[0]), batch[1], reduction="none")


problem = engine.Problem(
    model=model,
    loss=loss,
    train=(x, y),
    groups={"source": torch.arange(3).repeat_interleave(60)},
    **splits,
)
problem

# %%
found = engine.descend(
    problem,
    training={"num_steps": 40, "batch_size": 60, "learning_rate": 0.2},
    metaparameters={"name": "group-weights", "groups": "source"},
    outer={"num_steps": 6, "update": "sign", "step_size": 0.5},
    check=False,
)
found

# %% [markdown]
# z are logits: their softmax is the share of each source. A negative metagradient says that more
# of a source, and so less of all others, lowers the loss.

# %%
first, chosen = found.iterates[0], found.iterates[found.chosen]
for name, each in (("at the start", first), ("chosen", chosen)):
    shares = ", ".join(f"{float(share):.0%}" for share in each.value.softmax(0))
    print(f"{name}: shares {shares}; validation loss {each.scores['validation']['loss']:.4f}")
assert first.metagradient.argmin() == 0
assert first.metagradient.argmax() == 2
assert chosen.scores["validation"]["loss"] < 0.7 * first.scores["validation"]["loss"]
