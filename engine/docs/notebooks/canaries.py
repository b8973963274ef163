# %% [markdown]
# # Which inputs betray that they were trained on
# The loss of an example after training, differentiated by the numbers of that same example. Who
# lowers that loss makes an example that betrays more clearly that it was trained on.

# %%
import torch
from torch.nn.functional import cross_entropy

import engine
from engine.metaparameters.inputs import Inputs

torch.manual_seed(0)
y = torch.randint(0, 2, (40,))
x = torch.randn(40, 4) + y[:, None]
canary = torch.tensor([7])
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 2))


def loss(model, batch):
    return cross_entropy(model(batch[0]), batch[1], reduction="none")


def routine(pixels):
    return engine.Routine(
        model,
        loss,
        (x, y),
        engine.sgd(0.9),
        learning_rate=0.05,
        num_steps=20,
        batch_size=20,
        metaparameters={"pixels": Inputs(pixels, canary, num_examples=40)},
    )


def own_loss(model):
    return loss(model, (x[canary], y[canary])).mean()


found = engine.metagradient(routine(x[canary]), own_loss)
found

# %%
moved = x[canary] - 0.5 * found["pixels"] / found["pixels"].norm()
before, after = (
    float(engine.metagradient(routine(pixels), own_loss).output) for pixels in (x[canary], moved)
)
print(f"loss of the original after training on it {before:.4f}, on the moved one {after:.4f}")
assert after < before
