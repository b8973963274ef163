"""Choice of a custom function's derivative: its backward pass, or its forward pass's own.

Both are pulled back with the cotangents of a product, for which a backward pass that clips is no
derivative. Where they agree there is nothing to judge. Where they do not, a difference quotient in
float64 tells, of the one number of an argument by which they differ most: a rounding jumps nowhere
near of one number, as it does somewhere in a million.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from engine.errors import WitnessError
from engine.routine.module.backward.call import Call, recording
from engine.routine.module.backward.refusals import CHANGED, NEITHER, OTHERS, refusal

# Names of torch's own, by which ``is_grads_batched`` marks its rows.
_TORCH: Any = torch
_FUNCTORCH: Any = _TORCH._C._functorch

_AGREE = {torch.float64: 1e-9, torch.complex128: 1e-9}
_AGREE_OTHERS = 1e-5
"""Of the largest entry of two derivatives."""

_DISTANCES = {torch.float64: (1e-6, 1e-4, 1e-8)}
_DISTANCES_OTHERS = (1e-2, 1e-3, 1e-1)
"""Of a difference quotient, times the size of a number over one."""

_NEARER = 0.1
"""A quotient tells for a derivative that it misses by so much of what they differ by, at most."""

_PLACES = 4
"""Numbers of an argument that are asked until one tells, such as where the first one is a kink."""

Pulled = tuple[Tensor | None, ...]
"""Cotangents of the arguments of a function; None where nothing depends."""

Written = Callable[..., Any]
"""Takes the cotangents of the results, and returns those of the arguments by the backward pass."""


def pulled(call: Call, written: Written, cotangents: Sequence[Tensor | None]) -> Pulled:
    """Pull cotangents through a function by the derivative of its values.

    Args:
        call: What it was called with.
        written: Its backward pass in its node.
        cotangents: Cotangents of its results, or batches of them.

    Returns:
        One for each argument: by the backward pass where that is right, to the last bit.

    Raises:
        WitnessError: If neither is the derivative.
    """
    if any(map(_is_batched, cotangents)):
        return _of_each(call, written, cotangents)
    found = written(*cotangents)
    found = found if isinstance(found, tuple) else (found,)
    by_author = (*found, *(None,) * len(call.needs))[: len(call.needs)]
    args = call.args
    by_forward, is_repeated = _traced(call, cotangents)
    differ = [
        place
        for place, needed in enumerate(call.needs)
        if needed and not _agree(by_author[place], by_forward[place], args[place])
    ]
    given = [each for each in cotangents if each is not None]
    if not differ or not all(bool(each.isfinite().all()) for each in given):
        return by_author  # of what is no number, others say where it comes from
    if not is_repeated or call.is_changed():
        raise refusal(call, CHANGED if call.is_changed() else OTHERS)
    taken = _right_arguments(call, cotangents, differ)
    call.is_by_forward = call.is_by_forward or bool(taken)
    return tuple((by_forward if place in taken else by_author)[place] for place in range(len(args)))


def _is_batched(cotangent: Tensor | None) -> bool:
    return cotangent is not None and _FUNCTORCH.is_legacy_batchedtensor(cotangent)


def _of_each(call: Call, written: Written, cotangents: Sequence[Tensor | None]) -> Pulled:
    """Pull the rows of batches of cotangents one by one, as ``is_grads_batched`` makes them."""
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    batches = [
        _TORCH._remove_batch_dim(each, level, 0, 0) if _is_batched(each) else None
        for each in cotangents
    ]
    count = max(len(each) for each in batches if each is not None)
    with _unbatched(level):  # where random numbers may be drawn, and tensors be looked at
        rows = [
            pulled(
                call,
                written,
                [b[i] if b is not None else c for b, c in zip(batches, cotangents, strict=True)],
            )
            for i in range(count)
        ]
        found = [_stacked(column) for column in zip(*rows, strict=True)]
    return tuple(None if each is None else _TORCH._add_batch_dim(each, 0, level) for each in found)


@contextmanager
def _unbatched(level: int) -> Iterator[None]:
    for _ in range(level):
        torch._C._vmapmode_decrement_nesting()
    try:
        yield
    finally:
        for _ in range(level):
            torch._C._vmapmode_increment_nesting()


def _stacked(column: Sequence[Tensor | None]) -> Tensor | None:
    some = next((each for each in column if each is not None), None)
    if some is None:
        return None
    return torch.stack([torch.zeros_like(some) if each is None else each for each in column])


def _traced(call: Call, cotangents: Sequence[Tensor | None]) -> tuple[Pulled, bool]:
    """Pull cotangents through the graph of the forward pass.

    Returns:
        None in the place of what it has no derivative of, and whether it is the call that was.
    """
    leaves, own = _leaves(call, call.args)
    try:
        results = call.again(own, graph=True)
        return _through(results, leaves, cotangents), call.returned(results)
    except (
        Exception
    ):  # numpy(), which refuses what has a graph, or in-place changes of saved values
        return (None,) * len(own), _is_repeated(call)


def _is_repeated(call: Call) -> bool:
    return call.returned(call.again([*map(_copy, call.args)], graph=False))


def _copy(arg: Any) -> Any:  # noqa: ANN401 (whatever a function takes)
    return arg.detach().clone() if isinstance(arg, Tensor) else arg


def _leaves(call: Call, args: Sequence[Any]) -> tuple[list[Tensor | None], list[Any]]:
    """Return leaves of a graph for what has a derivative, and copies that may be written into."""
    leaves = [
        arg.detach().requires_grad_() if needed else None
        for arg, needed in zip(args, call.needs, strict=True)
    ]
    with recording(True):
        own = [
            _copy(arg) if leaf is None else leaf.clone()
            for arg, leaf in zip(args, leaves, strict=True)
        ]
    return leaves, own


def _through(
    results: Sequence[Any], leaves: Sequence[Tensor | None], cotangents: Sequence[Tensor | None]
) -> Pulled:
    pairs = [
        (result, cotangent)
        for result, cotangent in zip(results, cotangents, strict=True)
        if cotangent is not None and isinstance(result, Tensor) and result.requires_grad
    ]
    wanted = [leaf for leaf in leaves if leaf is not None]
    if not pairs:
        return (None,) * len(leaves)
    with recording(False):
        found = iter(
            torch.autograd.grad(
                [result for result, _ in pairs],
                wanted,
                [cotangent.to(result.dtype) for result, cotangent in pairs],
                allow_unused=True,
            )
        )
    return tuple(None if leaf is None else next(found) for leaf in leaves)


def _agree(one: Tensor | None, other: Tensor | None, arg: Tensor) -> bool:
    by_author, by_forward = _fitting(one, arg), _fitting(other, arg)
    if not arg.numel():
        return True
    size = max(_largest(by_author), _largest(by_forward))
    return _largest(_gaps(by_author, by_forward)) <= _AGREE.get(arg.dtype, _AGREE_OTHERS) * size


def _fitting(slope: Tensor | None, arg: Tensor) -> Tensor:
    """Return a cotangent as autograd hands it on: in the shape and format of its argument."""
    if slope is None:
        return torch.zeros_like(arg)
    return slope.detach().sum_to_size(arg.shape).to(arg.dtype)


def _largest(values: Tensor) -> float:
    return float(values.abs().nan_to_num(nan=0.0, posinf=0.0).max())


def _gaps(one: Tensor, other: Tensor) -> Tensor:
    """Return how far numbers are apart: nothing where none of two is one, and most where one is."""
    gaps = (one - other).abs()
    most = torch.finfo(gaps.dtype).max
    bad, both = ~(one.isfinite() & other.isfinite()), ~(one.isfinite() | other.isfinite())
    return gaps.masked_fill(bad, most).masked_fill(both, 0.0)


def _right_arguments(
    call: Call, cotangents: Sequence[Tensor | None], places: Sequence[int]
) -> list[int]:
    """Return the arguments of which the forward pass's own derivative is right."""
    failed = None
    for convert in (double, as_it_is):
        try:
            return _Judge(
                call, [*map(convert, call.args)], [*map(convert, cotangents)]
            ).right_places(places)
        except WitnessError:
            raise
        except Exception as error:  # somebody's code, which may know one format only
            failed = error
    raise refusal(call, f"cannot be called once more ({type(failed).__name__}: {failed}). {OTHERS}")


