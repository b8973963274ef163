"""What a problem is: a model, its loss, and the examples that it is trained and judged on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from engine.errors import ConfigurationError
from engine.numerics.shown import in_words
from engine.numerics.shown_html import pairs_html
from engine.problems.passage import Texts
from engine.types import Batch, Loss, Output

if TYPE_CHECKING:
    from engine.metaparameters.base import Metaparameter
    from engine.routine.routine import Routine

Bounds = tuple[float, float] | tuple[Tensor, Tensor]
"""Smallest and largest value of an input: of all its elements, or of each."""

Metric = Callable[[nn.Module, Batch], Any]
"""Maps the trained model and a batch to one number for each example, or, called with the whole
split, to one number."""

ModelMaker = Callable[[int], nn.Module]
"""Maps a seed to a model, which is a pure function of it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Problem:
    """What a run is about, whatever its settings: model, loss, examples, and how to judge a model.

    A function that returns one is named by a recipe, ``problem: my_file.py:function``, and gets the
    recipe's ``arguments``. It is called under the run's seed, for torch's, numpy's and Python's
    generators, with the run's number format as torch's default.

    Attributes:
        model: Any ``nn.Module``, or a function of the seed that makes one. Its initial parameters
            are drawn by you; it is moved to the run's number format and device.
        loss: Maps (model, batch) to one loss for each example, shape (batch,), or a
            ``CoupledLoss``. If it takes ``label_smoothing``, a recipe may set that.
        train: Training candidates: a tuple, a dict or a named tuple of tensors, arrays or lists, a
            torch Dataset by index, or a table of the package ``datasets``. z has a number for each.
        objective: Held-out examples that phi is the mean loss of; they are never trained on.
        validation: Held-out examples that choose the iterate. If left out, half of what is left of
            ``objective`` is taken, drawn evenly from every class where there are classes.
        test: Held-out examples for the final figures; if left out, likewise.
        metrics: Name to a metric, shown beside the loss.
        names: What people call each training candidate, in the order of ``train``.
        show: Maps the position of a training candidate to a picture (PIL), a text, or a row (dict).
        held_out_names: ``objective``, and ``validation`` and ``test`` where they are given, to what
            people call their examples; a split that is cut from ``objective`` has its names.
        show_held_out: Maps one of these splits and a position in it to what ``show`` returns.
        show_inputs: Maps the inputs of one example, as the model reads them, to what ``show``
            returns: how they look where a run has changed them.
        classes: What people call the classes, in the order of their numbers.
        groups: Name to a group (a number or a name) of each training candidate, for mixtures.
        bounds: Smallest and largest value of an input, for pixels as metaparameters: two numbers,
            or two tensors of the shape of an input.
        embedding: Maps the model to the embeddings of its inputs, shape (known tokens, width),
            where inputs are tokens, between which there is nothing. With metaparameters of the
            inputs the loss is then handed ``input_shifts``, shape (batch, tokens, width), to be
            added to the embedded inputs.
        augment: Maps (batch, generator) to a batch of a training step.
        output: phi, if it is not the mean loss of ``objective``.
        training_loss: Loss of training examples, if it is another one.
        num_classes: Number of classes; by default counted in the labels, if these are whole
            numbers, one for each example.
        corrupted: Which candidates are known to be wrong, shape (examples,), to judge a selection.
        ids: Position of each candidate in the files that it comes from.
        chunk: Held-out examples that are evaluated at a time; for a coupled loss, those that are
            compared with each other.
        score: Maps (model, examples, chunk) to figures by name, ``loss`` among them, in place of
            the mean loss and the metrics.
        origin: What the bits depend on besides arguments, examples and parameters, e.g. a package.
        fingerprint: Identifies all examples, for data too large to be read through when a run
            begins: a digest of names, sizes and checksums.
        notes: What people should know of the examples, in sentences: the preflight says them.
        texts: The passages behind the examples of a language model.
        optimizer: An ``engine.Optimizer`` in place of the recipe's; or a function of ``num_steps``
            that makes one, for hyperparameters with a number for each step.
        learning_rate: One number, one for each step, or a scheduler of torch, in place of the
            recipe's; or a function of ``num_steps`` that makes one of these.
        order: Which candidates each step draws, see ``Routine.order``: index lists, a sampler, or
            a function of the step. A sampler is read under the run's seed.
        state: Where a state of the problem's own starts, see ``Routine.state``. Losses, metrics,
            ``score`` and ``output`` that have an argument ``state`` are given it.
        advance: Moves that state, see ``Routine.advance``.
        metaparameters: Name to a kind of z of the problem's own, at the value that a descent starts
            from: any ``Metaparameter``. A recipe takes it by ``metaparameters: {name: own}``.

    Raises:
        ConfigurationError: If a part is not what it has to be.
    """

    model: Any  # nn.Module | ModelMaker; what is neither is refused in words
    loss: Any  # Loss, likewise
    train: Any
    objective: Any
    validation: Any = None
    test: Any = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    names: Sequence[str] | None = None
    show: Callable[[int], Any] | None = None
    held_out_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    show_held_out: Callable[[str, int], Any] | None = None
    show_inputs: Callable[[Tensor], Any] | None = None
    classes: Sequence[str] = ()
    groups: Mapping[str, Sequence[int | str]] = field(default_factory=dict)
    bounds: Bounds | None = None
    embedding: Callable[[nn.Module], Tensor] | None = None
    augment: Callable[[Batch, torch.Generator], Batch] | None = None
    output: Output | None = None
    training_loss: Loss | None = None
    num_classes: int | None = None
    corrupted: Tensor | None = None
    ids: Tensor | None = None
    chunk: int | None = None
    score: Callable[[nn.Module, Any, int], dict[str, Any]] | None = None
    origin: tuple[str, ...] = ()
    fingerprint: str | None = None
    notes: tuple[str, ...] = ()
    texts: Texts | None = None
    optimizer: Any = None  # Optimizer | Callable[[int], Optimizer]
    learning_rate: Any = None
    order: Any = None
    state: Any = None
    advance: Callable[..., Any] | None = None
    metaparameters: Mapping[str, Any] = field(default_factory=dict)  # of Metaparameter, likewise

    def __post_init__(self) -> None:
        if not (isinstance(self.model, nn.Module) or callable(self.model)):
            raise ConfigurationError(
                f"model of the problem is {type(self.model).__name__}, but it has to be an "
                "nn.Module, or a function of the seed that makes one. Hand in such a one."
            )
        if not callable(self.loss):
            raise ConfigurationError(
                f"loss of the problem is {type(self.loss).__name__}, but it has to be a function "
                "of (model, batch) that returns one loss for each example. Hand in such a function."
            )
        for name in ("train", "objective"):
            given = getattr(self, name)
            if given is None or not hasattr(given, "__len__"):
                raise ConfigurationError(
                    f"{name} of the problem is {type(given).__name__}, which has no length. Hand "
                    "in a tuple or a dict of tensors, a torch Dataset by index, or a table."
                )

    @property
    def phi(self) -> Output:
        """The output in a notebook: the problem's own, or the mean loss of ``objective``."""
        if self.output is not None:
            return self.output
        from engine.routine.examples import examples_from
        from engine.routine.outputs import MeanLoss

        made = self.model if isinstance(self.model, nn.Module) else self.model(0)
        device = next((each.device for each in made.parameters()), torch.device("cpu"))
        return MeanLoss(self.loss, examples_from(self.objective, device), self.chunk or 1000)

    def routine(self, metaparameters: Mapping[str, "Metaparameter"], **settings: Any) -> "Routine":  # noqa: ANN401 (fields of Routine)
        """Return the training as a run of the engine, for a notebook.

        Args:
            metaparameters: Kinds of z by name.
            **settings: Fields of ``engine.Routine`` that the problem leaves open: ``num_steps`` and
                ``batch_size``, ``optimizer`` and ``learning_rate`` where it has none, or any other.

        Raises:
            ConfigurationError: Names what neither of them says.
        """
        from engine.problems.notebook import notebook_routine

        return notebook_routine(self, metaparameters, settings)

    def __repr__(self) -> str:
        return in_words(
            self, lambda: f"Problem({'; '.join(f'{n} {v}' for n, v in self._parts().items())})"
        )

    def _repr_html_(self) -> str:
        """Return its parts as a table, for a notebook."""
        return pairs_html("Problem", self._parts(), self.notes)

    def _parts(self) -> dict[str, str]:
        """Say what it is made of: model, splits with their numbers of examples, and the rest."""
        model = type(self.model).__name__ if isinstance(self.model, nn.Module) else "made by seed"
        splits = {
            name: getattr(self, name) for name in ("train", "objective", "validation", "test")
        }
        sizes = {n: f"{_number(each)}" for n, each in splits.items() if each is not None}
        more = {name: ", ".join(getattr(self, name)) for name in ("metrics", "groups")}
        return {"model": model, **sizes, **{name: each for name, each in more.items() if each}}


def _number(examples: Any) -> int:  # noqa: ANN401 (whatever holds examples)
    """Return how many examples there are: rows of columns, or entries of a data set."""
    columns = tuple(examples.values()) if isinstance(examples, Mapping) else examples
    if isinstance(columns, tuple) and columns and hasattr(columns[0], "__len__"):
        return len(columns[0])
    return len(columns)
