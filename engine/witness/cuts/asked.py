"""The question of ``changed``, put to a loss right after it was computed, for next to nothing.

A loss that takes a number out for a log does so at every step, and would be computed twice more at
each of them. Here it is called once more where it was called, with the same tensors, and a function
of torch that is given what it was given then returns what it returned. So only what follows from
the changed numbers is computed, which of a log is nothing.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Hashable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from engine.routine.routine import Routine
from engine.torch_modes import listening
from engine.witness.agreement import least_size, relative, value_limit
from engine.witness.cuts.callers import Place
from engine.witness.cuts.changed import ChangedCuts
from engine.witness.cuts.functions import tensors_in
from engine.witness.cuts.places import CutPlaces, writes

Met = tuple[Place, int]
"""A place, and the step in which it was met."""


class _WrittenError(Exception):
    """What is kept of the call before would be written into, and is a part of its graph."""


class CallsOfLoss:
    """What functions of torch returned in a call, by what they were given.

    Attributes:
        is_whole: Whether nothing was called that another call may not leave out, as a hook.
    """

    def __init__(self) -> None:
        self.is_whole = True
        self._results: defaultdict[Hashable, deque[tuple[Any, list[Tensor], list[int]]]]
        self._results = defaultdict(deque)
        self._held: set[int] = set()
        self._written: set[int] = set()

    def note(
        self, key: Hashable, function: Callable[..., Any], args: tuple[Any, ...], result: object
    ) -> None:
        """Keep what a function returned, unless it wrote."""
        if writes(function):
            self._written |= {_memory(each) for each in tensors_in(args[:1])}
        elif not _is_plain(result):
            self.is_whole = False
        elif key is not None:
            results = [*tensors_in((result,))]
            tensors = [*results, *tensors_in(args)]  # alive, so that no memory comes again
            self._results[key].append((result, tensors, [each._version for each in results]))
            self._held |= {*map(_memory, tensors)}

    def returned(self, key: Hashable) -> tuple[object] | None:
        """Return what a function returned to the same arguments, if nobody wrote into either."""
        kept = self._results.get(key)
        if not kept:
            return None
        result, tensors, versions = kept.popleft()
        is_same = all(
            each._version == known for each, known in zip(tensors, versions, strict=False)
        )
        is_same &= not self._written or self._written.isdisjoint(map(_memory, tensors))
        return (result,) if is_same else None

    def refuse_write(self, args: tuple[Any, ...]) -> None:
        """Raise ``_WrittenError`` if the first argument is in the memory of what is kept."""
        if not self._held.isdisjoint(map(_memory, tensors_in(args[:1]))):
            raise _WrittenError


class AskedCuts(CutPlaces):
    """Notes cuts, and asks each call of a loss whether it notices other numbers at some of them.

    Args:
        step: Says in which step a call is made.
        routine: The run.
        idle: The places that are asked about.

    Attributes:
        unanswered: The places that were met where nobody asked, or where the loss noticed.

    Cost:
        Some microseconds for each function of torch that is called in a loss with such a place,
        its Python once more, and what of it follows from the numbers that are taken out.
    """

    def __init__(self, step: Callable[[], int], routine: Routine, idle: Collection[Place]) -> None:
        super().__init__(step)
        self._routine, self._idle = routine, idle
        self._record: CallsOfLoss | None = None
        self.unanswered: set[Met] = set()

    def expect_backward_code(self) -> None:
        """Note it; the graph of a call that is made again would be in the way of its own."""
        super().expect_backward_code()
        if self._record is not None:
            self._record.is_whole = False

    def _add(self, place: Place) -> None:
        super()._add(place)
        self.unanswered.add((place, self._step()))

    def called(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # noqa: ANN401 (whatever the function returns)
        """Call a function, and keep what it returned as long as a loss is computed."""
        if self._record is None:
            return function(*args, **kwargs)
        key = _key(function, args, kwargs)
        result = function(*args, **kwargs)
        self._record.note(key, function, args, result)
        return result

    def around(self, call: Callable[[], Tensor]) -> Tensor:
        """Compute a loss, and ask for it once more with other numbers."""
        if not self._idle:
            return call()
        before, self.unanswered = self.unanswered, set()
        self._record = CallsOfLoss()
        try:
            losses = call()
        finally:
            record, self._record = self._record, None
        asked = {met for met in self.unanswered if met[0] in self._idle}
        if asked and record.is_whole and not self._is_noticed(call, losses, record, asked):
            self.unanswered -= asked
        self.unanswered |= before
        return losses

    def _is_noticed(
        self, call: Callable[[], Tensor], losses: Tensor, record: CallsOfLoss, asked: set[Met]
    ) -> bool:
        routine, served = self._routine, _Served({place for place, _ in asked}, record)
        statistics = routine.statistics
        # A product pulls back what is noted of the call that was made with the run's numbers.
        forgotten = nullcontext() if statistics is None else statistics.calls_now.forgotten()
        try:
            with forgotten, listening(served, in_updates=False):
                again = call().detach().clone()
        except Exception:  # of code of the user, which goes well where nothing is changed
            return True
        finally:
            served.put_back()
        if torch.equal(again, losses):
            return False
        return relative(again, losses.detach(), least_size(routine)) > value_limit(routine)


class _Served(ChangedCuts):
    """Changes what is taken out at some places, and computes nothing twice."""

    def __init__(self, places: Collection[Place], record: CallsOfLoss) -> None:
        super().__init__(places)
        self._record = record

    def called(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # noqa: ANN401 (whatever the function returns)
        """Return what a function returned before, or call it."""
        if writes(function):
            self._record.refuse_write(args)
        kept = self._record.returned(_key(function, args, kwargs))
        return function(*args, **kwargs) if kept is None else kept[0]

    def _follow(
        self,
        place: Place | None,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: object,
    ) -> None:
        """Where it comes back into a graph is known."""


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _is_plain(result: object) -> bool:
    """Say whether a result is a tensor, some of them, or a value that nobody can change."""
    if isinstance(result, tuple):
        return all(each is None or _is_plain(each) for each in result)
    return isinstance(result, Tensor | int | float | complex | str | torch.dtype | torch.device)


_PLAIN = (
    *(type(None), bool, int, float, complex, str, type(Ellipsis)),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size),
)


def _key(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Hashable | None:
    """Return what stands for a call in which nothing else is read; None if that is not known.

    Without a graph there is none: a custom function is computed so, and what its forward pass
    returns becomes a part of the graph, once.
    """
    if not torch.is_grad_enabled():
        return None
    try:
        own = tuple(map(_part, args))
        named = tuple((name, _part(each)) for name, each in kwargs.items())
    except Exception:  # an argument of another kind, or a tensor without memory
        return None
    return function, own, named


def _part(value: Any) -> Hashable:  # noqa: ANN401 (any argument)
    kind = type(value)
    if kind is Tensor or kind is nn.Parameter:
        place, form = value.data_ptr(), (value.shape, value.stride(), value.dtype)
        return place, value._version, form, value.requires_grad
    if kind in _PLAIN:
        return kind, value
    if kind is slice:
        return slice, _part(value.start), _part(value.stop), _part(value.step)
    if kind is tuple or kind is list:
        return (kind, *map(_part, value))
    raise TypeError
