"""Forms that give the numbers of the plain one."""

from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset, Subset, TensorDataset

import engine
from tests.handed_in.plain import (
    BATCH,
    FORTY,
    STEPS,
    N,
    Pair,
    X,
    Y,
    by_field,
    by_name,
    kinds,
    loss,
    output,
    run,
    weights,
)
from tests.helpers.trainings import routines


class BySample(Dataset):
    """As torch's documentation has it: one index, one sample."""

    def __len__(self):
        return N

    def __getitem__(self, index):
        return X[index], int(Y[index])


class BySampleOfDicts(BySample):
    """Samples by name, as an array and a scalar tensor."""

    def __getitem__(self, index):
        index = int(index)
        return {"x": X[index].numpy(), "y": Y[index]}


class Plain:
    """Not a torch Dataset, but asked by index as one."""

    def __len__(self):
        return N

    def __getitem__(self, index):
        if not isinstance(index, int):
            raise TypeError("list indices must be integers")
        return X[index], Y[index]


class Batches:
    """What the document has always allowed."""

    def __len__(self):
        return N

    def __getitem__(self, indices):
        return {"x": X[indices], "y": Y[indices]}


class Table:
    """As a table of the package ``datasets``: lists of indices, dicts of lists."""

    column_names, features = ("x", "y"), ()

    def __len__(self):
        return N

    def __getitem__(self, indices):
        assert isinstance(indices, list)
        return {"x": [X[i].tolist() for i in indices], "y": [int(Y[i]) for i in indices]}

    def select(self, indices):  # noqa: D102
        return self


def float_table_loss(model, batch):
    return functional.cross_entropy(model(batch["x"].double()), batch["y"], reduction="none")


class MeanOfHeldOut(nn.Module):
    """An output that is a module without parameters."""

    def forward(self, model):  # noqa: D102
        return output(model)


def made_in_inference_mode():
    with torch.inference_mode():
        return X.clone(), Y.clone()


def read_only(array):
    array = array.copy()
    array.setflags(write=False)
    return array


class Frame:
    """As a table of pandas: known to numpy, and asked by names."""

    def __len__(self):
        return N

    def __getitem__(self, name):
        raise KeyError(name)

    def __array__(self, dtype=None, copy=None):
        return X.numpy()


WORK = {
    "list of columns": {"examples": [X, Y]},
    "numpy arrays": {"examples": (X.numpy(), Y.numpy())},
    "tensor and list of labels": {"examples": (X, Y.tolist())},
    "TensorDataset": {"examples": TensorDataset(X, Y)},
    "Subset": {**FORTY, "examples": Subset(TensorDataset(*routines.examples(60)), range(40))},
    "ConcatDataset": {"examples": TensorDataset(X[:10], Y[:10]) + TensorDataset(X[10:], Y[10:])},
    "samples by index": {"examples": BySample()},
    "samples as dicts": {"examples": BySampleOfDicts(), "loss": by_name},
    "samples of a plain object": {"examples": Plain()},
    "list of pairs": {"examples": list(zip(X, Y, strict=True))},
    "list of dicts": {
        "examples": [{"x": x, "y": y} for x, y in zip(X, Y, strict=True)],
        "loss": by_name,
    },
    "dict of tensors": {"examples": {"x": X, "y": Y}, "loss": by_name},
    "dict of arrays": {"examples": {"x": X.numpy(), "y": Y.numpy()}, "loss": by_name},
    "named tuple": {"examples": Pair(X, Y), "loss": by_field},
    "object of batches": {"examples": Batches(), "loss": by_name},
    "table": {"examples": Table(), "loss": float_table_loss},
    "table of pandas and labels": {"examples": (Frame(), Y)},
    "inputs that need gradients": {"examples": (X.clone().requires_grad_(), Y)},
    "bytes in another order": {"examples": (X.numpy().astype(">f8"), Y.numpy().astype(">i8"))},
    "rows in another order": {"examples": (X.flip(0).numpy()[::-1], Y.flip(0).numpy()[::-1])},
    "array that cannot be written": {"examples": (read_only(X.numpy()), read_only(Y.numpy()))},
    "masked array without a mask": {"examples": (np.ma.masked_array(X.numpy()), Y)},
    "strided inputs": {"examples": (X.T.contiguous().T, Y)},
    "tensors of inference mode": {"examples": made_in_inference_mode()},
    "rate of numpy, float64": {"learning_rate": np.float64(0.1)},
    "rate as a scalar tensor": {"learning_rate": torch.tensor(0.1, dtype=torch.float64)},
    "rates as a list": {"learning_rate": [0.1] * STEPS},
    "rates as an array": {"learning_rate": np.full(STEPS, 0.1)},
    "rates as a tensor": {"learning_rate": torch.full((STEPS,), 0.1, dtype=torch.float64)},
    "batch size of numpy": {"batch_size": np.int64(BATCH)},
    "steps as a tensor": {"num_steps": torch.tensor(STEPS)},
    "weights as an array": {"make": lambda: run(metaparameters=kinds(np.ones(N)))},
    "weights as a list": {"make": lambda: run(metaparameters=kinds([1.0] * N))},
    "weights as a parameter": {
        "metaparameters": {"w": engine.ExampleWeights(nn.Parameter(weights()))}
    },
    "z as an array": {"z": {"w": np.ones(N)}},
    "z as a list": {"z": {"w": [1.0] * N}},
    "path as a word": {"path": "plain"},
    "scripted model": {"model": torch.jit.script(routines.mlp())},
    "traced model": {"model": torch.jit.trace(routines.mlp(), X[:2])},
    "fx model": {"model": torch.fx.symbolic_trace(routines.mlp())},
    "output as a module": {"out": MeanOfHeldOut()},
    "model in eval mode": {"model": routines.mlp().eval()},
    "loss as an object": {"loss": type("Loss", (), {"__call__": lambda self, m, b: loss(m, b)})()},
    "loss as a partial": {"loss": partial(lambda scale, m, b: scale * loss(m, b), 1.0)},
}
