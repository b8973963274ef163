"""Report section about a basis of directions, and the basis of a finished attribution."""

from typing import TYPE_CHECKING

from engine.applications.attribution.figures import draw_basis
from engine.errors import CheckpointMismatchError
from engine.problems.built import build_problem
from engine.recipes.attribution import AttributionSettings
from engine.replay.query_basis import QueryBasis
from engine.reports.sections import Figure, Section
from engine.reports.vector import vector
from engine.runs.stored_places import check_places
from engine.stages.commits import read_rows, read_scalars
from engine.stages.metagradient_rows import metagradients_in
from engine.stages.references import Ref

if TYPE_CHECKING:
    from engine.applications.attribution.record import AttributionRecord


def basis_section(store: str, spanned: Ref, settings: AttributionSettings) -> Section:
    """Return the report section on the error of a basis."""
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
    """Return a sentence on how exact the scores of a basis are."""
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
    """Return the basis of a finished attribution, by which any other query can be scored.

    Args:
        store: fsspec URL of the store.
        record: Record of an attribution by a basis.
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
