# %% [markdown]
# # Which examples made a prediction
# Several outputs in one reverse sweep: the loss of each query by the weight of each example.

# %%
import torch
from torch.nn.functional import cross_entropy

import engine

torch.manual_seed(0)
y = torch.randint(0, 3, (63,))
x = torch.randn(63, 4, dtype=torch.float64) + 2 * torch.nn.functional.one_hot(y, 4)
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 3)).double()


def loss(model, batch):
    return cross_entropy(model(batch[0]), batch[1], reduction="none")


routine = engine.Routine(
    model,
    loss,
    (x[:60], y[:60]),
    engine.sgd(0.9),
    learning_rate=0.05,
    num_steps=30,
    batch_size=20,
    metaparameters={"weights": engine.ExampleWeights(torch.ones(60).double())},
)
routine

# %%
queries = [
    lambda model, i=i: loss(model, (x[i : i + 1], y[i : i + 1])).mean() for i in (60, 61, 62)
]
scores = torch.stack([each["weights"] for each in engine.metagradients(routine, queries)])
scores.shape

# %% [markdown]
# Examples with negative scores help a query: more of them lowers its loss. The truth is a training
# without the example. The score, a derivative, says which way the loss goes and about how far; the
# rest is curvature, since to leave out one example of sixty is no small change.

# %%
best = int(scores[0].argmin())
without = torch.ones(60).double()
without[best] = 0


def retrained(weights):
    state = engine.train(routine, {"weights": weights})
    return float(engine.evaluate(routine, state, queries[0]))


change = retrained(without) - retrained(torch.ones(60).double())
print(f"predicted {-float(scores[0, best]):.5f}, retrained {change:.5f}")
assert change > 0
