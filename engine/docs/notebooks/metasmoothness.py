# %% [markdown]
# # Is the training smooth enough for a metagradient?
# `engine.check` tries a routine on short twins; a kink or a rate that is too high shows there.

# %%
import torch
from torch.nn.functional import cross_entropy

import engine

torch.manual_seed(0)
y = torch.randint(0, 2, (90,))
x = torch.randn(90, 4) + y[:, None]


def loss(model, batch):
    return cross_entropy(model(batch[0]), batch[1], reduction="none")


def routine(rate):
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 2))
    return engine.Routine(
        model,
        loss,
        (x[:60], y[:60]),
        engine.sgd(0.9),
        learning_rate=rate,
        num_steps=20,
        batch_size=20,
        metaparameters={"weights": engine.ExampleWeights(torch.ones(60))},
    )


def held_out(model):
    return loss(model, (x[60:], y[60:])).mean()


report = engine.check(routine(0.05), held_out, num_directions=2)
report

# %% [markdown]
# Metasmoothness is 1 where the trained parameters answer to z in proportion, and 0.41 where they
# wander at random. The adjoint, the derivative by the state, is multiplied by the second number at
# each step backwards; from 1.2 on, training counts as chaotic.

# %%
print(f"metasmoothness {report['metasmoothness'].value:.2f}")
print(f"growth of the adjoint at each step {report['adjoint'].value:.3f}")
assert report["metasmoothness"].value > 0.8
