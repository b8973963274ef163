"""Checks that an unfinished run still has the examples and initial parameters that it began with.

The keys of stages contain them, so a stage never mixes two data sets. But a run that goes on with
other data would make all of its stages again under its old name, and two workers with different
files would each make their own. So a run notes digests when it begins, and every process that
computes one of its stages compares them first. A finished run may be started again on other data,
because its result is complete; a message says so.

Layout: ``<store>/runs/<run>/data.json``.
"""

import logging
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from engine.errors import ConfigurationError
from engine.problems.identity.names import BEHAVIOUR
from engine.recipes.settings import Document, digest
from engine.storage.places import DATA, run_file
from engine.storage.records import SMALL, read_records, write_record

if TYPE_CHECKING:  # whoever only shows runs loads no torch
    from engine.problems.built import BuiltProblem

logger = logging.getLogger(__name__)

_OF_BEHAVIOUR = (
    "Its files are the same, so what they read is not: another file, a variable of the "
    "environment, a module elsewhere. "
)

_TOLD: set[tuple[str, str]] = set()
"""Finished runs, by the place of their note, of which this process has said that they have other
data now, and which."""


class BegunWith(Document):
    """What a run began with."""

    sizes: dict[str, int]
    """Split to its number of examples."""

    digests: dict[str, str]
    """Digest of each part, by its name in messages."""

    torch: str
    """Version that drew initial parameters: another one may draw others."""

    environment: str = ""
    """Digest of where the behaviour was seen, whose bits are those of one environment."""

    finished: bool = False
    """Whether the run has finished with them."""


def note_data(store: str, run: str, problem: "BuiltProblem") -> None:
    """Note what a run begins with, in place of an earlier note."""
    write_record(run_file(store, run, DATA), _of(problem).model_dump())


def note_finished(store: str, run: str) -> None:
    """Note that a run has finished with the data that it began with."""
    found = _read(store, run)
    if found is not None and not found.finished:
        done = found.model_copy(update={"finished": True})
        write_record(run_file(store, run, DATA), done.model_dump())


def agrees(store: str, run: str, problem: "BuiltProblem") -> bool:
    """Say whether an unfinished run began with these data, or has noted none.

    Cost:
        Reads one small file. Another start may have noted other data since the last look.
    """
    there = _read(store, run)
    return there is None or there.finished or not _differing(there, _of(problem))


def check_data(store: str, run: str, problem: "BuiltProblem", name: str) -> None:
    """Refuse data that are not those with which an unfinished run began.

    Args:
        store: fsspec URL of the store.
        run: Name of the run; nothing is compared if it has noted nothing.
        problem: As it is now.
        name: Name of the problem, for the message.

    Raises:
        ConfigurationError: Says what differs, and what to do.
    """
    here, there = _of(problem), _read(store, run)
    differing = [] if there is None else _differing(there, here)
    if there is None or not differing:
        return
    hint = _OF_BEHAVIOUR if differing == [BEHAVIOUR] else ""
    what = " and ".join(f"{each}{_numbers(there, here, each)}" for each in differing)
    if there.finished:
        told = (run_file(store, run, DATA), digest(here.model_dump()))
        if told not in _TOLD:
            logger.warning(
                "Run %s has finished on other data: %s. Everything is computed anew on those of "
                "now, and takes the place of its result. For a run beside it say --set name=...",
                run,
                what,
            )
        _TOLD.add(told)
        return
    raise ConfigurationError(
        f"The data of problem {name} are not those with which run {run} began: other {what}. "
        f"{hint}Put them back, on the workers too, to let it go on. To begin anew on those of now, "
        f"start a run of another name (--set name=...), or free this one first: `mgd clean --run "
        f"{run} --grace 0s --yes`."
    )


def _differing(there: BegunWith, here: BegunWith) -> list[str]:
    """Return the names of the parts that differ; behaviour only where nothing else does."""
    found = [
        what
        for what in sorted(here.digests.keys() | there.digests.keys())
        if here.digests.get(what) != there.digests.get(what) and _is_comparable(what, here, there)
    ]
    return [what for what in found if what != BEHAVIOUR] or found


def _is_comparable(what: str, here: BegunWith, there: BegunWith) -> bool:
    if what == "examples":
        return True
    same = what != BEHAVIOUR or here.environment == there.environment
    return same and here.torch == there.torch


def _numbers(there: BegunWith, here: BegunWith, what: str) -> str:
    if what != "examples":
        return ""
    moved = [
        f"{split} had {there.sizes.get(split, 0)} and has {here.sizes.get(split, 0)}"
        for split in here.sizes | there.sizes
        if there.sizes.get(split) != here.sizes.get(split)
    ]
    return f" ({', '.join(moved) or 'as many as then, with another content'})"


def _of(problem: "BuiltProblem") -> BegunWith:
    import torch

    return BegunWith(
        sizes={name: len(examples) for name, examples in problem.data.splits.items()},
        digests={what: digest({"": found})[:32] for what, found in problem.digests.items()},
        torch=torch.__version__,
        environment=problem.environment,
    )


def _read(store: str, run: str) -> BegunWith | None:
    """Return the note of a run on its data; None if it has none, or none that can be understood."""
    url = run_file(store, run, DATA)
    found: dict[str, Any] | None = read_records([url], largest=SMALL).get(url)
    try:
        return None if found is None else BegunWith.model_validate(found)
    except ValidationError:
        return None
