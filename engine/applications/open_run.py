"""A run of a store as an object, for notebooks and for what sets runs side by side.

It reads records, files and rows, and nothing else: no code that a stored recipe names is loaded,
and no place that it names is read, but by ``OpenRun.model``, which asks for trust.
"""

import os
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from engine.applications.kept_rows import only_row, rows_of
from engine.applications.kinds import read_finished
from engine.errors import ConfigurationError
from engine.recipes.descent import DescentRecipe
from engine.reports.curves import Curve
from engine.reports.data_frames import as_table
from engine.reports.page import REPORT
from engine.reports.settings_rows import changed_rows
from engine.reports.shown_figures import ShownFigure, figures_of
from engine.runs.finished import FinishedRun
from engine.runs.inventory import stored_run
from engine.runs.outer_steps import OuterSteps
from engine.runs.run import find_run, no_report, read_recipe
from engine.shown.html import pairs_html, rows_html
from engine.storage.location import absolute, store_errors
from engine.storage.places import run_file
from engine.storage.readable import check_readable
from engine.storage.records import read_bytes

if TYPE_CHECKING:
    import zarr
    from torch import Tensor, nn

    from engine.applications.attribution.query_scores import QueryScores
    from engine.applications.descent.iterates import Iterate, Iterates
    from engine.stages.references import Ref

_SELECTION = ("selection.parquet", "selection.csv")
"""Files of a selection, the one with types first."""