def as_it_is(value: Any) -> Any:  # noqa: ANN401 (whatever a function takes)
    """Return a value in its own format."""
    return value


def double(value: Any) -> Any:  # noqa: ANN401 (likewise)
    """Return a value with twice the digits, if it is a tensor of a narrower format."""
    if not isinstance(value, Tensor):
        return value
    return value.to(_WIDE.get(value.dtype, value.dtype))


_WIDE = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex64: torch.complex128,
}


class _Judge:
    """A function at its arguments, with cotangents of its results.

    Args:
        call: Of it.
        args: Arguments in the format in which it is judged.
        cotangents: Likewise.
    """

    def __init__(
        self, call: Call, args: Sequence[Any], cotangents: Sequence[Tensor | None]
    ) -> None:
        self._call, self._args, self._cotangents = call, args, cotangents

    def right_places(self, places: Sequence[int]) -> list[int]:
        """Return those of the arguments of which the forward pass's own derivative is right."""
        leaves, own = _leaves(self._call, self._args)
        by_author = _through(self._call.applied(own), leaves, self._cotangents)
        leaves, own = _leaves(self._call, self._args)
        try:
            by_forward = _through(
                self._call.again(own, graph=True, own=False), leaves, self._cotangents
            )
        except Exception:  # as where it was traced before
            by_forward = (None,) * len(own)
        found = []
        for place in places:
            arg = self._args[place]
            if _agree(by_author[place], by_forward[place], arg) or self._is_unread(place):
                continue
            pair = _fitting(by_author[place], arg), _fitting(by_forward[place], arg)
            if self._is_by_forward(place, *pair):
                found.append(place)
        return found

    def _is_unread(self, place: int) -> bool:
        """Say whether the forward pass leaves an argument alone, whatever it is.

        A block that is computed again in the backward pass is given its parameters for autograd,
        and reads them of its module. What its author says of them is all that is known here.
        """
        here = self._results(place, 0, 0j)
        for factor, move in ((-3.0, 7.0), (0.0, -1.0), (1e3, 0.0)):
            args = [*map(_copy, self._args)]
            args[place] = args[place] * factor + move
            there = self._call.again(args, graph=False, own=False)
            if not all(map(_is_equal, here, there)):
                return False
        return True

    def _is_by_forward(self, place: int, by_author: Tensor, by_forward: Tensor) -> bool:
        """Ask the numbers of an argument by which two derivatives differ most, until one tells."""
        gaps = _gaps(by_author, by_forward).flatten()
        for number in gaps.topk(min(_PLACES, gaps.numel())).indices.tolist():
            if not float(gaps[number]):
                break
            ways = (1 + 0j, 1j) if by_author.is_complex() else (1 + 0j,)
            one, other = (complex(each.flatten()[number]) for each in (by_author, by_forward))
            for way in ways:
                rivals = [(each * way.conjugate()).real for each in (one, other)]
                told = _decide_by_quotients(
                    (rivals[0], rivals[1]), self._quotients(place, number, way)
                )
                if told is not None:
                    return told
        raise refusal(self._call, NEITHER)

    def _quotients(self, place: int, number: int, way: complex) -> Iterator[float]:
        """Yield difference quotients of the weighted results: central ones first."""
        distances = _DISTANCES.get(self._args[place].real.dtype, _DISTANCES_OTHERS)
        size = max(1.0, float(self._args[place].flatten()[number].abs()))
        here = self._results(place, number, 0j)
        ends: list[tuple[float, float, float]] = []
        for distance in (size * each for each in distances):
            there = self._rise(self._results(place, number, distance * way), here)
            back = self._rise(here, self._results(place, number, -distance * way))
            ends.append((distance, there, back))
            yield (there + back) / (2 * distance)
        for distance, there, back in ends:
            yield there / distance
            yield back / distance

    def _results(self, place: int, number: int, shift: complex) -> tuple[Any, ...]:
        args = [*map(_copy, self._args)]
        args[place][_position(number, args[place].shape)] += (
            shift if args[place].is_complex() else shift.real
        )
        return self._call.again(args, graph=False, own=False)

    def _rise(self, there: Sequence[Any], back: Sequence[Any]) -> float:
        rows = zip(there, back, self._cotangents, strict=True)
        return math.fsum(_weighted(a, b, c) for a, b, c in rows if c is not None)


