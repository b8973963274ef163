"""A certificate of a finished run: what its kind makes again of it, kept beside the result."""

import random
from datetime import UTC, datetime

from engine.applications.kinds import read_finished
from engine.applications.made_again.stages import here
from engine.errors import CheckpointCorruptError, ConfigurationError, StoreError
from engine.preflight.verdict import CheckReport
from engine.recipes.kinds import find, kinds
from engine.recipes.names import run_name
from engine.runs.certificates import BY_ALL_OF_IT, Certificate
from engine.runs.finished import FinishedRun
from engine.runs.growing import write_certified
from engine.runs.run import find_run, read_recipe
from engine.runs.stored_places import check_places
from engine.storage.location import join, store_errors
from engine.storage.places import CERTIFICATE, run_folder
from engine.storage.records import write_record


def verify_run(
    store: str, run: str, seed: int | None = None, *, trusted: bool = False
) -> Certificate:
    """Make random parts of a finished run again, as its kind does; keep a certificate.

    Where the store may only be read, as one of somebody else, or has no room, the certificate is
    returned and says why it is not kept: what was found took long, and holds.

    Args:
        store: fsspec URL of the store.
        run: Name of the run, or the beginning of it.
        seed: Chooses what is compared; drawn by default.
        trusted: Whether the places that the store's recipe names are known to be harmless.

    Raises:
        ConfigurationError: If the run has not finished, is of a kind whose parts are not verified,
            or names places.
        StoreError: If what it is compared with is missing or damaged.

    Cost:
        A segment, trained and perhaps reversed, and two trainings, or four where the run's number
        format decides little.
    """
    name = find_run(store, run)
    kind = read_recipe(store, name).kind
    record = read_finished(store, name)
    verify = kinds()[kind].verify
    if verify is None:
        raise ConfigurationError(
            f"Run {name} is of kind {kind}, whose parts cannot be verified alone. {BY_ALL_OF_IT}"
        )
    _refuse_changed(record)
    if not trusted:
        check_places(record.recipe.descent, name, store)
    chosen = random.SystemRandom().randrange(2**31) if seed is None else seed
    found = find(verify)(record, store, chosen)
    certificate = Certificate(
        **found.model_dump(),
        run=name,
        verdict=CheckReport.of(found.checks).verdict,
        made=datetime.now(UTC).isoformat(),
        seed=chosen,
        environment=here(record.recipe.descent),
    )
    try:
        with store_errors(store):
            content = certificate.model_dump(mode="json")
            write_record(join(run_folder(store, name), CERTIFICATE), content)
            write_certified(store, record)
    except StoreError as error:
        return certificate.model_copy(update={"unkept": str(error)})
    return certificate


def _refuse_changed(record: FinishedRun) -> None:
    """Refuse a record of other settings than its run's."""
    if run_name(record.recipe.descent) != record.run:
        raise CheckpointCorruptError(
            f"The record of run {record.run} holds other settings than those of its recipe, so it "
            f"was changed. Continue it with `mgd resume {record.run}`, which writes it again."
        )
