"""The design menu: shipped models, and the settings that decide how smooth their training is.

The paper finds that batch normalization before the activation and a smaller output are crucial,
that average pooling and smooth activations help, and that width helps. Which of them helps a
routine is measured, see ``engine.preflight.metasmoothness``. This module does not know torch.

References:
    Engstrom et al. 2025, arXiv:2503.13751, on designing metasmooth routines.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from engine.recipes.settings import Settings


class ModelName(StrEnum):
    """Models that ship with the engine; ``engine.Routine`` takes any ``nn.Module``."""

    LOGISTIC = "logistic"
    MLP = "mlp"
    RESNET = "resnet"
    RESNET9 = "resnet9"
    GPT = "gpt"
    VIT = "vit"
    TRANSFORMERS = "transformers"


class Activation(StrEnum):
    """Non-linearity; GELU is smooth, so finite differences mean something."""

    GELU = "gelu"
    RELU = "relu"
    TANH = "tanh"


class Norm(StrEnum):
    """Normalization; batch normalization's running statistics are a part of the state."""

    NONE = "none"
    LAYER = "layer"
    GROUP = "group"
    BATCH = "batch"


class NormPosition(StrEnum):
    """Where the normalization stands."""

    BEFORE = "before"
    AFTER = "after"


class Pooling(StrEnum):
    """How neighbouring pixels, or all tokens of a ViT, become one."""

    AVERAGE = "average"
    MAX = "max"
    LOG_SUM_EXP = "log-sum-exp"


class ModelSettings(Settings):
    """A shipped model and the part of the design menu that shapes it."""

    name: ModelName = ModelName.MLP
    """Architecture, one of the models that ship."""

    width: Annotated[int, Field(ge=1)] = 64
    """Units of each hidden layer; channels of the first block of a ResNet; embedding size of a GPT,
    a ViT or a language model of transformers."""

    depth: Annotated[int, Field(ge=0)] = 2
    """Hidden layers of an MLP; residual blocks of a ResNet; blocks of a GPT, a ViT
    or a language model of transformers."""

    activation: Activation = Activation.GELU
    """Non-linearity."""

    norm: Norm = Norm.NONE
    """Normalization; a GPT and a ViT have layer or none, a logistic model none."""

    norm_position: NormPosition = NormPosition.BEFORE
    """Normalization before or after the activation; in a GPT or a ViT, before or after the
    residual sum."""

    norm_momentum: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Weight of the newest batch in batch normalization's running statistics; torch has 0.1, which
    short runs do not forget the start with."""

    pooling: Pooling = Pooling.AVERAGE
    """Pooling of a ResNet or a ViT; log-sum-exp is a smooth maximum."""

    output_scale: Annotated[float, Field(gt=0)] = 1.0
    """Factor on the logits; a tenth smooths the training of many models."""

    heads: Annotated[int, Field(ge=1)] = 4
    """Attention heads of a GPT, a ViT or a language model of transformers; must divide the
    width."""

    patch_size: Annotated[int, Field(ge=1)] = 4
    """Side of the square patches that a ViT cuts an image into, in pixels."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of hidden units dropped at each step."""
