"""The scores of an attribution by query, for a notebook: names at once, numbers when asked for."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from engine.applications.attribution.record import (
    FIRST,
    OWN,
    QUERIES,
    SCORES,
    AttributionRecord,
)
from engine.applications.kept_rows import rows_of
from engine.errors import CheckpointCorruptError, ConfigurationError
from engine.reports.data_frames import as_table
from engine.runs.finished import FinishedRun
from engine.shown.html import rows_html
from engine.stages.commits import committed_rows, read_rows
from engine.stages.metagradient_rows import is_metagradient
from engine.stages.references import Ref
from engine.storage.location import store_errors
from engine.storage.places import run_file
from engine.storage.records import read_bytes

if TYPE_CHECKING:
    from torch import Tensor

    from engine.replay.query_basis import QueryBasis

_SHOWN = 5
"""Queries that a notebook shows; a row for each example has no room for more."""


@dataclass(frozen=True, repr=False, eq=False)
class QueryScores:
    """Scores of every training example for every query, d query's loss / d example's weight.

    Entry (q, i) is negative where more weight of example i lowers the loss of query q, in nats per
    unit of weight; those of a baseline say the same up to a factor. ``scores[3]`` and
    ``scores["name of a query"]`` read one query, ``values()`` reads and verifies all.

    Attributes:
        store: fsspec URL of the store.
        run: Name of the run.
        method: Method whose scores are returned: ``metagradient``, or a baseline.
    """

    store: str
    run: str
    method: str
    _refs: Mapping[str, Ref]
    _record: AttributionRecord

    @property
    def methods(self) -> list[str]:
        """The methods whose scores the run has, for ``of``."""
        return list(self._refs)

    def of(self, method: str) -> "QueryScores":
        """Return the scores of another method, e.g. of the baseline ``trak``.

        Raises:
            ConfigurationError: If the run has none of it.
        """
        if method not in self._refs:
            raise ConfigurationError(
                f"Run {self.run} has no scores of {method!r}. It has {', '.join(self._refs)}."
            )
        return replace(self, method=method)

    def basis(self, *, trusted: bool = False) -> "QueryBasis":
        """Return the basis that was swept in place of the queries; it scores any other query too.

        ``run.scores.basis().query(phi)`` runs no step.

        Args:
            trusted: As for ``model`` of a run: whether you know the code and the places that the
                store's recipe names to be harmless.

        Raises:
            ConfigurationError: If the run has none, or trust is needed and not given.
            StoreError: If a stage is missing or damaged.
        """
        if self._record.found.spanned is None:
            raise ConfigurationError(
                f"Run {self.run} swept every query by itself. Set attribution.basis for a basis "
                "that other queries can be asked of."
            )
        from engine.applications.attribution.basis_report import basis_of

        with store_errors(self.store):
            return basis_of(self.store, self._record, trusted=trusted)

    @cached_property
    def queries(self) -> list[dict[str, Any]]:
        """A row for each query: ``query``, ``name`` and ``label`` where it has them, ``loss``."""
        return rows_of(self._file(QUERIES), run_file(self.store, self.run, QUERIES))

    @cached_property
    def examples(self) -> list[dict[str, Any]]:
        """A row for each training example: ``example``, and ``name`` and ``label``, if any."""
        lines = csv.reader(io.StringIO(self._file(SCORES).decode(errors="replace")))
        heads = next(lines, [])
        number = next((n for n, head in enumerate(heads) if head == FIRST), len(heads))
        cut = io.StringIO()  # a table of thousands of queries is not turned into numbers for names
        csv.writer(cut).writerows(row[:number] for row in [heads, *lines])
        return rows_of(cut.getvalue().encode(), run_file(self.store, self.run, SCORES))

    @property
    def shape(self) -> tuple[int, int]:
        """Queries and examples."""
        return len(self.queries), len(self.examples)

    @property
    def names(self) -> list[str]:
        """What each query is called: its name where it has one of its own, else ``query_0`` ..."""
        names = [str(row.get("name", "")) for row in self.queries]
        if all(names) and len(set(names)) == len(names):
            return names
        return [f"query_{row['query']}" for row in self.queries]

    def __len__(self) -> int:
        return len(self.queries)

    def __getitem__(self, query: int | str) -> "Tensor":
        """Return the scores of one query, shape (examples,), on the CPU.

        The first call of an object compares the digest of all scores, as ``values`` does, with a
        part of them in memory; the others read one query.

        Args:
            query: Number from 0, or one of ``names``.

        Raises:
            IndexError: If there is no query of that number.
            ConfigurationError: If there is none of that name.
            StoreError: If it is missing or damaged.
        """
        import torch

        if isinstance(query, str) and query not in self.names:
            raise ConfigurationError(
                f"Run {self.run} has no query {query!r}. See `scores.names`, or use a number."
            )
        number = self.names.index(query) if isinstance(query, str) else range(len(self))[query]
        size = len(self.examples)
        with store_errors(self.store):
            row = self._verified[0, number * size : (number + 1) * size]
        return torch.as_tensor(row)

    @cached_property
    def _verified(self) -> Any:  # noqa: ANN401 (an array of zarr's, which is loaded late)
        """All scores in the store, shape (1, queries * examples); compared when first read."""
        rows = committed_rows(self.store, self._refs[self.method])
        arrays = rows.arrays()
        name = self._row(arrays)
        queries, examples = self.shape
        if arrays[name].shape != (1, queries * examples):
            raise CheckpointCorruptError(
                f"Run {self.run} has {arrays[name].size} scores, and its tables name {queries} "
                f"queries and {examples} examples: {QUERIES} or {SCORES} was changed. "
                f"`mgd resume {self.run}` writes them again once the changed one is deleted."
            )
        return arrays[name]

    def values(self) -> "Tensor":
        """Return all scores, verified, shape (queries, examples), on the CPU.

        Raises:
            StoreError: If they are missing or damaged.
        """
        with store_errors(self.store):
            rows = read_rows(self.store, self._refs[self.method])
        return rows[self._row(rows)].reshape(self.shape)

    @property
    def table(self) -> Any:  # noqa: ANN401 (depends on what is installed)
        """A row for each example and a column for each query, like ``run.table``."""
        return as_table(self._rows(range(len(self))))

    def __repr__(self) -> str:
        queries, examples = self.shape
        return (
            f"QueryScores({self.method} of {self.run}: {queries} queries, {examples} examples; "
            "d query's loss / d weight, negative helps)"
        )

    def _repr_html_(self) -> str:
        return f"<p>{self!r}</p>" + rows_html(self._rows(range(min(_SHOWN, len(self)))))

    def _rows(self, queries: Sequence[int]) -> list[dict[str, Any]]:
        columns = {self.names[query]: self[query].tolist() for query in queries}
        if taken := columns.keys() & self.examples[0].keys():
            raise ConfigurationError(
                f"A query of run {self.run} is called {min(taken)!r}, as a column of the examples "
                "is. Use `values()` beside `queries` and `examples`."
            )
        return [
            {**example, **{name: column[place] for name, column in columns.items()}}
            for place, example in enumerate(self.examples)
        ]

    def _row(self, rows: Mapping[str, Any]) -> str:
        """Return the name of the row that holds the scores."""
        wanted = [n for n in rows if (is_metagradient(n) if self.method == OWN else n == "scores")]
        if len(wanted) != 1:
            raise CheckpointCorruptError(
                f"The stage of the scores of {self.method} holds {', '.join(rows)}. Something in "
                "the store was changed from outside: do not use this store."
            )
        return wanted[0]

    def _file(self, name: str) -> bytes:
        with store_errors(self.store):
            content = read_bytes(run_file(self.store, self.run, name))
        if content is None:
            raise ConfigurationError(
                f"Run {self.run} has no file {name}. `mgd resume {self.run}` writes it."
            )
        return content


def scores_of(store: str, run: str, kind: str, record: FinishedRun | None) -> QueryScores:
    """Return the scores of a finished attribution, those of the metagradient.

    Raises:
        ConfigurationError: If the run is of another kind, or has not finished.
    """
    if isinstance(record, AttributionRecord):
        found = record.found
        return QueryScores(store, run, OWN, {OWN: found.own, **found.baselines}, record)
    wrong = "has not finished" if kind == "attribution" else f"is of kind {kind}"
    raise ConfigurationError(
        f"Run {run} {wrong}, so it has no scores by query: a finished run of kind attribution has "
        "them. The scores of a descent are in `selection`, or in `metagradient(0)`."
    )
