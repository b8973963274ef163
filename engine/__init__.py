"""Exact metagradients: derivatives of a trained model's output by how it was trained."""

from engine.differentiate import Metagradient, metagradient, metagradients
from engine.errors import EngineError
from engine.hyperparameters import LearningRatePoints
from engine.metaparameters import Counts, ExampleWeights, Metaparameter
from engine.optim import Optimizer, adam, adamw, sgd
from engine.oracle import central_difference, evaluate, whole_run_gradient
from engine.outputs import MeanLoss
from engine.preflight import CheckReport, check
from engine.routine import Routine
from engine.training import train

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
    "Routine",
    "adam",
    "adamw",
    "central_difference",
    "check",
    "evaluate",
    "metagradient",
    "metagradients",
    "sgd",
    "train",
    "whole_run_gradient",
]