def _is_equal(one: Any, other: Any) -> bool:  # noqa: ANN401 (whatever a function returns)
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    return one is other or one == other


def _weighted(there: Tensor, back: Tensor, weights: Tensor) -> float:
    # Solvers hand on what nobody has filled yet, which is NaN in both.
    rise = (there - back).masked_fill(~(there.isfinite() | back.isfinite()), 0)
    return float((rise * weights.conj()).sum().real)


def _position(number: int, shape: Sequence[int]) -> tuple[int, ...]:
    """Return where the numbers of a shape, counted row by row, have the one of this count."""
    found: list[int] = []
    for size in reversed(shape):
        number, place = divmod(number, size)
        found.append(place)
    return tuple(reversed(found))


def _decide_by_quotients(rivals: tuple[float, float], quotients: Iterator[float]) -> bool | None:
    """Say whether quotients tell for the forward pass, or None if they tell for neither.

    Where a central quotient tells for neither, one of the two sides may: of a jump, or of a kink,
    which has two derivatives. There the author's counts.
    """
    sides: list[bool] = []
    for number, quotient in enumerate(quotients):
        off = [abs(quotient - each) for each in rivals]
        off = [each if math.isfinite(each) else math.inf for each in off]
        gap = abs(rivals[0] - rivals[1])
        gap = gap if math.isfinite(gap) else max(abs(quotient), min(off))
        if min(off) <= _NEARER * gap:
            sides.append(off[1] < off[0])
            if number < _CENTRAL:
                return sides[0]
    return all(sides) if sides else None


_CENTRAL = len(_DISTANCES_OTHERS)
