"""Exact metagradients: derivatives of a trained model's output by how it was trained."""

from engine.config import DescentRecipe
from engine.errors import EngineError
from engine.hyperparameters import LearningRatePoints
from engine.metagradients import Metagradient, metagradient
from engine.metaparameters import Counts, ExampleWeights, Metaparameter
from engine.optim import Optimizer, adam, adamw, sgd
from engine.oracle import central_difference, evaluate, train, whole_run_gradient
from engine.outputs import MeanLoss
from engine.preflight import CheckReport, check
from engine.routine import Routine

__all__ = [
    "CheckReport",
    "Counts",
    "DescentRecipe",
    "EngineError",
    "ExampleWeights",
    "LearningRatePoints",
    "MeanLoss",
    "Metagradient",
    "Metaparameter",
    "Optimizer",
    "Routine",
    "adam",
    "adamw",
    "central_difference",
    "check",
    "evaluate",
    "metagradient",
    "sgd",
    "train",
    "whole_run_gradient",
]
