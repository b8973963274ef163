"""Names for the values that engine modules hand to each other.

Legend of the axis names in shape annotations:
``params`` P, trainable numbers of the model; ``examples`` n, training candidates;
``batch`` B, examples of one step; ``points`` K, key points of a schedule.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

State = dict[str, Tensor]
"""s_t: flat vectors by name: ``params`` and the optimizer's moments, each of shape (params,), and
``buffers``, shape (statistics,), if the model keeps running statistics."""

Metaparams = dict[str, Tensor]
"""z: one tensor for each named metaparameter."""

Batch = Any
"""What ``Routine.loss`` is given: the examples of one step, as the examples' own type."""

Loss = Callable[[nn.Module, Batch], Tensor]
"""Maps the model and a batch to per-example losses, shape (batch,)."""

Output = Callable[[nn.Module], Tensor]
"""phi: maps the trained model, in evaluation mode, to a scalar."""

Hyperparameters = Mapping[str, float | Tensor]
"""Numbers of an optimizer by name; a tensor is being differentiated."""
