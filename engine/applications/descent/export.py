"""The trained model of a run as a file that torch reads without this project.

Parameters and buffers have the names of the module's state dict. The state of a run is flat
vectors: names, frozen parameters and constant buffers are those of the problem, which is called
again for them, as its places and its code are those of the store's recipe.
"""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.applications.descent.iterates import Iterate
from engine.applications.descent.record import RunRecord, read_run
from engine.errors import CheckpointMismatchError, CheckpointMissingError, ConfigurationError
from engine.extras import install
from engine.numerics.determinism import deterministic
from engine.problems.built import build_problem
from engine.recipes.descent import DescentRecipe
from engine.recipes.settings import Document
from engine.runs.run import find_run, read_recipe
from engine.runs.stored_places import check_places
from engine.secret_urls import refuse_secrets
from engine.stages.commits import read_rows
from engine.storage.location import store_errors
from engine.types import State

ENDINGS = (".safetensors", ".pt")
"""What a file is written as, by the end of its name."""


class Exported(Document):
    """A file that holds a trained model."""

    run: str
    """Name of the run."""

    recipe: str
    """Name of its recipe."""

    iterate: int
    """Outer step whose model it is."""

    file: str
    """Where it lies, an absolute path."""

    tensors: int
    """Parameters and buffers in it, by name."""

    bytes: int
    """Its size."""

    scores: dict[str, dict[str, float]]
    """Split to the scores that the run reported of this model."""


def export_model(
    store: str, run: str, file: str | os.PathLike[str], step: int | None = None, *, trusted: bool
) -> Exported:
    """Write the trained model of a finished descent into a file.

    Args:
        store: fsspec URL of the store.
        run: Name of the run, or the beginning of it.
        file: A path that ends in .safetensors or .pt and does not exist. The former holds tensors
            and texts only; of both, tensors that a module has under two names are there twice.
        step: Outer step whose model is wanted; that of the chosen iterate by default.
        trusted: Whether the places and the code that the store's recipe names are known to be
            harmless.

    Raises:
        ConfigurationError: If the file cannot be written, or there is no such run, step or model.
        CheckpointMismatchError: If the problem's model is not that of the run any more.
        StoreError: If the state is missing or damaged.

    Cost:
        The problem is built once, its data included; nothing is trained.
    """
    refuse_secrets("The file", os.fspath(file), is_place=True)
    path = _writable(Path(file))
    with store_errors(store):
        name = find_run(store, run)
        recipe = read_recipe(store, name)
        if recipe.kind != "descent":
            raise ConfigurationError(
                f"Run {name} is of kind {recipe.kind}, which has no one trained model to export. "
                "Name a run of kind descent."
            )
        record = read_run(store, name)
        iterate = _iterate(record, step)
    tensors = _tensors(model_of(store, record.recipe, name, iterate, trusted=trusted))
    about = {"run": name, "recipe": record.recipe.name, "iterate": str(iterate.outer_step)}
    content = _as_bytes(path, tensors, about)
    _write(path, content)
    return Exported(
        run=name,
        recipe=record.recipe.name,
        iterate=iterate.outer_step,
        file=str(path),
        tensors=len(tensors),
        bytes=len(content),
        scores=iterate.scores,
    )


def model_of(
    store: str, recipe: DescentRecipe, run: str, iterate: Iterate, *, trusted: bool
) -> nn.Module:
    """Return the module that an outer step trained, in evaluation mode, on the recipe's device.

    Args:
        store: fsspec URL of the store.
        recipe: Recipe of the run.
        run: Full name of the run.
        iterate: The outer step.
        trusted: As for ``export_model``.

    Raises:
        ConfigurationError: If the recipe names places or code, and nobody has confirmed them.
        CheckpointMismatchError: If the problem's model is not that of the run any more.
        StoreError: If the state is missing or damaged.

    Cost:
        The problem is built once, its data included; nothing is trained.
    """
    with store_errors(store):
        if not trusted:
            check_places(recipe, run, store)
        state = _state(store, run, iterate)
    return _module(recipe, state, run)


