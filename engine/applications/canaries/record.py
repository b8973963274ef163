"""What canaries leave: their record, and a report with figures."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from torch import Tensor

from engine.applications.canaries.canaries import first_canaries
from engine.applications.canaries.figures import draw_canaries, draw_losses
from engine.applications.canaries.stages import read_audit, read_images
from engine.numerics.environment import machine
from engine.preflight.verdict import CheckReport
from engine.problems.problem import build_problem
from engine.recipes.canaries import CanariesRecipe
from engine.recipes.names import run_name
from engine.recipes.settings import Settings
from engine.reports.intervals import interval
from engine.reports.page import REPORT, Section, how_made, write_page
from engine.runs.endings import Ending, Finished
from engine.runs.finishing import Needs, finish
from engine.runs.run import Stages, begin_run
from engine.stages.commits import read_scalars
from engine.stages.keys import engine_version, run_environment
from engine.stages.places import run_folder
from engine.stages.references import Ref
from engine.stages.training import prepare as prepare_descent
from engine.storage.location import join

OWN, RANDOM, WRONG = "optimized", "random", "mislabelled"
"""Kinds of canaries."""


class GapRecord(Settings):
    """What an audit found."""

    gap: float
    """Mean loss of canaries that were left out, minus that of those trained on, in nats."""

    low: float
    """Lower end of the 95 % bootstrap interval over the trainings."""

    high: float
    """Upper end."""

    auc: float
    """How well a low loss tells who was trained on: 0.5 is chance."""

    loss_in: float
    """Mean loss of those trained on."""

    loss_out: float
    """Mean loss of those left out."""


class CanariesRecord(Finished):
    """Everything that is known of finished canaries."""

    recipe: CanariesRecipe
    """The settings that made it."""

    audits: dict[str, GapRecord]
    """Kind of canaries to what its audit found, the optimized ones first."""

    steps: list[float]
    """Gap in the training of each outer step, before its move."""

    summary: list[str]
    """What the numbers mean, in sentences."""

    stages: Stages
    """How many stages, cached and retried."""

    checks: CheckReport
    """What the preflight found."""

    environment: dict[str, Any]
    """What the bits depend on besides the recipe."""

    @property
    def table(self) -> list[dict[str, Any]]:
        """One row for each kind of canaries."""
        return [
            {
                "canaries": name,
                "gap (nats)": f"{found.gap:.3f} [{found.low:.3f}, {found.high:.3f}]",
                "AUC": f"{found.auc:.3f}",
                "loss IN": f"{found.loss_in:.3f}",
                "loss OUT": f"{found.loss_out:.3f}",
            }
            for name, found in self.audits.items()
        ]

    def content(self, store: str) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        found = self.model_dump(mode="json", include={"run", "steps", "stages"})
        audits = {name: each.model_dump() for name, each in self.audits.items()}
        return {
            "recipe": self.recipe.name,
            "store": store,
            "seconds": round(self.seconds, 3),
            **found,
            "gap": audits[OWN]["gap"],
            "audit": audits.pop(OWN),
            "baselines": audits,
            "preflight": self.checks.verdict,
            "report": join(run_folder(store, self.run), REPORT),
        }


def prepare(recipe: CanariesRecipe, store: str) -> None:
    """Refuse what cannot be, and keep the settings of what can.

    Raises:
        ConfigurationError: With the value, the reason and the remedy.
    """
    prepare_descent(recipe.descent, store)
    first_canaries(build_problem(recipe.descent), recipe.canaries.num_canaries)
    begin_run(recipe, store)


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

    The result needs every stage: pictures and losses are all that canaries keep.

    Args:
        recipe: The settings.
        store: fsspec URL of the store.
        moved: The stage of each outer step.
        audits: Kind of canaries to its audit.
        counts: How the stages were done.
        started: UTC time of the start, ISO 8601.
        checks: What the preflight found.
    """
    number = recipe.canaries.num_canaries
    measured = {name: read_audit(store, ref, number) for name, ref in audits.items()}
    record = CanariesRecord(
        run=run_name(recipe.descent),
        recipe=recipe,
        started=started,
        seconds=(datetime.now(UTC) - datetime.fromisoformat(started)).total_seconds(),
        audits={name: compare(*each) for name, each in measured.items()},
        steps=[read_scalars(store, ref)["gap"] for ref in moved],
        summary=[],
        stages=counts,
        checks=checks,
        environment={"engine": engine_version(), **run_environment(recipe.descent), **machine()},
    )
    lines = summarize(record)
    record = record.model_copy(update={"summary": lines})
    record = record.model_copy(update={"ending": Ending(summary=lines, table=record.table)})
    problem = build_problem(recipe.descent)

    def write_pages(record: CanariesRecord) -> None:
        before = problem.routine.examples[0][:number].cpu()
        after = read_images(problem, store, moved[-1], number).cpu()
        made = how_made(record, counts, checks, record.environment)
        sections = _sections(record, measured, before, after)
        folder = run_folder(store, record.run)
        write_page(folder, f"Privacy canaries: {recipe.name}", sections, made, recipe)

    needs = Needs(results=[*moved, *audits.values()])
    return finish(store, record, needs, write_pages)


