"""Exact metagradients: derivatives of a trained model's output by how it was trained.

A name is imported when it is first used, so that ``import engine`` loads neither torch nor zarr:
what only reads recipes or records answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.applications.descent.loop import descend
    from engine.applications.open_run import open_run
    from engine.errors import EngineError
    from engine.metaparameters.base import Metaparameter
    from engine.metaparameters.counts import Counts
    from engine.metaparameters.learning_rate import LearningRatePoints
    from engine.metaparameters.weights import ExampleWeights
    from engine.preflight.checkup import check
    from engine.preflight.oracle import central_difference, whole_run_gradient
    from engine.preflight.verdict import CheckReport
    from engine.problems.adapters.of_lightning import from_lightning
    from engine.problems.adapters.of_trainer import from_trainer
    from engine.problems.base import Problem
    from engine.replay.metagradient import Metagradient, metagradient, metagradients
    from engine.replay.plain_training import evaluate
    from engine.replay.training import train
    from engine.routine.examples import collated
    from engine.routine.module.buffers.renewed import update_bn
    from engine.routine.module.stop_gradient import stop_gradient
    from engine.routine.optimizer import Optimizer
    from engine.routine.optimizer_options import averaged
    from engine.routine.optimizers import adam, adamw, muon, rmsprop, sgd
    from engine.routine.outputs import MeanLoss
    from engine.routine.rates import rates
    from engine.routine.routine import Routine

_HOME = {
    "CheckReport": "engine.preflight.verdict",
    "Counts": "engine.metaparameters.counts",
    "EngineError": "engine.errors",
    "ExampleWeights": "engine.metaparameters.weights",
    "LearningRatePoints": "engine.metaparameters.learning_rate",
    "MeanLoss": "engine.routine.outputs",
    "Metagradient": "engine.replay.metagradient",
    "Metaparameter": "engine.metaparameters.base",
    "Optimizer": "engine.routine.optimizer",
    "Problem": "engine.problems.base",
    "Routine": "engine.routine.routine",
    "adam": "engine.routine.optimizers",
    "adamw": "engine.routine.optimizers",
    "averaged": "engine.routine.optimizer_options",
    "central_difference": "engine.preflight.oracle",
    "check": "engine.preflight.checkup",
    "collated": "engine.routine.examples",
    "descend": "engine.applications.descent.loop",
    "evaluate": "engine.replay.plain_training",
    "from_lightning": "engine.problems.adapters.of_lightning",
    "from_trainer": "engine.problems.adapters.of_trainer",
    "metagradient": "engine.replay.metagradient",
    "metagradients": "engine.replay.metagradient",
    "muon": "engine.routine.optimizers",
    "open_run": "engine.applications.open_run",
    "rates": "engine.routine.rates",
    "rmsprop": "engine.routine.optimizers",
    "sgd": "engine.routine.optimizers",
    "stop_gradient": "engine.routine.module.stop_gradient",
    "train": "engine.replay.training",
    "update_bn": "engine.routine.module.buffers.renewed",
    "whole_run_gradient": "engine.preflight.oracle",
}
"""Public name to the module that has it; held equal to the imports above by a test."""

__all__ = [
    "CheckReport",
    "Counts",
    "EngineError",
    "ExampleWeights",
    "LearningRatePoints",
    "MeanLoss",
    "Metagradient",
    "Metaparameter",
    "Optimizer",
    "Problem",
    "Routine",
    "adam",
    "adamw",
    "averaged",
    "central_difference",
    "check",
    "collated",
    "descend",
    "evaluate",
    "from_lightning",
    "from_trainer",
    "metagradient",
    "metagradients",
    "muon",
    "open_run",
    "rates",
    "rmsprop",
    "sgd",
    "stop_gradient",
    "train",
    "update_bn",
    "whole_run_gradient",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, for completion in a notebook."""
    return sorted({*globals(), *__all__})
