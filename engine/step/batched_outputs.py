"""The product of a step with the cotangents of K outputs in one pass.

The reference pulls the K cotangents through one graph, one after the other. If every operation of
the graph has a batching rule, one pass with one more axis does the same with fewer and larger
kernels. Its sums are taken in another order, so it agrees with the reference to rounding. For each
set of metaparameters that enters a step, the first two products are compared with the reference. If
they differ, or torch lacks a rule, the reference takes over with a warning.
"""

import logging
from collections import Counter
from collections.abc import Callable

from engine.errors import UndifferentiableError
from engine.step.products import split
from engine.step.reference import difference, one_by_one
from engine.step.step import StepGraph
from engine.types import Metaparams, State

_logger = logging.getLogger(__name__)

_COMPARED = 2  # a batch that was built in would agree once


class BatchedPull:
    """A ``GraphPull`` that pulls several cotangents at once.

    A single cotangent, and runs with a state of their own, are left to the reference.

    Attributes:
        is_refused: Whether the reference has taken over for good.

    Cost:
        One step with its graph and K products as one; the memory of K. Measured in
        ``tests/bench/bench_outputs.py``.
    """

    def __init__(self) -> None:
        self._compared: Counter[frozenset[str]] = Counter()
        self.is_refused = False

    def __call__(
        self, opened: Callable[[], StepGraph], cotangent: State, *, to_state: bool
    ) -> tuple[State, Metaparams]:
        """Pull cotangents through the graph of a step."""
        count = len(split(cotangent))
        if self.is_refused or count == 1:
            return one_by_one(opened, cotangent, to_state=to_state)
        graph = opened()
        entered = frozenset(graph.leaves)
        if graph.routine.own is not None:
            return graph.pull(cotangent, to_state=to_state)
        if self._compared[entered] >= _COMPARED:
            return graph.pull(cotangent, to_state=to_state, together=True)
        expected = graph.pull(cotangent, to_state=to_state)
        try:
            found = opened().pull(cotangent, to_state=to_state, together=True)
            obstacle = difference(found, expected, count)
        except (RuntimeError, NotImplementedError, UndifferentiableError) as error:
            obstacle = f"{type(error).__name__}: {str(error).strip()[:200]}"
        self._compared[entered] += 1
        if obstacle is not None:
            self.is_refused = True
            _logger.warning(
                "The outputs are pulled back one after the other, by reverse-over-reverse: %s",
                obstacle,
            )
        return expected
