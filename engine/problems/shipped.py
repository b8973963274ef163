"""The problems that ship: each a function like one of a user's own, named by a recipe.

A recipe's form and its checks read the signatures, so importing this module loads no torch; what
computes is imported when a function is called. Another problem is one more function here, and a
file or folder beside this one; see "How to add" in ``engine/README.md``.
"""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from engine.problems.ready import hf_dataset, image_folder, instructions, pairs, table, texts
from engine.recipes.arguments.data import DataName, DataSettings
from engine.recipes.arguments.model import ModelSettings
from engine.recipes.arguments.pairs import ContrastiveSettings
from engine.recipes.arguments.parts import Number, Seed, Share, part
from engine.secret_urls import SafeUrl

if TYPE_CHECKING:
    from engine.problems.base import Problem

__all__ = [
    "cifar_10",
    "digits",
    "fashion_captions",
    "fashion_mnist",
    "hf_dataset",
    "image_folder",
    "instructions",
    "pairs",
    "table",
    "texts",
]

Classes = tuple[Annotated[int, Field(ge=0)], ...]
Checksum = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


def digits(
    num_train: Number = 800,
    num_objective: Number = 400,
    num_validation: Number = 200,
    num_test: Number | None = None,
    flip_fraction: Share = 0.0,
    target_classes: Classes = (),
    seed: Seed = 0,
    model: ModelSettings = ModelSettings(),
) -> "Problem":
    """Scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, in ten classes.

    Args:
        num_train: Training candidates.
        num_objective: Held-out examples whose mean loss is the output phi that is differentiated.
        num_validation: Held-out examples that choose the iterate; the objective never sees them.
        num_test: Held-out examples for the final numbers; empty means all that are left.
        flip_fraction: Share of the training labels replaced by another class, drawn uniformly.
        target_classes: Classes kept in the held-out splits: the task that counts; empty keeps all.
        seed: Seeds the split and the flipped labels.
        model: Model.
    """
    return _classes(locals(), DataName.DIGITS)


def fashion_mnist(
    num_train: Number = 800,
    num_objective: Number = 400,
    num_validation: Number = 200,
    num_test: Number | None = None,
    flip_fraction: Share = 0.0,
    target_classes: Classes = (),
    url: SafeUrl | None = None,
    seed: Seed = 0,
    model: ModelSettings = ModelSettings(),
) -> "Problem":
    """Fashion-MNIST: 70,000 grey pictures of clothes, 28 x 28 pixels, in ten classes.

    Args:
        num_train: Training candidates.
        num_objective: Held-out examples whose mean loss is the output phi that is differentiated.
        num_validation: Held-out examples that choose the iterate; the objective never sees them.
        num_test: Held-out examples for the final numbers; empty means all official ones.
        flip_fraction: Share of the training labels replaced by another class, drawn uniformly.
        target_classes: Classes kept in the held-out splits: the task that counts; empty keeps all.
        url: Folder of the four IDX files, any fsspec URL; empty means where Debian's package
            dataset-fashion-mnist puts them.
        seed: Seeds the split and the flipped labels.
        model: Model.
    """
    return _classes(locals(), DataName.FASHION_MNIST)


def cifar_10(
    num_train: Number = 800,
    num_objective: Number = 400,
    num_validation: Number = 200,
    num_test: Number | None = None,
    flip_fraction: Share = 0.0,
    target_classes: Classes = (),
    url: SafeUrl | None = None,
    checksum: Checksum | None = None,
    seed: Seed = 0,
    model: ModelSettings = ModelSettings(),
) -> "Problem":
    """CIFAR-10: 60,000 colour pictures of 32 x 32 pixels, in ten classes.

    Args:
        num_train: Training candidates.
        num_objective: Held-out examples whose mean loss is the output phi that is differentiated.
        num_validation: Held-out examples that choose the iterate; the objective never sees them.
        num_test: Held-out examples for the final numbers; empty means all official ones.
        flip_fraction: Share of the training labels replaced by another class, drawn uniformly.
        target_classes: Classes kept in the held-out splits: the task that counts; empty keeps all.
        url: The archive of the binary version, any fsspec URL; empty means its authors' address.
        checksum: MD5 that the archive must have; empty means that of the official one.
        seed: Seeds the split and the flipped labels.
        model: Model.
    """
    return _classes(locals(), DataName.CIFAR_10)


def fashion_captions(
    num_train: Number = 800,
    num_objective: Number = 400,
    num_validation: Number = 200,
    num_test: Number | None = None,
    flip_fraction: Share = 0.0,
    url: SafeUrl | None = None,
    seed: Seed = 0,
    model: ModelSettings = ModelSettings(),
    contrastive: ContrastiveSettings = ContrastiveSettings(),
) -> "Problem":
    """Fashion-MNIST with a caption for each picture, for two towers that are compared.

    Args:
        num_train: Training candidates.
        num_objective: Held-out pairs whose mean loss is the output phi that is differentiated.
        num_validation: Held-out pairs that choose the iterate; the objective never sees them.
        num_test: Held-out pairs for the final numbers; empty means all official ones.
        flip_fraction: Share of the training captions that describe something else.
        url: Folder of the four IDX files, any fsspec URL.
        seed: Seeds the split, the captions and which of them are wrong.
        model: The image tower.
        contrastive: The text tower, and what both are compared by.
    """
    from engine.problems.pairs.problem import pairs_problem

    data = part(DataSettings, locals(), name=DataName.FASHION_CAPTIONS)
    return pairs_problem(data, model, contrastive)


def _classes(given: dict[str, Any], name: DataName) -> "Problem":
    from engine.problems.classes.problem import classes_problem

    return classes_problem(part(DataSettings, given, name=name), given["model"])