@dataclass(frozen=True, repr=False, eq=False)
class OpenRun:
    """A run of any kind, finished or not, as its store has it when it is opened.

    Attributes:
        store: fsspec URL of the store; a local path is absolute.
        name: Whole name of the run.
        recipe: Settings of the run.
        record: What it did; None while it has not finished.
        finished: Whether it has ended, and no start has gone on with it since.
    """

    store: str
    name: str
    recipe: DescentRecipe
    record: FinishedRun | None
    finished: bool
    _steps: OuterSteps

    @property
    def standing(self) -> str:
        """Sentence on whether the run has finished, and on how to continue it if not."""
        if self.finished:
            return f"Run {self.name} has finished."
        far = f": {len(self.iterates)} outer steps have been scored" if self._descends else ""
        return (
            f"Run {self.name} has not finished{far}. It goes on with `mgd resume {self.name} "
            f"--store {self.store}`."
        )

    @property
    def headline(self) -> str:
        """Sentence on the result, or on the progress of a run that has not finished."""
        return self.standing if self.record is None else self.record.headline()

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The result as rows of the same columns: for a descent, one for each outer step."""
        return self._result.rows()

    @property
    def table(self) -> Any:  # noqa: ANN401 (depends on what is installed)
        """``rows`` as a DataFrame where pandas is installed, else as they are."""
        return as_table(self.rows)

    @property
    def settings(self) -> Any:  # noqa: ANN401 (as ``table``)
        """The settings that differ from the defaults, with what they mean, like ``table``."""
        found = changed_rows(self.recipe)
        return as_table([{"key": k, "value": v, "meaning": m} for k, v, m in found])

    @property
    def curves(self) -> list[Curve]:
        """Curves that can be compared with those of another run; may be empty."""
        return self._result.curves()

    @property
    def quantities(self) -> dict[str, float]:
        """The numbers of the result by name; none while it has not finished."""
        return {} if self.record is None else self.record.quantities()

    @cached_property
    def iterates(self) -> "list[Iterate]":
        """The outer steps of a descent, as far as they have been scored.

        Raises:
            ConfigurationError: If it is a run of another kind.
        """
        if not self._descends:
            raise ConfigurationError(
                f"Run {self.name} is of kind {self.recipe.kind}, which has no outer steps with a z "
                "and a model each. See `table`, `files` and `stages` of it."
            )
        from engine.applications.descent.iterates import iterates_so_far
        from engine.applications.descent.record import RunRecord

        if isinstance(self.record, RunRecord):
            return self.record.iterates
        with store_errors(self.store):
            return iterates_so_far(self._steps)

    @property
    def chosen(self) -> int:
        """The outer step whose iterate was chosen; of a run that has not finished, the last one."""
        return getattr(self.record, "chosen", len(self.iterates) - 1)

    def again(self) -> "OpenRun":
        """Open the run again, to see its progress; this object does not change.

        Raises:
            As ``open_run``.

        Cost:
            That of ``open_run``; of the outer steps, those that are new are read.
        """
        return replace(open_run(self.store, self.name), _steps=self._steps)

    def z(self, step: int | None = None) -> "Tensor":
        """Return the metaparameters of an outer step, flat, on the CPU.

        Args:
            step: Number of the outer step; the chosen one by default.

        Raises:
            ConfigurationError: If there is no such step.
            StoreError: If its bits are not there, or not those that were committed.
        """
        return only_row(self.store, self._iterate(step).value, "value".__eq__)

    def metagradient(self, step: int = 0) -> "Tensor":
        """Return d objective / d z at an outer step, flat like ``z``, on the CPU.

        Entry i is negative where more of z_i lowers the objective.

        Args:
            step: Number of the outer step. The last one has none: nothing moves from there.

        Raises:
            ConfigurationError: If there is no such step, or it has none.
            StoreError: If its bits are not there, or not those that were committed.
        """
        ref = self._iterate(step).gradient
        if ref is None:
            raise ConfigurationError(
                f"Outer step {step} of run {self.name} has no metagradient: no step was taken from "
                f"there. Those before it, up to {len(self.iterates) - 2}, have one."
            )
        from engine.stages.metagradient_rows import is_metagradient

        return only_row(self.store, ref, is_metagradient)

    def losses(self, step: int | None = None) -> list[float]:
        """Return the batch loss of every training step of an outer step.

        Args:
            step: Number of the outer step; the chosen one by default.
        """
        from engine.stages.monitoring import training_losses

        with store_errors(self.store):
            return training_losses(self.store, self._iterate(step).final)

    def model(self, step: int | None = None, *, trusted: bool = False) -> "nn.Module":
        """Return the model that an outer step trained, in evaluation mode.

        The problem's function makes it, so this is the one call that runs code and reads places
        which the recipe of the store names.

        Args:
            step: Number of the outer step; the chosen one by default.
            trusted: Whether you know that code and those places to be harmless: anyone who can
                write to the store could have put them there.

        Raises:
            ConfigurationError: If there is no such step, or trust is needed and not given.
            CheckpointMismatchError: If the problem's model is not that of the run any more.
            StoreError: If the state is missing or damaged.

        Cost:
            The problem is built once, its data included; nothing is trained.
        """
        from engine.applications.descent.export import model_of

        return model_of(self.store, self.recipe, self.name, self._iterate(step), trusted=trusted)

    @property
    def selection(self) -> Any:  # noqa: ANN401 (as ``table``)
        """One row for each candidate, like ``table``: id, count or weight, score, name, label ...

        ``score`` is the first metagradient; ``true_label`` is there where the problem knows it. In
        a store that was written without pyarrow, a text that a spreadsheet would take for a formula
        begins with an apostrophe.

        Raises:
            ConfigurationError: If the run selects no examples, or has not finished.
            CheckpointCorruptError: If the file of it is damaged.
        """
        for file in _SELECTION:
            content = self._content(file)
            if content is None or (file.endswith("parquet") and find_spec("pyarrow") is None):
                continue
            return as_table(rows_of(content, run_file(self.store, self.name, file)))
        if not self._descends:
            raise ConfigurationError(
                f"Run {self.name} is of kind {self.recipe.kind}, which selects no examples. See "
                f"`table`, and `read` of its files ({', '.join(self.files) or 'it has none'})."
            )
        raise ConfigurationError(
            f"Run {self.name} has no selection of examples: it has not finished, or its "
            f"metaparameters are {self.recipe.metaparameters.name.value}. See `z` and `table`."
        )

    @property
    def scores(self) -> "QueryScores":
        """The scores of an attribution by query, with the names of queries and examples.

        ``run.scores[0]`` and ``run.scores["name"]`` read one query, ``run.scores.table`` has them
        all, and ``run.scores.of("trak")`` those of a baseline.

        Raises:
            ConfigurationError: If the run is no attribution, or has not finished.
        """
        from engine.applications.attribution.query_scores import scores_of

        return scores_of(self.store, self.name, self.recipe.kind, self.record)

    @property
    def report(self) -> str:
        """Path or URL of the report.

        Raises:
            ConfigurationError: If there is none yet.
        """
        if self._content(REPORT) is None:
            raise no_report(self.store, self.name)
        return run_file(self.store, self.name, REPORT)

    @cached_property
    def figures(self) -> list[ShownFigure]:
        """Figures of the report, which a notebook shows; empty while there is no report."""
        content = self._content(REPORT)
        return [] if content is None else figures_of(content.decode(errors="replace"))

    @property
    def files(self) -> list[str]:
        """Names of the files that the run left for use elsewhere; ``read`` has their content."""
        return [] if self.record is None else list(self.record.ending.files)

    def read(self, file: str) -> bytes:
        """Return the content of one of ``files``.

        Raises:
            ConfigurationError: If there is none of that name.
        """
        content = self._content(file) if file in self.files else None
        if content is None:
            raise ConfigurationError(
                f"Run {self.name} has no file {file!r}. It has {', '.join(self.files) or 'none'}."
            )
        return content

    @cached_property
    def stages(self) -> "dict[str, Ref]":
        """The stages that hold its tensors, by what people call them: ``z[0]``, ``state[2]`` ..."""
        return self._result.arrays()

    def arrays(self, stage: str) -> "dict[str, zarr.Array[Any]]":
        """Return the arrays of a stage as they lie in the store, shapes (rows, elements).

        They are read a chunk at a time when indexed, ``run.arrays("z[0]")["value"][0, :10]``, and
        need not fit into memory. When a row is first indexed, all of it is read and compared.

        Args:
            stage: One of ``stages``.

        Raises:
            ConfigurationError: If there is no such stage.
            StoreError: If it is not there; later, if a row is indexed that is damaged.
        """
        if stage not in self.stages:
            known = ", ".join(self.stages) or "none"
            raise ConfigurationError(f"Run {self.name} has no stage {stage!r}. Use one of {known}.")
        from engine.stages.commits import committed_rows

        with store_errors(self.store):
            return committed_rows(self.store, self.stages[stage]).arrays()

    def dataset(self) -> Any:  # noqa: ANN401 (xarray is an extra)
        """Return scores, z and metagradients of all outer steps as an ``xarray.Dataset``.

        Scores have the coordinates ``outer_step`` and ``split``; ``z`` and ``metagradient`` have
        ``outer_step`` and ``element``, and are read, and verified, row by row when they are used.

        Raises:
            ConfigurationError: If it is no descent, or xarray is not installed.
        """
        from engine.applications.descent.as_dataset import as_dataset

        return as_dataset(self.store, self.iterates, self.name)

    def __repr__(self) -> str:
        return f"OpenRun({self.name}: {self.headline})"

    def _repr_html_(self) -> str:
        """Return verdict, numbers and the result as tables, for a notebook."""
        pairs: dict[str, object] = {"recipe": self.recipe.name, "store": self.store}
        notes = [self.headline] if self.finished else [self.standing]
        if self.record is not None:
            pairs |= self.record.in_pairs()
            notes += self.record.warnings()
        return pairs_html(self.name, pairs, notes) + rows_html(self.rows)

    @property
    def _descends(self) -> bool:
        return type(self.recipe) is DescentRecipe

    @property
    def _result(self) -> "FinishedRun | Iterates":
        """The record, or the outer steps so far; none for an unfinished run of another kind."""
        if self.record is not None:
            return self.record
        from engine.applications.descent.iterates import Iterates

        return Iterates(self.iterates if self._descends else [])

    def _iterate(self, step: int | None) -> "Iterate":
        wanted = self.chosen if step is None else step
        if not 0 <= wanted < len(self.iterates):
            raise ConfigurationError(
                f"Run {self.name} has no outer step {wanted}. It has 0 to {len(self.iterates) - 1}."
                if self.iterates
                else f"Run {self.name} has scored no outer step yet. Continue it first."
            )
        return self.iterates[wanted]

    def _content(self, file: str) -> bytes | None:
        with store_errors(self.store):
            return read_bytes(run_file(self.store, self.name, file))


def open_run(store: str | os.PathLike[str], name: str) -> OpenRun:
    """Open a run of a store, finished or not.

    ``run.table``, ``run.selection``, ``run.z(3)``, ``run.metagradient(3)``, ``run.model()``,
    ``run.figures``, ``run.report`` and the rest are said by ``help(engine.open_run(...))``.

    Args:
        store: Folder or fsspec URL of the store.
        name: Name of the run, or the beginning of it.

    Returns:
        The run as it is now; it does not follow a run that goes on. ``run.again()`` does.

    Raises:
        ConfigurationError: If there is no such run, or more than one; names those that there are.
        CheckpointCorruptError: If its recipe or record is damaged, or of another version.
        StoreError: If the store cannot be read.

    Cost:
        Reads the recipe, the record and the claims of the run. Arrays are read when asked for; no
        code that the store names is loaded.
    """
    if not isinstance(store, str | os.PathLike) or not isinstance(name, str):
        raise ConfigurationError(
            f"engine.open_run was given a {type(store).__name__} and a {type(name).__name__}. Pass "
            "the URL or path of the store, and the run's name: engine.open_run('store', 'run')."
        )
    place = absolute(os.fspath(store))
    check_readable(place)
    with store_errors(place):
        found = find_run(place, name)
        stored = stored_run(place, found)
        has_record = stored.ending is not None or stored.is_damaged
        record = read_finished(place, found) if has_record else None
        recipe = read_recipe(place, found) if record is None else record.recipe
    steps = OuterSteps(place, found)
    return OpenRun(place, found, recipe, record, stored.finished, steps)
