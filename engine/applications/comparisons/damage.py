"""Damage by changed inputs: which of them account for it, and which classes suffer it."""

import torch
from jaxtyping import Float
from torch import Tensor

from engine.applications.comparisons.poisons import chosen_inputs
from engine.applications.comparisons.results import ChangedImage, Damage
from engine.problems.built import BuiltProblem
from engine.problems.data.splits import DataSet
from engine.stages.commits import read_rows
from engine.stages.metagradient_rows import only_metagradient
from engine.stages.references import Ref


def path_shares(values: list[Tensor], gradients: list[Tensor]) -> Float[Tensor, " rows"]:
    """Return each row's part of the change of the output along a path.

    By the trapezoidal rule, sum_n (g_n + g_{n+1}) / 2 * (z_{n+1} - z_n) over a row's elements; the
    rows' parts add up to f(z_N) - f(z_0) but for the error of the rule.

    Args:
        values: z_0, ..., z_N, each of shape (rows, ...).
        gradients: Metagradients at z_0, ..., z_N, or at all but the last.

    References:
        Sundararajan, Taly, Yan 2017, arXiv:1703.01365 (integrated gradients), with the descent's
        own path in place of a straight line.
    """
    total = torch.zeros(len(values[0]), dtype=torch.float64)
    for n in range(len(values) - 1):
        ends = gradients[n : n + 2]
        slope = torch.stack([g.to(torch.float64) for g in ends]).mean(0)
        step = values[n + 1].to(torch.float64) - values[n].to(torch.float64)
        total += (slope.reshape(step.shape) * step).flatten(1).sum(1)
    return total


def measure_damage(
    problem: BuiltProblem,
    store: str,
    path: list[tuple[Ref, Ref | None]],
    finals: tuple[Ref, Ref],
    rise: float,
) -> Damage:
    """Attribute the damage of changed inputs.

    Args:
        problem: The audit.
        store: fsspec URL of the store.
        path: z and metagradient of the outer steps up to the chosen one.
        finals: s_T at z_0 and at the chosen z.
        rise: Rise of the objective, between them.
    """
    kind = chosen_inputs(problem)
    values = [read_rows(store, value)["value"].reshape(kind.value.shape) for value, _ in path]
    gradients = [only_metagradient(read_rows(store, ref)) for _, ref in path if ref is not None]
    shares = path_shares(values, gradients)
    data, chosen = problem.data, kind.chosen.tolist()
    labels, numbers = _classes(data, kind.chosen), data.numbers
    images = [
        ChangedImage(
            id=numbers[place],
            place=place,
            name=data.names[place] if data.names else "",
            label=None if labels is None else labels[row],
            damage=float(shares[row]),
        )
        for row, place in enumerate(chosen)
    ]
    order = shares.argsort(descending=True, stable=True).tolist()
    damage = Damage(images=[images[row] for row in order], rise=rise, classes={}, victims={})
    if labels is None:
        return damage
    found, numbers = torch.tensor(labels), sorted(set(labels))
    before, after = (_accuracies(problem, store, final) for final in finals)
    return damage.model_copy(
        update={
            "classes": {
                class_name(data, each): float(shares[found == each].sum()) for each in numbers
            },
            "victims": {name: (before[name], after[name]) for name in before},
        }
    )


def class_name(data: DataSet, number: int) -> str:
    """Return the name of a class, or its number where it has none."""
    return data.classes[number] if data.classes else str(number)


def _classes(data: DataSet, chosen: Tensor) -> list[int] | None:
    """Return the classes of candidates; none where labels are of tokens, or numbers."""
    labels = data.splits["train"].one_label_each
    return None if data.num_classes == 0 or labels is None else labels[chosen].tolist()


def _accuracies(problem: BuiltProblem, store: str, final: Ref) -> dict[str, float]:
    """Return the accuracy on the test examples of each class."""
    test = problem.held_out["test"]
    state = read_rows(store, final, problem.routine.device)

    def right(model: torch.nn.Module) -> Tensor:
        parts = [model(part).argmax(1) for part in test.inputs.split(1000)]
        return torch.cat(parts) == test.labels

    with torch.no_grad():
        hits = problem.routine.evaluate(right, state)
    return {
        class_name(problem.data, c): float(hits[test.labels == c].double().mean())
        for c in sorted(set(test.labels.tolist()))
    }
