"""Forms that are refused, each with the words of its message."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import engine
from tests.handed_in.pieces import (
    LATE,
    Stream,
    Trainer,
    WithFile,
    WithGenerator,
    WithLock,
    autocast,
    difference,
    embedding,
    filled,
    frozen,
    of_one_number,
    overlapping,
    own_optimizer,
    scheduler,
    several,
    torchs,
    values,
)
from tests.handed_in.plain import (
    HELD_OUT,
    STEPS,
    N,
    X,
    Y,
    loss,
    made,
    output,
    run,
    weights,
)
from tests.helpers.trainings import routines

REFUSED = {
    "DataLoader": (
        {"examples": DataLoader(TensorDataset(X, Y), 8)},
        "loader.dataset, batch_size=8",
    ),
    "iterator": ({"examples": iter([(X, Y)])}, "gives examples once"),
    "generator": ({"examples": (pair for pair in zip(X, Y, strict=True))}, "gives examples once"),
    "IterableDataset": ({"examples": Stream()}, "gives examples once"),
    "no examples": ({"examples": None}, "of which no batch can be made"),
    "a file name": ({"examples": "data.pt"}, "of which no batch can be made"),
    "a set": ({"examples": {1, 2, 3}}, "Give a tuple of tensors"),
    "empty examples": ({"examples": (X[:0], Y[:0])}, "no training examples"),
    "different lengths": ({"examples": (X, Y[:20])}, "same number"),
    "different lengths in a dict": ({"examples": {"x": X, "y": Y[:5]}}, "as many labels as inputs"),
    "ragged lists": ({"examples": ([[1.0], [1.0, 2.0]], [0, 1])}, "no tensor can be made"),
    "strings": ({"examples": (["a", "b"], [0, 1])}, "no tensor can be made"),
    "one tensor for each example": ({"examples": list(X)}, "torch.stack"),
    "one number": ({"examples": (X, 3)}, "one row of every column"),
    "masked values": (
        {"examples": (np.ma.masked_array(X.numpy(), mask=np.eye(N, X.shape[1])), Y)},
        "8 values that are masked",
    ),
    "sparse inputs": ({"examples": (X.to_sparse(), Y)}, "Make it dense"),
    "nested inputs": (
        values(lambda: run(examples=(torch.nested.nested_tensor(list(X)), Y))),
        "Make it dense",
    ),
    "empty tuple": ({"examples": ()}, "no training examples"),
    "empty dict": ({"examples": {}}, "no training examples"),
    "a label out of range in a later step": (
        {"examples": (X, torch.where(torch.arange(N) == LATE, 7, Y))},
        "a later one fails in your code .*handed_in/.*py.*0 to C - 1",
    ),
    "float32 inputs": ({"examples": (X.float(), Y)}, "different number formats"),
    "labels int32": ({"examples": (X, Y.int())}, r"labels.long\(\)"),
    "samples that do not fit": (
        {"examples": [(X[0], 1)] * 23 + [(X[1, :3], 0)]},
        "cannot be made|Give a",
    ),
    "model class": ({"model": nn.Linear}, r"Linear\(...\)"),
    "function as a model": ({"model": lambda x: x}, "Hand in a torch.nn.Module"),
    "object around a model": ({"model": Trainer()}, "Hand in its network"),
    "state dict": ({"model": routines.mlp().state_dict()}, "Hand in a torch.nn.Module"),
    "compiled": (
        values(lambda: run(model=torch.compile(routines.mlp()))),  # importing it takes seconds
        r"Routine\(compile=True\)",
    ),
    "lazy": ({"model": nn.Sequential(nn.LazyLinear(3))}, "Call the model once"),
    "all frozen": ({"model": frozen()}, "Set requires_grad"),
    "no parameters": ({"model": nn.Sequential(nn.ReLU())}, "Set requires_grad"),
    "max_norm": ({"model": embedding(max_norm=1.0)}, "Leave max_norm out"),
    "scale_grad_by_freq": ({"model": embedding(scale_grad_by_freq=True)}, "Leave it out"),
    "lock": ({"model": WithLock(*routines.mlp())}, "'lock' is a lock.*outside of the module"),
    "file": ({"model": WithFile(*routines.mlp())}, "'log' is a TextIOWrapper"),
    "generator in the model": ({"model": WithGenerator(*routines.mlp())}, "'steps' is a generator"),
    "NaN in a parameter": ({"model": filled(float("nan"))}, "'0.weight' holds NaN"),
    "expanded parameter": ({"model": of_one_number()}, "expanded tensor.*clone"),
    "parameters of one memory": ({"model": overlapping()}, "share memory"),
    "bf16": ({"model": routines.mlp().bfloat16()}, r"model.float\(\)"),
    "half": ({"model": routines.mlp().half()}, r"model.float\(\)"),
    "complex, of two formats": (
        {"model": nn.Sequential(nn.Linear(8, 3, dtype=torch.complex64), nn.Linear(3, 3).double())},
        r"float64 and torch.complex128",
    ),
    "complex, clipped by value": (
        {
            "model": nn.Linear(8, 3, dtype=torch.complex128),
            "optimizer": engine.sgd(clip_value=1.0),
        },
        "Use clip_norm",
    ),
    "autocast in the loss": (
        {"loss": autocast, "model": routines.mlp(dtype=torch.float32), "examples": (X.float(), Y)},
        "handed_in/.*py.*autocast",
    ),
    "loss in bf16": ({"loss": lambda m, b: loss(m, b).bfloat16()}, "leave out autocast"),
    "loss module": ({"loss": nn.CrossEntropyLoss()}, "reduction='none'"),
    "loss function of torch": ({"loss": functional.cross_entropy}, "reduction='none'"),
    "loss class": ({"loss": nn.CrossEntropyLoss}, "reduction='none'|Call it first"),
    "loss of three": ({"loss": lambda model, x, y: None}, "these two arguments"),
    "no loss": ({"loss": None}, "reduction='none'"),
    "mean loss": ({"loss": lambda m, b: loss(m, b).mean()}, "reduction='none'"),
    "loss column": ({"loss": lambda m, b: loss(m, b)[:, None]}, "reduction='none'"),
    "loss tuple": ({"loss": lambda m, b: (loss(m, b), 0)}, "tuple of 2.*reduction='none'"),
    "loss float": ({"loss": lambda m, b: float(loss(m, b).sum())}, "reduction='none'"),
    "loss numpy": ({"loss": lambda m, b: loss(m, b).detach().numpy()}, r"detach\(\)"),
    "loss None": ({"loss": lambda m, b: None}, "reduction='none'"),
    "loss complex": ({"loss": lambda m, b: loss(m, b) + 0j}, "only real numbers"),
    "loss that stops an iteration": (
        {"loss": lambda m, b: next(iter([]))},
        "The loss fails .*StopIteration.*handed_in/.*py",
    ),
    "loss that fails": ({"loss": lambda m, b: m(b["x"])}, "The loss fails.*handed_in/.*py"),
    "optimizer not called": ({"optimizer": engine.adamw}, r"engine.adamw\(\)"),
    "optimizer as a word": ({"optimizer": "sgd"}, r"engine.sgd\(\)"),
    "optimizer of torch": (
        values(lambda: run(optimizer=torchs("AdamW", weight_decay=0.1))),
        r"engine.adamw\(\(0.9, 0.999\), eps=1e-08, weight_decay=0.1\), learning_rate=0.01",
    ),
    "SGD of torch": (
        values(lambda: run(optimizer=torchs("SGD", momentum=0.9))),
        r"engine.sgd\(0.9, nesterov=False",
    ),
    "RMSprop of torch": (values(lambda: run(optimizer=torchs("RMSprop"))), r"engine.rmsprop\(0.99"),
    "Adagrad of torch": (values(lambda: run(optimizer=torchs("Adagrad"))), "pure function"),
    "optimizer class of torch": ({"optimizer": torch.optim.Adam}, r"engine.adam\(\)"),
    "no optimizer": ({"optimizer": None}, r"engine.sgd\(\)"),
    "update that returns a tensor": (
        {"optimizer": own_optimizer(lambda s, g, h, t: s["params"] - 0.1 * g)},
        "returned a Tensor.*the next state",
    ),
    "update without params": (
        {"optimizer": own_optimizer(lambda s, g, h, t: {"p": s["params"] - 0.1 * g})},
        "same names that init returned",
    ),
    "update of another shape": (
        {"optimizer": own_optimizer(lambda s, g, h, t: {"params": (s["params"] - g)[None]})},
        "Leave both as they are",
    ),
    "update in another format": (
        {"optimizer": own_optimizer(lambda s, g, h, t: {"params": (s["params"] - g).float()})},
        "torch.float64.*torch.float32.*Leave both",
    ),
    "update that fails": (
        {"optimizer": own_optimizer(lambda s, g, h, t: 1 / 0)},
        "update of optimizer 'own' fails .ZeroDivisionError.*handed_in/.*py",
    ),
    "update of three arguments": (
        {"optimizer": own_optimizer(lambda s, g, h: {"params": s["params"] - g})},
        "update.state, gradient, hyperparameters, step.",
    ),
    "init that returns nothing": (
        {"optimizer": own_optimizer(lambda s, g, h, t: s, init=lambda params: None)},
        "init of optimizer 'own' returned a NoneType",
    ),
    "hyperparameter that is a text": (
        values(
            lambda: run(optimizer=own_optimizer(lambda s, g, h, t: s, hyperparameters={"b": "x"}))
        ),
        "b is the text 'x'",
    ),
    "scheduler": (values(lambda: run(learning_rate=scheduler())), r"engine.rates\(scheduler"),
    "rate as a function": ({"learning_rate": lambda t: 0.1}, r"\[rate\(t\) for t in"),
    "rate as a word": ({"learning_rate": "0.1"}, "Give one number"),
    "no rate": ({"learning_rate": None}, "Give one number"),
    "rate NaN": ({"learning_rate": float("nan")}, "Give finite numbers"),
    "rates with NaN": ({"learning_rate": [0.1] * 5 + [float("inf")]}, "at step 5.*finite"),
    "rates too few": ({"learning_rate": [0.1] * 5}, "one for each step"),
    "rates that need gradients": (
        {"learning_rate": torch.full((STEPS,), 0.1, requires_grad=True)},
        "LearningRatePoints",
    ),
    "batch size 0": ({"batch_size": 0}, "batch_size=1 or more"),
    "batch size float": ({"batch_size": 8.0}, "batch_size=8"),
    "batch size None": ({"batch_size": None}, "whole number"),
    "steps 0": ({"num_steps": 0}, "num_steps=1 or more"),
    "steps beyond counting": ({"num_steps": 10**400}, "no run reaches"),
    "steps float": ({"num_steps": 6.5}, "whole number"),
    "steps True": ({"num_steps": True}, "whole number"),
    "seed None": ({"seed": None}, "seed=0"),
    "seed float": ({"seed": 1.5}, "whole number"),
    "path": ({"path": "grahp"}, "'plain' or 'graph'"),
    "augment": ({"augment": 3}, r"maps \(batch, generator\)"),
    "no metaparameters": ({"metaparameters": {}}, "Give it some"),
    "metaparameters None": ({"metaparameters": None}, "Give it some"),
    "one kind": ({"metaparameters": engine.ExampleWeights(weights())}, "Give it a name"),
    "list of kinds": ({"metaparameters": [engine.ExampleWeights(weights())]}, "kinds by name"),
    "tensor as a kind": ({"metaparameters": {"w": weights()}}, r"ExampleWeights\(torch.ones"),
    "class as a kind": ({"metaparameters": {"w": engine.ExampleWeights}}, "Give it its value"),
    "z as a tensor": ({"z": weights()}, r"\{'w': ...\}"),
    "z unknown": ({"z": {"weights": weights()}}, "Use their names"),
    "z shape": ({"z": {"w": torch.ones(3)}}, "Convert it"),
    "z whole": ({"z": {"w": torch.ones(N, dtype=torch.int64)}}, "Convert it"),
    "output float": ({"out": lambda m: float(output(m))}, "leave out item"),
    "output vector": ({"out": lambda m: loss(m, HELD_OUT)}, "one scalar tensor"),
    "output None": ({"out": lambda m: None}, "one scalar tensor"),
    "output a tensor": ({"out": torch.tensor(1.0)}, "Hand in a function"),
    "output without arguments": ({"out": lambda: 1.0}, r"output\(model\)"),
    "output in no_grad": ({"out": torch.no_grad()(output)}, "no_grad"),
    "store that is a file": ({"options": {"store": __file__}}, "Cannot write to"),
    "store": ({"options": {"store": 3}}, "the URL or the path"),
}


REFUSED |= {
    "weights int": (
        values(lambda: engine.ExampleWeights(weights().long())),
        r"double\(\)",
    ),
    "weights bool": (
        values(lambda: engine.ExampleWeights(weights().bool())),
        r"double\(\)",
    ),
    "weights bf16": (values(lambda: engine.ExampleWeights(torch.ones(N).bfloat16())), r"float\(\)"),
    "weights a word": (values(lambda: engine.ExampleWeights("ones")), "Give it a tensor"),
    "weights a number": (values(lambda: engine.ExampleWeights(1.0)), "Give it a tensor"),
    "counts of fractions": (values(lambda: engine.Counts(torch.full((N,), 0.5))), "Round them"),
    "weights a column": (
        {"metaparameters": {"w": engine.ExampleWeights(torch.ones(N, 1))}},
        "reshape",
    ),
    "weights too few": (
        {"metaparameters": {"w": engine.ExampleWeights(torch.ones(3))}},
        "for each",
    ),
    "model as a routine": (
        values(lambda: engine.metagradient(routines.mlp(), output)),
        r"Routine\(",
    ),
    "nothing as a routine": (values(lambda: engine.train(None)), r"Routine\("),
    "model to check": (values(lambda: engine.check(routines.mlp(), output)), r"Routine\("),
    "no output to check": (values(lambda: engine.check(made(), None)), "Hand in a function"),
    "no directions": (
        values(lambda: engine.check(made(), output, num_directions=0)),
        "Use 1 or more",
    ),
    "directions float": (
        values(lambda: engine.check(made(), output, num_directions=2.5)),
        "whole number",
    ),
    "evaluate a model": (
        values(lambda: engine.evaluate(made(), routines.mlp(), output)),
        "engine.train returned",
    ),
    "evaluate a state dict": (
        values(lambda: engine.evaluate(made(), routines.mlp().state_dict(), output)),
        "engine.train returned",
    ),
    "whole run of no output": (
        values(lambda: engine.whole_run_gradient(made(), None)),
        "Hand in a function",
    ),
    "difference of no output": (
        values(lambda: engine.central_difference(made(), None, {"w": weights()})),
        "Hand in a function",
    ),
    "output complex": ({"out": lambda m: output(m) + 0j}, "real"),
    "rate for betas": (values(lambda: engine.adam(1e-3)), "there are two of them"),
    "one beta": (values(lambda: engine.adamw(betas=[0.9])), "there are two of them"),
    "momentum as a tensor": (values(lambda: engine.sgd(torch.tensor(0.9))), "Give one number"),
    "average of torch's": (values(lambda: engine.averaged(torchs("SGD"))), r"averaged\(engine.sgd"),
    "run of no store": (values(lambda: engine.open_run(None, "x")), "URL or path of the store"),
    "run by a number": (values(lambda: engine.open_run("store", 3)), "run's name"),
    "MeanLoss turned round": (
        values(lambda: engine.MeanLoss(HELD_OUT, loss)),
        "first the function",
    ),
    "MeanLoss of a loader": (
        values(lambda: engine.MeanLoss(loss, DataLoader(TensorDataset(*HELD_OUT), 8))),
        "Hand in columns",
    ),
    "MeanLoss of pairs": (
        values(lambda: engine.MeanLoss(loss, list(zip(*HELD_OUT, strict=True)))),
        "Hand in columns",
    ),
    "MeanLoss in chunks of 0": (
        values(lambda: engine.MeanLoss(loss, HELD_OUT, chunk=0)),
        "Use 1 or more",
    ),
    "loss that calls backward": (
        {"loss": lambda m, b: (lambda found: (found.sum().backward(), found)[1])(loss(m, b))},
        "calls backward",
    ),
    "outputs a function": (
        values(lambda: several(output)),
        "list of functions",
    ),
    "outputs none": (
        values(lambda: several(None)),
        "list of functions",
    ),
    "outputs empty": (values(lambda: several([])), "at least one"),
    "direction shape": (values(lambda: difference({"weights": torch.ones(3)})), "Convert it"),
    "direction a tensor": (values(lambda: difference(torch.ones(3))), r"\{'weights': ...\}"),
    "direction unknown": (values(lambda: difference({"w": torch.ones(96)})), "Use their names"),
    "direction empty": (values(lambda: difference({})), "along none of them"),
    "distance 0": (values(lambda: difference({"weights": torch.ones(96)}, step_size=0)), "above 0"),
    "evaluate, wrong output": (
        values(
            lambda: engine.evaluate(
                routines.routine(), routines.routine().initial_state(), lambda: 1
            )
        ),
        r"output\(model\)",
    ),
    "train, loss that fails": (
        values(lambda: engine.train(routines.routine(loss=lambda m, b: m(b["x"])))),
        "The loss fails",
    ),
}
