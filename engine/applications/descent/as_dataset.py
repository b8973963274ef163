"""The outer steps of a descent as an ``xarray.Dataset`` whose large arrays are read when used."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine.applications.descent.iterates import Iterate
from engine.errors import ConfigurationError
from engine.extras import load
from engine.stages.commits import committed_rows, read_rows
from engine.stages.metagradient_rows import is_metagradient
from engine.stages.references import Ref


def as_dataset(store: str, iterates: Sequence[Iterate], run: str) -> Any:  # noqa: ANN401 (xarray is an extra)
    """Return scores, z and metagradients by outer step.

    Args:
        store: fsspec URL of the store.
        iterates: Iterates of the run, at least one.
        run: Name of the run, as an attribute.

    Raises:
        ConfigurationError: If there is no outer step, or xarray is not installed.
    """
    xarray = load("xarray", "A run as a dataset", "notebook")
    if not iterates:
        raise ConfigurationError(f"Run {run} has scored no outer step yet. Continue it first.")
    steps = [each.outer_step for each in iterates]
    splits = list(iterates[0].scores)
    scores = {
        name: (
            ("split", "outer_step"),
            [[each.scores[split].get(name, np.nan) for each in iterates] for split in splits],
        )
        for name in dict.fromkeys(name for split in splits for name in iterates[0].scores[split])
    }
    values = [each.value for each in iterates]
    gradients = [each.gradient for each in iterates]
    rows = {"z": values, "metagradient": gradients}
    lazy = {
        what: (("outer_step", "element"), _lazy(store, refs, _is_named[what]))
        for what, refs in rows.items()
        if any(refs)
    }
    return xarray.Dataset(
        {**scores, **lazy},
        coords={"outer_step": steps, "split": splits},
        attrs={"run": run},
    )


_is_named: dict[str, Callable[[str], bool]] = {
    "z": lambda name: name == "value",
    "metagradient": is_metagradient,
}
"""Which vector of a stage is meant."""


def _lazy(
    store: str,
    refs: Sequence[Ref | None],
    named: Callable[[str], bool],
) -> Any:  # noqa: ANN401 (xarray's)
    """Return a stack of vectors, one for each stage; NaN where there is no stage."""
    backends = load("xarray.backends", "A run as a dataset", "notebook")
    indexing = load("xarray.core.indexing", "A run as a dataset", "notebook")
    first = next(ref for ref in refs if ref is not None)
    layout = committed_rows(store, first).layout
    (name,) = (each for each in layout if named(each))
    size, dtype_of = layout[name]

    class Stack(backends.BackendArray):
        shape = len(refs), size
        dtype = np.dtype(str(dtype_of).removeprefix("torch."))

        def __getitem__(self, key: Any) -> Any:  # noqa: ANN401 (xarray's)
            return indexing.explicit_indexing_adapter(
                key, self.shape, indexing.IndexingSupport.OUTER, self._read
            )

        def _read(self, key: tuple[Any, ...]) -> Any:  # noqa: ANN401 (an array)
            steps, elements = key
            if isinstance(steps, int | np.integer):
                return self._row(refs[int(steps)])[elements]
            wanted = np.arange(len(refs))[steps]
            return np.stack([self._row(refs[int(step)])[elements] for step in wanted])

        def _row(self, ref: Ref | None) -> Any:  # noqa: ANN401 (an array)
            if ref is None:
                return np.full(size, np.nan, self.dtype)
            return read_rows(store, ref)[name].numpy()

    return indexing.LazilyIndexedArray(Stack())