def _writable(path: Path) -> Path:
    """Refuse a file that could not be written, before anything is read."""
    if path.suffix.lower() not in ENDINGS:
        raise ConfigurationError(
            f"{path} ends in {path.suffix or 'nothing'!r}, which says no format. Name a file that "
            f"ends in {' or '.join(ENDINGS)}."
        )
    path = path.expanduser().absolute()
    if path.exists():
        raise ConfigurationError(f"{path} is there already. Name another file, or delete it.")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        reason = "cannot be written to" if path.parent.is_dir() else "is no folder"
        raise ConfigurationError(
            f"{path.parent} {reason}, so that {path.name} cannot lie there. Name another one."
        )
    return path


def _iterate(record: RunRecord, step: int | None) -> Iterate:
    chosen = record.chosen if step is None else step
    for each in record.iterates:
        if each.outer_step == chosen:
            return each
    raise ConfigurationError(
        f"Run {record.run} has no outer step {chosen}. Its steps are 0 to "
        f"{len(record.iterates) - 1}, and {record.chosen} was chosen."
    )


def _state(store: str, run: str, iterate: Iterate) -> State:
    try:
        return read_rows(store, iterate.final)
    except CheckpointMissingError as error:
        raise CheckpointMissingError(
            f"The state that outer step {iterate.outer_step} of run {run} trained is not in the "
            f"store any more ({error}). Make it again with `mgd resume {run}`."
        ) from error


def _module(recipe: DescentRecipe, state: State, run: str) -> nn.Module:
    """Return the problem's module with the parameters and buffers of a state."""
    with deterministic(recipe.training.threads, tf32=recipe.training.tf32):
        routine = build_problem(recipe).routine
    now = {name: len(row) for name, row in routine.initial_state().items()}
    then = {name: len(row) for name, row in state.items()}
    if now != then:
        differing = sorted(n for n in {*now, *then} if now.get(n) != then.get(n))[0]
        raise CheckpointMismatchError(
            f"Run {run} has trained {then.get(differing, 0):,} numbers of {differing}, but the "
            f"model that its recipe makes here has {now.get(differing, 0):,}. Use the versions of "
            "packages and source that the run had."
        )
    on_device = {name: row.to(routine.device) for name, row in state.items()}
    return routine.model_at(on_device)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, each with memory of its own, on the CPU."""
    found: Mapping[str, Any] = model.state_dict()
    other = [name for name, value in found.items() if not isinstance(value, Tensor)]
    if other:
        raise ConfigurationError(
            f"The module keeps {other[0]!r} of type {type(found[other[0]]).__name__} in its state "
            "dict, but a file of weights holds tensors only. Return a tensor from get_extra_state."
        )
    return {name: value.detach().cpu().clone() for name, value in found.items()}


def _as_bytes(path: Path, tensors: dict[str, Tensor], about: dict[str, str]) -> bytes:
    if path.suffix.lower() == ".pt":
        buffer = io.BytesIO()
        torch.save(tensors, buffer)
        return buffer.getvalue()
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise ConfigurationError(
            f"{path.name} is a file of safetensors, which is not installed. Name a file "
            f"that ends in .pt, or run: {install('export')}."
        ) from error
    whole = {n: t.contiguous() if t.layout is torch.strided else t for n, t in tensors.items()}
    try:
        return save(whole, {"format": "pt", **about})
    except (KeyError, ValueError) as error:  # what it says names the format at most
        held = ", ".join(sorted({_format(tensor) for tensor in whole.values()}))
        raise ConfigurationError(
            f"{path.name} is a file of safetensors, which has no place for one of the formats of "
            f"this model ({held}). Name a file that ends in .pt."
        ) from error


def _format(tensor: Tensor) -> str:
    dense = tensor.layout is torch.strided
    return str(tensor.dtype) if dense else f"{tensor.layout} of {tensor.dtype}"


def _write(path: Path, content: bytes) -> None:
    """Write a whole file or none; never over one that has come meanwhile."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        os.link(part, path)
    except FileExistsError as error:
        raise ConfigurationError(
            f"{path} is there already. Name another file, or delete it."
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be written ({type(error).__name__}: {error}). Name a place that can."
        ) from error
    finally:
        part.unlink(missing_ok=True)
