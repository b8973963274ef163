"""Definition of a problem: a model, its loss, and the examples that train and judge it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.errors import ConfigurationError
from engine.problems.passage import Texts
from engine.shown.html import pairs_html
from engine.shown.line import in_words, shown_value
from engine.types import Batch, Output

if TYPE_CHECKING:
    from engine.metaparameters.base import Metaparameter
    from engine.routine.routine import Routine

Metric = Callable[[nn.Module, Batch], Any]
"""Maps the trained model and a batch to one number for each example, or, called with the whole
split, to one number."""

_FUNCTIONS = ("show", "show_held_out", "show_inputs", "embedding", "augment", "output",
              "training_loss", "score", "advance")  # fmt: skip
"""Parts that are called."""

_BY_NAME = {
    "metrics": "functions",
    "held_out_names": "names for each example",
    "groups": "groups for each candidate",
    "metaparameters": "kinds of z",
}
"""Parts that are told by name, and what they hold."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Problem:
    """What a run is about, whatever its settings: model, loss, examples, and how to judge a model.

    A function that returns one is named by a recipe, ``problem: my_file.py:function``, and gets the
    recipe's ``arguments``. It is called under the run's seed, for torch's, numpy's and Python's
    generators, with the run's number format as torch's default.

    Attributes:
        model: Any ``nn.Module``, or a function of the seed that makes one. You draw its initial
            parameters; the run moves it to its number format and device.
        loss: Maps (model, batch) to one loss for each example, shape (batch,), or a
            ``CoupledLoss``. If it takes ``label_smoothing``, a recipe may set that.
        train: Training candidates: a tuple, a dict or a named tuple of tensors, arrays or lists, a
            torch Dataset by index, or a table of the package ``datasets``. z has a number for each.
        objective: Held-out examples that phi is the mean loss of; they are never trained on.
        validation: Held-out examples that choose the iterate. If left out, half of what is left of
            ``objective`` is taken, drawn evenly from every class where there are classes.
        test: Held-out examples for the final numbers; if left out, likewise.
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
            where inputs are tokens, which have no values in between. With metaparameters of the
            inputs the loss is then handed ``input_shifts``, shape (batch, tokens, width), to be
            added to the embedded inputs.
        augment: Maps (batch, generator) to a batch of a training step.
        output: phi, if it is not the mean loss of ``objective``.
        training_loss: Loss of training examples, if it is another one.
        num_classes: Number of classes; by default counted in the labels, if these are whole
            numbers, one for each example.
        corrupted: Which candidates are known to be wrong, shape (examples,), to judge a selection.
        true_labels: Class that each candidate really is of, where that is known, to judge and to
            show a selection; what differs from the label that is given counts as ``corrupted``.
        ids: Position of each candidate in the files that it comes from.
        chunk: Held-out examples that are evaluated at a time; for a coupled loss, those that are
            compared with each other.
        score: Maps (model, examples, chunk) to numbers by name, ``loss`` among them, in place of
            the mean loss and the metrics.
        origin: What the bits depend on besides arguments, examples and parameters, e.g. a package.
        fingerprint: Identifies all examples, for data too large to be read through when a run
            begins: a digest of names, sizes and checksums.
        notes: What people should know of the examples, in sentences: the preflight says them.
        texts: The passages behind the examples of a language model.
        optimizer: An ``engine.Optimizer`` in place of the recipe's; or a function of ``num_steps``
            (the name counts) that makes one, for hyperparameters with a number for each step.
        learning_rate: One number, one for each step, or a scheduler of torch, in place of the
            recipe's; or a function of ``num_steps`` (the name counts) that makes one of these.
        order: Which candidates each step draws, see ``Routine.order``: index lists, a sampler, a
            loader, or a function of the step. A sampler is read under the run's seed.
        state: Where a state of the problem's own starts, see ``Routine.state``. Losses, metrics,
            ``score`` and ``output`` that have an argument ``state`` are given it.
        advance: Moves that state, see ``Routine.advance``.
        metaparameters: Name to a kind of z of the problem's own, at the value that a descent starts
            from: any ``Metaparameter``. A recipe takes it by ``metaparameters: {name: own}``.

    Raises:
        ConfigurationError: If a part is not what it has to be.
    """

    model: Any  # nn.Module | Callable[[int], nn.Module]; what is neither is refused in words
    loss: Any  # Loss, likewise
    train: Any
    objective: Any
    validation: Any = None
    test: Any = None
    metrics: Any = field(default_factory=dict)  # Mapping[str, Metric]
    names: Any = None  # Sequence[str]
    show: Any = None  # Callable[[int], Any]
    held_out_names: Any = field(default_factory=dict)  # Mapping[str, Sequence[str]]
    show_held_out: Any = None  # Callable[[str, int], Any]
    show_inputs: Any = None  # Callable[[Tensor], Any]
    classes: Any = ()  # Sequence[str]
    groups: Any = field(default_factory=dict)  # Mapping[str, Sequence[int | str]]
    bounds: Any = None  # tuple[float, float] | tuple[Tensor, Tensor]
    embedding: Any = None  # Callable[[nn.Module], Tensor]
    augment: Any = None  # Callable[[Batch, torch.Generator], Batch]
    output: Any = None  # Output
    training_loss: Any = None  # Loss
    num_classes: Any = None  # int
    corrupted: Any = None  # yes or no for each, becomes a Tensor
    true_labels: Any = None  # whole numbers, become a Tensor
    ids: Any = None  # whole numbers, become a Tensor
    chunk: Any = None  # int
    score: Any = None  # Callable[[nn.Module, Any, int], dict[str, Any]]
    origin: Any = ()  # tuple[str, ...]
    fingerprint: str | None = None
    notes: Any = ()  # tuple[str, ...]
    texts: Texts | None = None
    optimizer: Any = None  # Optimizer | Callable[[int], Optimizer]
    learning_rate: Any = None
    order: Any = None
    state: Any = None
    advance: Any = None  # Callable[..., Any]
    metaparameters: Any = field(default_factory=dict)  # Mapping[str, Metaparameter]

    def __post_init__(self) -> None:
        if isinstance(self.model, type) and issubclass(self.model, nn.Module):
            # It would be called with a seed, which its constructor may take for a width.
            raise ConfigurationError(
                f"model of the problem is the class {self.model.__name__}, and no module of it. "
                f"Hand in {self.model.__name__}(...), or a function of the seed that makes one."
            )
        if not (isinstance(self.model, nn.Module) or callable(self.model)):
            what = "an nn.Module, or a function of the seed that makes one"
            raise _refused("model", self.model, what, "Hand in one of the two")
        if not callable(self.loss):
            what = "a function of (model, batch) that returns one loss for each example"
            raise _refused("loss", self.loss, what, "Hand in such a function")
        for name in ("train", "objective"):
            given = getattr(self, name)
            if given is None or not hasattr(given, "__len__"):
                raise ConfigurationError(
                    f"{name} of the problem is {type(given).__name__}, which has no length. Hand "
                    "in a tuple or a dict of tensors, a torch Dataset by index, or a table."
                )
        _refuse_meta(self.model)
        self._check_functions()
        for name, least in (("num_classes", 0), ("chunk", 1)):
            given = getattr(self, name)
            if given is not None and not (_is_whole(given) and given >= least):
                raise _refused(name, given, f"a whole number of at least {least}")
        self._take_sequences()
        self._check_bounds()

    def _check_functions(self) -> None:
        for name in _FUNCTIONS:
            given = getattr(self, name)
            if given is not None and not callable(given):
                raise _refused(name, given, "a function", "Hand in the function itself")
        for name, what in _BY_NAME.items():
            if not isinstance(getattr(self, name), Mapping):
                raise _refused(name, getattr(self, name), f"a dict of {what} by name")
        for name, metric in self.metrics.items():
            if name == "loss":  # to which it would be added
                raise ConfigurationError(
                    "metrics of the problem has one that is called 'loss', as is the mean loss "
                    "that is shown beside them. Hand in the metric under another name."
                )
            if not callable(metric):
                raise _refused(f"metrics[{name!r}]", metric, "a function of (model, batch)")

    def _take_sequences(self) -> None:
        """Take arrays, tensors and columns as what they hold; refuse what holds no entries."""
        for name in ("names", "classes", "notes", "origin"):
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, _entries(name, given, "texts"))
        for name in ("groups", "held_out_names"):
            entries = {
                each: _entries(f"{name}[{each!r}]", given, _BY_NAME[name])
                for each, given in getattr(self, name).items()
            }
            object.__setattr__(self, name, entries)
        for name, dtype in (
            ("corrupted", torch.bool),
            ("true_labels", torch.int64),
            ("ids", torch.int64),
        ):
            given = getattr(self, name)
            if given is None:
                continue
            entries = _entries(name, given, "yes or no" if name == "corrupted" else "whole numbers")
            known = (0, 1) if name == "corrupted" else None
            if not all(_is_whole(each) and (known is None or each in known) for each in entries):
                raise _refused(name, given, "one whole number for each candidate, or yes and no")
            object.__setattr__(self, name, torch.tensor(entries, dtype=dtype))

    def _check_bounds(self) -> None:
        if self.bounds is None:
            return
        what = "two numbers, or two tensors of the shape of an input: the smallest and the largest"
        if not isinstance(self.bounds, Sequence) or len(self.bounds) != 2:
            raise _refused("bounds", self.bounds, what)
        try:
            low, high = (torch.as_tensor(each, dtype=torch.float64) for each in self.bounds)
            is_ordered = bool((low <= high).all())
        except (TypeError, ValueError, RuntimeError) as error:
            raise _refused("bounds", self.bounds, what) from error
        if not is_ordered:
            raise ConfigurationError(
                f"bounds of the problem are {shown_value(self.bounds)}, the first of which is not "
                "at most the second. Hand in (smallest, largest)."
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


def _refuse_meta(model: Any) -> None:  # noqa: ANN401 (a module, or what makes one)
    """Refuse a module whose parameters are shapes without numbers."""
    if isinstance(model, nn.Module) and any(each.is_meta for each in model.parameters()):
        raise ConfigurationError(
            f"model of the problem ({type(model).__name__}) is on the device meta, where parameters"
            " have shapes and no numbers. Hand in one that is made on the CPU; the run moves it."
        )


def _number(examples: Any) -> int:  # noqa: ANN401 (whatever holds examples)
    """Return how many examples there are: rows of columns, or entries of a data set."""
    columns = tuple(examples.values()) if isinstance(examples, Mapping) else examples
    if isinstance(columns, tuple) and columns and hasattr(columns[0], "__len__"):
        return len(columns[0])
    return len(columns)


def _refused(name: str, given: Any, what: str, remedy: str = "") -> ConfigurationError:  # noqa: ANN401 (whatever was handed in)
    """Return the error for a part of a problem that is not what it has to be."""
    return ConfigurationError(
        f"{name} of the problem is {shown_value(given)} ({type(given).__name__}), but it has to be "
        f"{what}. {remedy or 'Hand in such a one, or leave it out'}."
    )


def _entries(name: str, given: Any, what: str) -> tuple[Any, ...]:  # noqa: ANN401 (a list, an array, a column)
    """Return the entries of a list, a tuple, an array, a tensor or a column of a table."""
    listed = given.tolist() if hasattr(given, "tolist") else given
    if isinstance(listed, str | bytes | Mapping) or not isinstance(listed, Iterable):
        raise _refused(name, given, f"a list of {what}")
    entries = tuple(listed)
    if any(isinstance(each, list | tuple | Tensor) and not _is_one(each) for each in entries):
        raise _refused(name, given, f"a list of {what}, one after the other")
    return tuple(each.item() if hasattr(each, "item") else each for each in entries)


def _is_one(given: Any) -> bool:  # noqa: ANN401 (an entry)
    return isinstance(given, Tensor) and given.ndim == 0


def _is_whole(given: Any) -> bool:  # noqa: ANN401 (whatever was handed in)
    return isinstance(given, int | np.integer)
