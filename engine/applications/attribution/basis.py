"""An attribution of many queries by the sweep of a few directions, and its error.

The directions are those that explain most of the derivatives of the queries' losses by the trained
parameters (``engine.replay.query_basis``). Swept beside them are a few queries by themselves: what
the basis says of these is compared with what is true, for every number of directions.
"""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from engine.applications.attribution.figures import draw_basis
from engine.applications.attribution.scores import query_outputs
from engine.errors import CheckpointMismatchError
from engine.problems.built import build_problem
from engine.recipes.attribution import AttributionSettings, Queries
from engine.replay.query_basis import QueryBasis, shares_outside, strongest_directions
from engine.replay.seeding import seed_adjoint
from engine.reports.sections import Figure, Section
from engine.reports.vector import vector
from engine.runs.stored_places import check_places
from engine.stages.commits import Made, read_rows, read_scalars
from engine.stages.metagradient_rows import as_rows, metagradients_in
from engine.stages.references import Ref
from engine.stages.run import Run
from engine.stages.stage import stage

if TYPE_CHECKING:
    from engine.applications.attribution.record import AttributionRecord

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


def basis_section(store: str, spanned: Ref, settings: AttributionSettings) -> Section:
    """Return what the report says of the error of a basis."""
    told = read_scalars(store, spanned)
    errors, outside = told["errors"], told["outside"]
    return Section(
        "Scores from a basis of directions",
        notes=[basis_said(store, spanned, settings)],
        figures=[
            Figure(
                vector(lambda: draw_basis(errors, outside)),
                "Relative error of the scores of queries that were swept by themselves, and the "
                "share of all queries' derivatives outside of the directions, by their number",
                "By the number of directions: the relative error of all scores of a query that was "
                "swept by itself as well (orange, one line for each), and which share of a query's "
                "derivative by the trained parameters lies outside of the directions, in norm "
                "(blue: the median over all queries; dashed: the largest). What lies outside is "
                "missing in the scores, as far as the run carries it back.",
            )
        ],
    )


def basis_said(store: str, spanned: Ref, settings: AttributionSettings) -> str:
    """Say how exact the scores of a basis are."""
    told = read_scalars(store, spanned)
    errors, outside = told["errors"], told["outside"]
    size, worst = len(outside["median"]) - 1, max(each[-1] for each in errors)
    return (
        f"The scores of {settings.num_queries} queries come from the sweep of {size} directions. "
        f"Of {len(errors)} queries that were swept by themselves they are off by {worst:.2g} at "
        "most, in norm; of a query's derivative a share of "
        f"{outside['median'][-1]:.2g} (median) to {outside['largest'][-1]:.2g} lies outside of "
        "the directions."
    )


def basis_of(store: str, record: "AttributionRecord", *, trusted: bool) -> QueryBasis:
    """Return the basis of a finished attribution, which any other query can be asked of.

    Args:
        store: fsspec URL of the store.
        record: Of an attribution by a basis.
        trusted: As for ``engine.applications.open_run.OpenRun.model``.

    Raises:
        ConfigurationError: If the recipe names places or code, and nobody has confirmed them.
        CheckpointMismatchError: If the problem's model is not that of the run any more.
        StoreError: If a stage is missing or damaged.
    """
    if not trusted:
        check_places(record.recipe, record.run, store)
    routine = build_problem(record.recipe.descent, store).routine
    state = read_rows(store, record.found.final, routine.device)
    seeds, evaluated = record.found.seed, routine.optimizer.evaluated
    size = read_scalars(store, seeds)["size"]
    if state[evaluated].numel() != routine.layout.size:
        raise CheckpointMismatchError(
            f"The problem of {record.run} makes a model of {routine.layout.size} parameters, but "
            f"the run trained one of {state[evaluated].numel()}. Use the code of the run."
        )
    swept = read_rows(store, seeds, routine.device)[evaluated].reshape(-1, routine.layout.size)
    ((name, row),) = metagradients_in(read_rows(store, record.found.gradient)).items()
    value = routine.metaparameters[name].value
    along = row.reshape(len(swept), *value.shape)[:size].to(value)
    return QueryBasis(routine, state, swept[:size], {name: along})
