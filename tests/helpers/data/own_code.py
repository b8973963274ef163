"""Strangers' code beside their data: models, groups, splits, metrics and loops of their own.

``own-table`` is a CSV file with trusted, validation and test files beside it, groups, and a model
of a class beside the recipe; ``own-photographs`` is a folder with such a model; ``script`` is a
problem file of a stranger's, with nearly every part that ``engine.Problem`` has. All of their runs
draw random numbers, keep running statistics, or carry a state of their own.
"""

import csv
import random

NETS = """
import torch
from torch import nn


class Rows(nn.Module):
    def __init__(self, num_inputs, num_outputs, width=6):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(num_inputs, width), nn.BatchNorm1d(width), nn.GELU(), nn.Dropout(0.2)
        )
        self.head = nn.Linear(width, num_outputs)

    def forward(self, x):
        return self.head(self.body(x))


def pictures(input_shape, num_outputs):
    return nn.Sequential(
        nn.Conv2d(input_shape[0], 4, 3, stride=2), nn.GroupNorm(2, 4), nn.GELU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.1), nn.Linear(16, num_outputs),
    )
"""

SCRIPT = '''
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.utils.data import WeightedRandomSampler

import engine
from nets import Rows


def loss(model, batch, state=None):
    x, y, _ = batch
    logits = model(x)
    losses = cross_entropy(logits, y, reduction="none", label_smoothing=0.05)
    if state is None:
        return losses
    taught = functional_call(model, {**state["teacher"], **dict(model.named_buffers())}, (x,))
    return losses + 0.1 * (logits - taught).square().mean(dim=1)


def advance(state, params, batch, step):
    return {"teacher": {n: 0.9 * t + 0.1 * params[n] for n, t in state["teacher"].items()}}


def hits(model, batch):
    return (model(batch[0]).argmax(1) == batch[1]).double()


def worst_site(model, split):
    found, sites = hits(model, split), split[2]
    return min(float(found[sites == site].mean()) for site in sites.unique())


def jitter(batch, generator):
    x, y, site = batch
    return x + 0.01 * torch.randn(x.shape, generator=generator, dtype=x.dtype), y, site


def heavy_ball():
    """Momentum by hand, which falls from step to step by a hyperparameter of the run."""

    def init(params):
        return {"velocity": torch.zeros_like(params)}

    def update(state, gradient, hyper, step):
        params, velocity = state["params"], state["velocity"]
        velocity = hyper["inertia"] * velocity + gradient
        size = (1e-3 + velocity.square().mean()).sqrt()
        moved = params - hyper["learning_rate"] * velocity / (1 + 0.1 * size)
        return {"params": moved, "velocity": velocity}

    return engine.Optimizer("heavy-ball", {"inertia": 0.8}, init, update)


def sites(rows: int = 48, width: int = 6) -> engine.Problem:
    """Measurements of three sites, of which one names its classes at random.

    Args:
        rows: Training candidates.
        width: Hidden units.
    """
    drawn = torch.Generator().manual_seed(2)

    def part(number, wrong):
        site, y = (torch.randint(0, k, (number,), generator=drawn) for k in (3, 2))
        x = torch.randn(number, 5, generator=drawn) + y[:, None] + 0.3 * site[:, None]
        if wrong:
            y = torch.where(site == 2, torch.randint(0, 2, (number,), generator=drawn), y)
        return x.to(torch.get_default_dtype()), y, site

    train, objective, validation, test = part(rows, True), *(part(40, False) for _ in range(3))
    return engine.Problem(
        model=Rows(5, 2, width),
        loss=loss,
        train=train,
        objective=objective,
        validation=validation,
        test=test,
        metrics={"hits": hits, "worst_site": worst_site},
        names=[f"sample {place:02}" for place in range(rows)],
        groups={"site": [f"site {each}" for each in train[2].tolist()]},
        bounds=(-6.0, 6.0),
        augment=jitter,
        optimizer=heavy_ball(),
        order=WeightedRandomSampler(torch.arange(1.0, rows + 1), rows),
        state={"teacher": lambda params: {n: p.clone() for n, p in params.items()}},
        advance=advance,
    )
'''


def own_table(folder):
    """Write four CSV files and the model, and return the path of the training rows."""
    drawn = random.Random(3)

    def write(path, number, first):
        with path.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["house", "town", "area", "rooms", "sold"])
            for place in range(first, first + number):
                area = drawn.uniform(40, 200)
                sold = "yes" if area + drawn.gauss(0, 30) > 110 else "no"
                town = drawn.choice(["Trier", "Ulm", "Worms"])
                rows.writerow([f"house {place:03}", town, f"{area:.1f}", drawn.randint(1, 7), sold])
        return path

    (folder / "nets.py").write_text(NETS)
    for at, name in enumerate(("trusted", "validation", "test")):
        write(folder / f"houses_{name}.csv", 30, 100 * (at + 1))
    return write(folder / "houses.csv", 60, 0)


def own_photographs(folder):
    """Copy the photographs, and write the model; return the folder of the photographs."""
    from tests.helpers.data.own_data import photographs

    inner = folder / "own"
    inner.mkdir()
    (folder / "nets.py").write_text(NETS)
    return photographs(inner)


def script(folder):
    """Write the problem file and the model; the data are drawn by it."""
    (folder / "nets.py").write_text(NETS)
    path = folder / "my_sites.py"
    path.write_text(SCRIPT)
    return path


MAKERS = {"own-table": own_table, "own-photographs": own_photographs, "script": script}

PROBLEMS = {
    "own-table": """
problem: table
arguments:
  url: DATA
  label: sold
  names: house
  groups: [town]
  objective: FOLDER/houses_trusted.csv
  validation: FOLDER/houses_validation.csv
  test: FOLDER/houses_test.csv
  model: nets.py:Rows
optimizer: {name: adamw, eps_root: 1.0e-6}
""",
    "own-photographs": """
problem: image_folder
arguments: {folder: DATA, size: 12, model: nets.py:pictures}
optimizer: {name: sgd, momentum: 0.9, clip_norm: 1.0}
""",
    "script": """
problem: my_sites.py:sites
arguments: {rows: 48, width: 5}
""",
}

MORE = {
    "mixture": """
kind: descent
metaparameters: {name: group-weights, groups: GROUPS}
outer: {num_steps: 2, update: sign, step_size: 0.5, choose_by: CHOICE}
""",
}
"""Further questions, about data that have groups: which mixture, chosen by a metric."""

ASKED = {"script": ("weights", "mixture")}
"""Data about which only some questions can be asked: a sampler says already how often an example
is used, a loss that reads a state of the run is that of no single example, whom a report could
show, and three columns are no pair of inputs and labels."""

GROUPS = {"own-table": "town", "script": "site"}
CHOICES = {"own-table": "accuracy", "script": "worst_site, choose: highest"}
SINGLY = ("own-table",)
"""Data whose model normalizes its batch, so that no two trainings go through a step together."""

STEPS = {"own-table": "0.3", "own-photographs": "0.3", "script": "0.3"}

NAMES = {
    "own-table": lambda _: [f"house {place:03}" for place in range(330)],
    "own-photographs": lambda path: [str(e.relative_to(path)) for e in path.glob("*/*.png")],
    "script": lambda _: [f"sample {place:02}" for place in range(48)],
}
