"""TRAK's scores of one trained model, by the authors' package ``traker`` where it is installed.

References:
    Park et al. 2023, arXiv:2303.14186.
"""

import logging
import tempfile
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from engine.applications.attribution.scores import CHUNK, query_batch
from engine.errors import ConfigurationError
from engine.extras import install
from engine.problems.built import BuiltProblem
from engine.recipes.attribution import AttributionBaseline, Queries
from engine.types import State


def trak_is_installed() -> bool:
    """Say whether the package ``traker`` can be imported."""
    return find_spec("trak") is not None


def no_classifier(problem: BuiltProblem) -> str | None:
    """Say why the examples are not those of a classifier; None if they are.

    TRAK reads one class of each example's inputs.
    """
    given = problem.routine.examples
    parts = given if isinstance(given, tuple) else ()
    if len(parts) != 2 or not all(isinstance(part, Tensor) for part in parts):
        return "are not two tensors, inputs and labels"
    if parts[1].ndim != 1 or parts[1].is_floating_point() or parts[1].is_complex():
        return "have labels that are no classes"
    return None


def check_trak(problem: BuiltProblem) -> None:
    """Refuse TRAK for a problem that is not a classifier.

    Raises:
        ConfigurationError: Says what the examples are instead, and the setting that leaves it out.
    """
    instead = no_classifier(problem)
    if instead is None:
        return
    raise ConfigurationError(
        f"attribution.baselines has trak, which needs a classifier, but the examples {instead}. "
        f"Leave it out: attribution.baselines: [{AttributionBaseline.FINAL_GRADIENT.value}]."
    )


def _without_bar(each: Iterable[Any], **_: object) -> Iterable[Any]:
    return each


def trak_scores(
    problem: BuiltProblem, queries: Queries, state: State, *, dimension: int, seed: int
) -> Tensor:
    """Return minus TRAK's scores, so that, as everywhere, a helpful example has a negative one.

    TRAK computes in float32, whatever the number format of the run.

    Returns:
        Shape (queries, examples).

    Raises:
        ConfigurationError: If it is no classifier, or ``traker`` is not installed.
    """
    routine = problem.routine
    check_trak(problem)
    if not trak_is_installed():
        raise ConfigurationError(
            "attribution.baselines has trak, which needs the package traker. Leave it out, or "
            f"run: {install('attribution')}."
        )
    inputs, labels = routine.examples
    trak, projectors = import_module("trak"), import_module("trak.projectors")
    # Its bars, which cannot be switched off, would be drawn into those of the run, or into its log.
    vars(import_module("trak.traker"))["tqdm"] = _without_bar

    model = routine.model_at(state).float()
    device = str(routine.device)  # traker compares it with "cpu"
    projector = projectors.BasicProjector(
        grad_dim=sum(p.numel() for p in model.parameters()),
        proj_dim=dimension,
        seed=seed,
        proj_type=projectors.ProjectionType.rademacher,
        device=device,
        dtype=torch.float32,
    )
    with tempfile.TemporaryDirectory(prefix="mgd-trak-") as folder:
        traker = trak.TRAKer(
            model,
            "image_classification",
            len(routine),
            save_dir=folder,
            device=device,
            projector=projector,
            proj_dim=dimension,
            use_half_precision=False,
            logging_level=logging.ERROR,
        )
        traker.load_checkpoint(model.state_dict(), model_id=0)
        for start in range(0, len(routine), CHUNK):
            rows = slice(start, start + CHUNK)
            batch = (inputs[rows].float(), labels[rows])
            traker.featurize(batch, num_samples=len(batch[1]))
        traker.finalize_features()
        traker.start_scoring_checkpoint("queries", model.state_dict(), 0, queries.number)
        asked, answers = query_batch(problem, queries)
        traker.score((asked.float(), answers), num_samples=queries.number)
        scores = torch.as_tensor(traker.finalize_scores("queries")).clone()
    return -scores.T.to(routine.layout.dtype)
