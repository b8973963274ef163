"""Last stage of canaries: compares the audits, and writes the record and the report."""

from dataclasses import asdict

from torch import Tensor

from engine.applications.canaries.figures import draw_losses
from engine.applications.canaries.record import CanariesRecord, GapRecord
from engine.applications.canaries.stages import read_audit, read_images
from engine.preflight.verdict import CheckReport
from engine.problems.built import build_problem
from engine.recipes.canaries import CanariesRecipe
from engine.reports.intervals import interval
from engine.reports.pictures import changes
from engine.reports.ranks import area_under_curve
from engine.reports.sections import Card, Figure, Section, Table
from engine.reports.vector import vector
from engine.runs.finished import how_made
from engine.runs.finishing import finish
from engine.runs.report import Report
from engine.runs.run import Stages
from engine.stages.commits import read_scalars
from engine.stages.references import Ref

SHOWN = 8
"""Canaries that are shown."""


def conclude(  # noqa: PLR0913 (what canaries are made of)
    recipe: CanariesRecipe,
    store: str,
    moved: list[Ref],
    audits: dict[str, Ref],
    counts: Stages,
    started: str,
    checks: CheckReport,
) -> CanariesRecord:
    """Compare the audits; write ``run.json`` and ``report.html``.

    Args:
        recipe: The settings.
        store: fsspec URL of the store.
        moved: The stage of each outer step.
        audits: Kind of canaries to its audit.
        counts: How the stages were done.
        started: UTC time of the start, ISO 8601.
        checks: What the preflight found.
    """
    problem, number = build_problem(recipe.descent, store), recipe.canaries.num_canaries
    measured = {name: read_audit(store, ref, number) for name, ref in audits.items()}
    steps = [read_scalars(store, ref) for ref in moved]
    record = CanariesRecord(
        **how_made(recipe, started),
        stages=counts,
        checks=checks,
        unread=sorted(problem.unread),
        moved=moved,
        audited=audits,
        audits={name: compare(*each) for name, each in measured.items()},
        steps=[each["gap"] for each in steps],
        uncompared=sorted({step for each in steps for step in each["uncompared"]}),
    )

    def report(record: CanariesRecord) -> Report:
        before = problem.routine.examples[0][:number].cpu()
        after = read_images(problem, store, moved[-1], number).cpu()
        title = f"Privacy canaries: {recipe.name}"
        return Report(title, _sections(record, measured, before, after))

    return finish(store, record, report)


def compare(losses: Tensor, inside: Tensor) -> GapRecord:
    """Compare the losses of canaries that were trained on with those of the others.

    Args:
        losses: Shape (audits, canaries).
        inside: Who was trained on, likewise.
    """
    gaps = [
        float(row[~inner].mean() - row[inner].mean())
        for row, inner in zip(losses, inside, strict=True)
    ]
    found = asdict(interval(gaps))
    auc = area_under_curve(inside.flatten(), -losses.flatten())
    return GapRecord(
        gap=found.pop("mean"),
        **found,
        auc=auc,
        loss_in=float(losses[inside].mean()),
        loss_out=float(losses[~inside].mean()),
    )


def _sections(
    record: CanariesRecord,
    measured: dict[str, tuple[Tensor, Tensor]],
    before: Tensor,
    after: Tensor,
) -> list[Section]:
    drawn = {name: (losses[inside], losses[~inside]) for name, (losses, inside) in measured.items()}
    change = (after - before).flatten(1).norm(dim=1)
    shown = change.argsort(descending=True, stable=True)[:SHOWN]
    cards = [
        Card(each, f"canary {place}", note=f"changed by {float(change[place]):.3g}")
        for place, each in zip(shown.tolist(), changes(before[shown], after[shown]), strict=True)
    ]
    words = (
        f"The {len(cards)} of {len(change)} canaries that changed most: before, after, and the "
        "change, amplified until the largest can be seen (red is brighter, blue darker). A number "
        "is the Euclidean length of the change, in the units of the model's inputs"
    )
    return [
        Section(
            "Results of the audits",
            figures=[
                Figure(
                    vector(lambda: draw_losses(drawn, record.steps)),
                    "Losses of each kind of canaries where they were trained on and left out, and "
                    "the gap between them in each outer step",
                    "Above: losses of canaries that were trained on (IN) and left out (OUT), in "
                    "all audits; bars from the lower to the upper quartile, dots at the mean. "
                    "Below: the gap in the training of each outer step, on the half drawn there.",
                )
            ],
            tables=[Table(record.table())],
        ),
        Section("The canaries", examples={words: cards}),
    ]
