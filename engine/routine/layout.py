"""Many named tensors as slices of one flat vector.

An optimizer update on a flat vector is a handful of kernels, its adjoint has the same layout, and
a checkpoint is one row of one array.
"""

from collections.abc import Mapping
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
        sizes: Number of elements of each tensor, in order.
    """

    shapes: dict[str, tuple[int, ...]]
    dtype: torch.dtype
    # Counted at once: a compiler traces no property that is kept under a lock when first asked.
    sizes: list[int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Count the elements."""
        sizes = [torch.Size(shape).numel() for shape in self.shapes.values()]
        object.__setattr__(self, "sizes", sizes)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Layout":
        """Read the layout off named tensors.

        Raises:
            ConfigurationError: If there are none, or they are not all of one floating type.
        """
        if not tensors:
            raise ConfigurationError(
                "The model has no trainable parameters, so there is nothing to train. "
                "Set requires_grad on those that the optimizer should move."
            )
        for name, tensor in tensors.items():
            if tensor.dtype.is_complex:
                raise ConfigurationError(
                    f"{name!r} is complex, and the flat vector of a state is real. Keep it as "
                    "nn.Parameter(torch.view_as_real(w).clone()), which torch's optimizers see in "
                    "it, too, and read torch.view_as_complex(w) in the forward pass."
                )
            if not tensor.dtype.is_floating_point:
                raise ConfigurationError(
                    f"{name!r} has dtype {tensor.dtype}, and a derivative with respect to it does "
                    "not exist. Keep integers out of the state: derive them from the step number."
                )
        first = next(iter(tensors.values())).dtype
        for name, tensor in tensors.items():
            if tensor.dtype != first:
                formats = {each.dtype for each in tensors.values()}
                widest = torch.float64 if torch.float64 in formats else torch.float32
                raise ConfigurationError(
                    f"{name!r} has dtype {tensor.dtype}, but the tensors before it {first}: one "
                    f"flat vector has one dtype. Convert the model with model.to({widest})."
                )
        return cls({name: tuple(tensor.shape) for name, tensor in tensors.items()}, first)

    @property
    def size(self) -> int:
        """P, number of elements of the flat vector."""
        return sum(self.sizes)

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Concatenate the named tensors into one vector, shape (params,)."""
        return torch.cat([tensors[name].reshape(-1) for name in self.shapes])

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Name the parts of a flat vector, without a copy."""
        # split, not one slice each: the backward pass of split is a single concatenation.
        parts = flat.split_with_sizes(self.sizes)
        return {
            name: part if len(shape) == 1 else part.view(shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def locate(self, index: int) -> str:
        """Say which element of which tensor stands at ``index`` of the flat vector."""
        for (name, shape), size in zip(self.shapes.items(), self.sizes, strict=True):
            if index < size:
                position = (
                    torch.unravel_index(torch.tensor(index, device="cpu"), shape) if shape else ()
                )
                return f"{name}[{', '.join(str(int(axis)) for axis in position)}]"
            index -= size
        raise IndexError(f"{index} elements beyond the end of the layout.")
