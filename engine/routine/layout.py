"""Many named tensors as slices of one flat vector.

An optimizer update on a flat vector is a handful of kernels, its adjoint has the same layout, and
a checkpoint is one row of one array.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from engine.errors import ConfigurationError


@dataclass(frozen=True)
class Layout:
    """Where each named tensor lies in the flat vector; order is that of the mapping it came from.

    Attributes:
        shapes: Name to shape.
        dtype: The one floating-point type of all of them.
        complexes: Names of those that are complex: each of their numbers is two in the flat vector,
            its real part and its imaginary part, as torch's optimizers see them.
        sizes: Number of elements of each tensor in the flat vector, in order.
    """

    shapes: dict[str, tuple[int, ...]]
    dtype: torch.dtype
    complexes: frozenset[str] = frozenset()
    # Counted at once: a compiler traces no property that is kept under a lock when first asked.
    sizes: list[int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Count the elements."""
        sizes = [
            torch.Size(shape).numel() * (2 if name in self.complexes else 1)
            for name, shape in self.shapes.items()
        ]
        object.__setattr__(self, "sizes", sizes)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], *, with_complex: bool = False) -> "Layout":
        """Read the layout off named tensors.

        Args:
            tensors: Tensors by name.
            with_complex: Whether some of them may be complex.

        Raises:
            ConfigurationError: If there are none, or they are not all of one floating type.
        """
        if not tensors:
            raise ConfigurationError(
                "The model has no trainable parameters, so there is nothing to train. "
                "Set requires_grad on those that the optimizer should move."
            )
        for name, tensor in tensors.items():
            if tensor.dtype.is_complex and not with_complex:
                raise ConfigurationError(
                    f"{name!r} is complex, and only parameters may be that. Keep it as "
                    "torch.view_as_real(w).clone(), and read torch.view_as_complex(w)."
                )
            if not tensor.dtype.is_floating_point and not tensor.dtype.is_complex:
                raise ConfigurationError(
                    f"{name!r} has dtype {tensor.dtype}, and a derivative with respect to it does "
                    "not exist. Derive it from the number of the step, or keep it in the run's "
                    "format, and read it as state['count'].long()."
                )
        formats = {name: tensor.dtype.to_real() for name, tensor in tensors.items()}
        first = next(iter(formats.values()))
        for name, dtype in formats.items():
            if dtype != first:
                widest = torch.float64 if torch.float64 in formats.values() else torch.float32
                how = f"Convert the model with model.to({widest})."
                if any(tensor.is_complex() for tensor in tensors.values()):
                    how = (
                        f"Make all of them of {widest} and {widest.to_complex()}; model.double() "
                        "leaves complex ones as they are: p.data = p.data.to(torch.complex128)."
                    )
                raise ConfigurationError(
                    f"{name!r} has dtype {tensors[name].dtype}, but the tensors before it "
                    f"{first}: one flat vector has one dtype. {how}"
                )
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        return cls(shapes, first, frozenset(n for n, t in tensors.items() if t.is_complex()))

    @property
    def size(self) -> int:
        """P, number of elements of the flat vector."""
        return sum(self.sizes)

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Concatenate the named tensors into one vector, shape (params,)."""
        if self.complexes:
            tensors = {name: real(tensors[name]) for name in self.shapes}
        return torch.cat([tensors[name].reshape(-1) for name in self.shapes])

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Name the parts of a flat vector, without a copy; those that are complex are copies."""
        # split, not one slice each: the backward pass of split is a single concatenation.
        parts = flat.split_with_sizes(self.sizes)
        if self.complexes:
            return self.by_name(parts)
        pairs = zip(self.shapes.items(), parts, strict=True)  # as every small step does
        return {name: p if len(shape) == 1 else p.view(shape) for (name, shape), p in pairs}

    def by_name(self, parts: Sequence[Tensor]) -> dict[str, Tensor]:
        """Name the parts, each of shape (..., its numbers), and give them their shapes."""
        pairs = zip(self.shapes, parts, strict=True)
        return {name: self._shaped(name, part) for name, part in pairs}

    def _shaped(self, name: str, part: Tensor) -> Tensor:
        lead, shape = part.shape[:-1], self.shapes[name]
        if name not in self.complexes:
            return part if len(shape) == 1 else part.view((*lead, *shape))
        # A copy: numbers at an odd place of the vector cannot be looked at as complex ones, and
        # neither can those of its cotangents.
        pairs = part.view((*lead, *shape, 2))
        return torch.complex(pairs[..., 0], pairs[..., 1])

    def locate(self, index: int) -> str:
        """Say which element of which tensor stands at ``index`` of the flat vector."""
        for (name, shape), size in zip(self.shapes.items(), self.sizes, strict=True):
            if index < size:
                part = ""
                if name in self.complexes:
                    index, part = index // 2, (".real", ".imag")[index % 2]
                position = (
                    torch.unravel_index(torch.tensor(index, device="cpu"), shape) if shape else ()
                )
                return f"{name}[{', '.join(str(int(axis)) for axis in position)}]{part}"
            index -= size
        raise IndexError(f"{index} elements beyond the end of the layout.")


def real(tensor: Tensor) -> Tensor:
    """Return a tensor whose complex numbers are two real ones each, in a last axis of their own."""
    return torch.stack([tensor.real, tensor.imag], -1) if tensor.is_complex() else tensor
