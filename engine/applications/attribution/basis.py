"""An attribution of many queries by the sweep of a few directions, and its error.

The directions are those that explain most of the derivatives of the queries' losses by the trained
parameters (``engine.replay.query_basis``). Swept beside them are a few queries by themselves: the
scores by the basis are compared with these exact ones, for every number of directions.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from engine.applications.attribution.scores import query_outputs
from engine.recipes.attribution import Queries
from engine.replay.query_basis import shares_outside, strongest_directions
from engine.replay.seeding import seed_adjoint
from engine.stages.commits import Made, read_rows, read_scalars
from engine.stages.metagradient_rows import as_rows, metagradients_in
from engine.stages.references import Ref
from engine.stages.run import Run
from engine.stages.stage import stage

_PARTS, _OUTSIDE = "basis_parts", "basis_outside"
"""Rows beside the adjoints: components of each query's derivative along the directions, and the
share of it outside of the first 0, 1, ... of them, both query by query."""

_TINY, _TINY_LENGTH = 1e-300, 1e-30
"""Of lengths in float64, and in any format: zeros stay zeros when they are divided by them."""


@stage("seed-basis")
def seed_basis(
    run: Run, value: Ref, final: Ref, queries: Queries, size: int, num_checked: int
) -> Made:
    """Commit the directions as adjoints, one after the other, and after them those of some queries.

    They are the directions that lack least of the queries' derivatives, relative to each.

    The record holds ``outputs``, the loss of each query, and the ``size`` that the queries span, at
    most the one that was asked for.

    Cost:
        A gradient of each query's loss. Memory: as many vectors of parameters as there are queries.
    """
    problem = run.problem
    routine = problem.routine.at(read_rows(run.store, value)["value"])
    state = read_rows(run.store, final, routine.device)
    evaluated = routine.optimizer.evaluated
    outputs, found = [], []
    for phi in query_outputs(problem, queries):
        output, adjoint = seed_adjoint(routine, state, phi)
        outputs.append(float(output))
        found.append(adjoint[evaluated])
    derivatives = torch.stack(found)
    # Each by its own length, or the directions would be those of the largest losses alone.
    lengths = derivatives.norm(dim=1, keepdim=True)
    directions = strongest_directions(derivatives / lengths.clamp(min=_TINY_LENGTH), size)
    swept = torch.cat([directions, derivatives[:num_checked]])
    parts = derivatives @ directions.T
    outside = [shares_outside(*pair) for pair in zip(parts, derivatives, strict=True)]
    rows = {name: torch.zeros(len(swept) * row.numel()).to(row) for name, row in state.items()}
    rows[evaluated] = swept.reshape(-1)
    rows |= {_PARTS: parts.reshape(-1), _OUTSIDE: torch.cat(outside)}
    return rows, {"outputs": outputs, "size": len(directions)}


@stage("basis-scores")
def basis_scores(run: Run, seeds: Ref, gradient: Ref) -> Made:
    """Commit the scores of all queries, put together from those of the directions.

    The record holds ``errors``, of each query that was swept by itself the relative error of the
    first 1, 2, ... directions, and ``outside``, the median and the largest share of all queries'
    derivatives outside of the first 0, 1, ... of them.
    """
    told = read_scalars(run.store, seeds)
    size, number = told["size"], len(told["outputs"])
    seeded = read_rows(run.store, seeds)
    parts = seeded[_PARTS].reshape(number, size)
    ((name, row),) = metagradients_in(read_rows(run.store, gradient)).items()
    swept = row.reshape(-1, run.problem.kind.value.numel())
    along, exact = swept[:size], swept[size:]
    outside = seeded[_OUTSIDE].reshape(number, size + 1)
    return as_rows({name: parts.to(along) @ along}), {
        "errors": relative_errors(parts[: len(exact)], along, exact),
        "outside": {
            "median": outside.median(dim=0).values.tolist(),
            "largest": outside.max(dim=0).values.tolist(),
        },
    }


def relative_errors(
    parts: Float[Tensor, "queries size"],
    along: Float[Tensor, "size examples"],
    exact: Float[Tensor, "queries examples"],
) -> list[list[float]]:
    """Return the relative error of each query's scores by the first 1, 2, ... directions.

    Args:
        parts: Components of the queries' derivatives along the directions.
        along: Metagradients of the directions.
        exact: Metagradients of the queries.
    """
    found = []
    for row, truth in zip(parts, exact, strict=True):
        guesses = (row[:, None].to(along) * along).cumsum(dim=0)
        errors = (guesses - truth).double().norm(dim=1)
        found.append((errors / truth.double().norm().clamp(min=_TINY)).tolist())
    return found