def compare(losses: Tensor, inside: Tensor) -> GapRecord:
    """Compare the losses of canaries that were trained on with those of the others.

    Args:
        losses: Shape (audits, canaries).
        inside: Who was trained on, likewise.
    """
    from sklearn.metrics import roc_auc_score

    gaps = [
        float(row[~inner].mean() - row[inner].mean())
        for row, inner in zip(losses, inside, strict=True)
    ]
    found = asdict(interval(gaps))
    auc = roc_auc_score(inside.flatten().numpy(), -losses.double().flatten().numpy())
    return GapRecord(
        gap=found.pop("mean"),
        **found,
        auc=float(auc),
        loss_in=float(losses[inside].mean()),
        loss_out=float(losses[~inside].mean()),
    )


def summarize(record: CanariesRecord) -> list[str]:
    """Say what was found."""
    own, random = record.audits[OWN], record.audits[RANDOM]
    settings = record.recipe.canaries
    times = f", which is {own.gap / random.gap:.1f} times less" if random.gap > 0 else ""
    return [
        f"{settings.num_canaries} canaries were optimized in {record.recipe.outer.num_steps} outer "
        f"steps, and audited in {settings.num_audits} trainings with other halves, starts and "
        "orders.",
        f"Their loss is {own.gap:.3f} nats lower if they were trained on; that of the same images "
        f"before, {random.gap:.3f}{times}.",
        f"With wrong labels instead, it is {record.audits[WRONG].gap:.3f}.",
        f"A threshold on the loss tells who was trained on with an AUC of {own.auc:.2f}; before "
        f"{random.auc:.2f}, with wrong labels {record.audits[WRONG].auc:.2f}.",
        *record.checks.sentences(),
    ]


def _sections(
    record: CanariesRecord,
    measured: dict[str, tuple[Tensor, Tensor]],
    before: Tensor,
    after: Tensor,
) -> list[Section]:
    drawn = {name: (losses[inside], losses[~inside]) for name, (losses, inside) in measured.items()}
    change = (after - before).flatten(1).norm(dim=1)
    shown = change.argsort(descending=True, stable=True)[:10]
    return [
        Section(lines=record.summary),
        Section(
            "What the audits found",
            table=record.table,
            image=draw_losses(drawn, record.steps),
            caption="Above: losses of canaries that were trained on (IN) and left out (OUT), in "
            "all audits; bars from the lower to the upper quartile, dots at the mean. Below: the "
            "gap in the training of each outer step, on the half drawn there.",
        ),
        Section(
            "The canaries that changed most",
            image=draw_canaries(before[shown], after[shown]),
            caption="Before, after, and the change (red brighter, blue darker).",
        ),
    ]
