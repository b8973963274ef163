"""Three runs with a state of their own beside their loops: a teacher, hidden states, a codebook."""

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from engine import sgd
from tests.helpers.trainings import routines

STEPS, RATE, DECAY = 10, 0.1, 0.8

TEMPLATE = routines.mlp()


def weights() -> Tensor:
    return torch.ones(routines.NUM_EXAMPLES, dtype=torch.float64)


def run(**changes):
    return routines.routine(
        **{"num_steps": STEPS, "learning_rate": RATE, "optimizer": sgd(0.9), **changes}
    )


def teach(model, batch, state=None):
    losses = routines.loss(model, batch)
    if state is None:
        return losses
    wanted = functional_call(TEMPLATE, state["teacher"], (batch[0],))
    return losses + (model(batch[0]) - wanted).square().mean(dim=1)


def follow(state, params, batch, step):
    del batch, step
    mean = {n: DECAY * t + (1 - DECAY) * params[n] for n, t in state["teacher"].items()}
    return {"teacher": mean}


def mean_teacher(**changes):
    start = {name: 0.9 * p.detach() for name, p in routines.mlp().named_parameters()}
    return run(**{"loss": teach, "state": {"teacher": start}, "advance": follow, **changes})


def teacher_loop(batches, z: Tensor) -> tuple[list[Tensor], float]:
    """What scripts do: two modules, one of which is moved under no_grad after each step."""
    student, teacher = routines.mlp(), routines.mlp()
    with torch.no_grad():
        for p in teacher.parameters():
            p.mul_(0.9)
    optimizer = torch.optim.SGD(student.parameters(), lr=RATE, momentum=0.9)
    inputs, labels = routines.examples()
    seen = []
    for batch in batches:
        optimizer.zero_grad()
        losses = routines.loss(student, (inputs[batch], labels[batch]))
        with torch.no_grad():
            wanted = teacher(inputs[batch])
        losses = losses + (student(inputs[batch]) - wanted).square().mean(dim=1)
        ((z[batch] * losses).sum() / len(batch)).backward()
        optimizer.step()
        with torch.no_grad():
            for t, p in zip(teacher.parameters(), student.parameters(), strict=True):
                t.mul_(DECAY).add_(p, alpha=1 - DECAY)
        seen.append(nn.utils.parameters_to_vector(teacher.parameters()).detach().clone())
    return seen, float(routines.output(teacher).detach())


def of_teacher(model, state):
    """The teacher is evaluated, as in semi-supervised learning."""
    return routines.output(lambda_module(model, state["teacher"]))


def lambda_module(model, teacher):
    class Taught(nn.Module):
        def forward(self, inputs):
            return functional_call(TEMPLATE, teacher, (inputs,))

        def parameters(self, recurse=True):  # pyright: ignore[reportIncompatibleMethodOverride]
            return iter(teacher.values())

    return Taught()


class Carried(nn.Module):
    """A recurrent cell that reads eight numbers, and what it knew."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.RNNCell(8, 5), nn.Linear(5, 3)

    def forward(self, inputs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and the next hidden state."""
        following = self.cell(inputs, hidden)
        return self.head(following), following


def carried_loss(model, batch, state):
    logits, _ = model(batch[0], state["hidden"])
    return functional.cross_entropy(logits, batch[1], reduction="none")


def carry(state, params, batch, step, *, model):
    del params, step
    return {"hidden": model(batch[0], state["hidden"])[1]}


def of_carried(model):
    inputs, labels = routines.examples(60, seed=1)
    zero = torch.zeros(60, 5, dtype=torch.float64)
    return functional.cross_entropy(model(inputs, zero)[0], labels)


def hidden(**changes):
    first = torch.full((routines.BATCH, 5), 0.1, dtype=torch.float64)
    return run(
        **{
            "model": routines.seeded_model(Carried)[0],
            "loss": carried_loss,
            "state": {"hidden": first},
            "advance": carry,
            **changes,
        }
    )


def hidden_loop(batches, z: Tensor) -> tuple[list[Tensor], float]:
    model = copy.deepcopy(routines.seeded_model(Carried)[0])
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    inputs, labels = routines.examples()
    known, seen = torch.full((routines.BATCH, 5), 0.1, dtype=torch.float64), []
    for batch in batches:
        optimizer.zero_grad()
        logits, following = model(inputs[batch], known.detach())
        losses = functional.cross_entropy(logits, labels[batch], reduction="none")
        ((z[batch] * losses).sum() / len(batch)).backward()
        optimizer.step()
        known = following.detach()
        seen.append(known.reshape(-1).clone())
    return seen, float(of_carried(model).detach())


class Quantized(nn.Module):
    """An encoder, whose code is replaced by a soft choice from a codebook, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.head = nn.Linear(8, 4), nn.Linear(4, 3)

    def forward(self, inputs: Tensor, codes: Tensor) -> Tensor:
        """Return three logits."""
        found = torch.tanh(self.encode(inputs))
        return self.head(0.5 * found + 0.5 * chosen(found, codes) @ codes)


def chosen(found: Tensor, codes: Tensor) -> Tensor:
    distances = (found[:, None] - codes).square().sum(dim=2)
    return torch.softmax(-2 * distances, dim=1)


def codes() -> Tensor:
    drawn = torch.Generator().manual_seed(2)
    return torch.randn(6, 4, generator=drawn, dtype=torch.float64)


def moved_codes(found: Tensor, book: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    share = chosen(found, book)
    counts = DECAY * counts + (1 - DECAY) * share.sum(dim=0)
    sums = DECAY * book * counts[:, None] + (1 - DECAY) * share.T @ found
    return sums / counts[:, None], counts


def quantize(state, params, batch, step, model):
    del params, step
    found = torch.tanh(model.encode(batch[0]))
    book, counts = moved_codes(found, state["book"]["codes"], state["book"]["counts"])
    return {"book": {"codes": book, "counts": counts}}


def quantized_loss(model, batch, state):
    logits = model(batch[0], state["book"]["codes"])
    return functional.cross_entropy(logits, batch[1], reduction="none")


def of_quantized(model, state):
    inputs, labels = routines.examples(60, seed=1)
    return functional.cross_entropy(model(inputs, state["book"]["codes"]), labels)


def codebook(**changes):
    book = {"codes": codes(), "counts": torch.ones(6, dtype=torch.float64)}
    return run(
        **{
            "model": routines.seeded_model(Quantized)[0],
            "loss": quantized_loss,
            "state": {"book": book},
            "advance": quantize,
            **changes,
        }
    )


def codebook_loop(batches, z: Tensor) -> tuple[list[Tensor], float]:
    model = copy.deepcopy(routines.seeded_model(Quantized)[0])
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    inputs, labels = routines.examples()
    book, counts, seen = codes(), torch.ones(6, dtype=torch.float64), []
    for batch in batches:
        optimizer.zero_grad()
        losses = functional.cross_entropy(
            model(inputs[batch], book), labels[batch], reduction="none"
        )
        ((z[batch] * losses).sum() / len(batch)).backward()
        with torch.no_grad():
            found = torch.tanh(model.encode(inputs[batch]))
            book, counts = moved_codes(found, book, counts)
        optimizer.step()
        seen.append(torch.cat([book.reshape(-1), counts]))
    return seen, float(of_quantized(model, {"book": {"codes": book}}).detach())
