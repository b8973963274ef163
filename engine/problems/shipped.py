"""The problems that ship: each a function like one of a user's own, named by a recipe.

A recipe's form and its checks read the signatures, so importing this module loads no torch; what
computes is imported when a function is called. Another problem is one more function here, and a
file or folder beside this one; see "How to add" in ``engine/README.md``.
"""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from engine.recipes.arguments.data import DataName, DataSettings, Target
from engine.recipes.arguments.model import ModelSettings
from engine.recipes.arguments.pairs import ContrastiveSettings
from engine.recipes.arguments.text import (
    LanguageModelSettings,
    LanguageSettings,
    Passages,
    Responses,
    TextSettings,
)
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

Number = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Classes = tuple[Annotated[int, Field(ge=0)], ...]
Checksum = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
PictureSize = Annotated[int, Field(ge=4)]
MaxTokens = Annotated[int, Field(ge=3)]
Vocabulary = Annotated[int, Field(ge=260, le=2**20)]


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


def image_folder(
    folder: SafeUrl,
    objective: SafeUrl | None = None,
    validation: SafeUrl | None = None,
    test: SafeUrl | None = None,
    size: PictureSize = 32,
    held_out: Share = 0.4,
    max_pixels: Number = 2**26,
    seed: Seed = 0,
    model: ModelSettings | str = ModelSettings(),
) -> "Problem":
    """A folder of pictures of your own, with one subfolder for each class.

    Args:
        folder: Training candidates, any fsspec URL.
        objective: Folder of trusted pictures whose mean loss is the output phi, with subfolders of
            the same names; empty holds some of the candidates out, of every class.
        validation: Folder of pictures that choose the iterate; empty cuts them from the held-out.
        test: Folder of pictures for the final numbers; empty cuts them likewise.
        size: Height and width to which the middle square of a picture is scaled.
        held_out: Share of the pictures that are held out, if objective is empty.
        max_pixels: Most pixels of a picture; one with more is refused.
        seed: Seeds which pictures are held out.
        model: Settings of a shipped model, or a class of your own, my_file.py:Net, which is called
            with those of input_shape, num_inputs and num_outputs that it takes.
    """
    from engine.problems.image_folder import image_folder_problem

    folders = {"train": folder, "objective": objective, "validation": validation, "test": test}
    return image_folder_problem(folders, size, held_out, max_pixels, seed, model)


def table(
    url: SafeUrl,
    label: str,
    target: Target = Target.AUTO,
    features: tuple[str, ...] = (),
    names: str | None = None,
    objective: SafeUrl | None = None,
    validation: SafeUrl | None = None,
    test: SafeUrl | None = None,
    held_out: Share = 0.4,
    seed: Seed = 0,
    model: ModelSettings | str = ModelSettings(),
) -> "Problem":
    """A table of your own, CSV, Parquet or npz, with a column of labels: classes, or a number.

    Args:
        url: Training candidates, any fsspec URL; what the file is, is seen by its content.
        label: Column of the label.
        target: Whether the label is a class or a number; auto takes words, truth values and up to
            20 different whole numbers for classes, and fractions for numbers.
        features: Columns that the model reads; empty means all others.
        names: Column of what people call a row; empty means its number.
        objective: File of trusted rows whose mean loss is the output phi, with the same columns;
            empty holds some of the candidates out.
        validation: File of rows that choose the iterate; empty cuts them from the held-out ones.
        test: File of rows for the final numbers; empty cuts them likewise.
        held_out: Share of the rows that are held out, if objective is empty.
        seed: Seeds which rows are held out.
        model: Settings of a shipped model, or a class of your own, my_file.py:Net, which is called
            with those of input_shape, num_inputs and num_outputs that it takes.
    """
    from engine.problems.tables.problem import Wanted, table_problem

    urls = {"train": url, "objective": objective, "validation": validation, "test": test}
    return table_problem(urls, Wanted(label, features, names, target), held_out, seed, model)


def texts(
    sources: tuple[SafeUrl, ...],
    target: SafeUrl,
    url: SafeUrl | None = None,
    passages: Passages = Passages.LINE,
    separator: str = "\n",
    max_tokens: MaxTokens = 128,
    vocabulary: Vocabulary = 1024,
    num_train: Number = 800,
    num_objective: Number = 400,
    num_validation: Number = 200,
    num_test: Number | None = None,
    seed: Seed = 0,
    model: LanguageModelSettings = LanguageModelSettings(),
    language: LanguageSettings = LanguageSettings(),
) -> "Problem":
    """Texts of several sources for a causal language model, when one task counts.

    Args:
        sources: Files of the candidates, any fsspec URL. JSON holds objects with prompt, completion
            and perhaps source on each line, or an array of them; any other is plain text.
        target: File of the task, from which the held-out examples are drawn; it may be one of the
            sources, and then the candidates are what is left of it.
        url: Folder of the files; empty means the working folder, or that of Debian's fortunes.
        passages: What one example is in a plain text.
        separator: Put between a prompt and its completion.
        max_tokens: Longest sequence, with the tokens that mark start and end; a longer one is cut.
        vocabulary: Tokens of the byte-level BPE tokenizer that is trained on the candidates; a
            pretrained model has its own, and does not read this.
        num_train: Training candidates.
        num_objective: Held-out examples whose mean loss is the output phi that is differentiated.
        num_validation: Held-out examples that choose the iterate; the objective never sees them.
        num_test: Held-out examples for the final numbers; empty means all that are left.
        seed: Seeds the splits.
        model: Sizes of a new language model.
        language: Which causal language model, and which of its weights are trained.
    """
    from engine.problems.texts.problem import texts_problem

    given = locals()
    data, text = _part(DataSettings, given, name=DataName.TEXT), _part(TextSettings, given)
    return texts_problem(data, text, model, language)


def instructions(
    url: SafeUrl,
    objective: SafeUrl | None = None,
    validation: SafeUrl | None = None,
    test: SafeUrl | None = None,
    held_out: Share = 0.4,
    responses: Responses = Responses.ALL,
    separator: str = "\n",
    max_tokens: MaxTokens = 256,
    vocabulary: Vocabulary = 1024,
    seed: Seed = 0,
    model: LanguageModelSettings = LanguageModelSettings(),
    language: LanguageSettings = LanguageSettings(),
) -> "Problem":
    """Instructions with responses for a causal language model, which learns the responses only.

    Args:
        url: Training candidates, any fsspec URL: JSON, Parquet or CSV with instruction, perhaps
            input, and output; prompt and completion; question and answer; or messages. What the
            file is, is seen by its content.
        objective: File of trusted rows whose mean loss is the output phi; empty holds some of the
            candidates out.
        validation: File of rows that choose the iterate; empty cuts them from the held-out ones.
        test: File of rows for the final numbers; empty cuts them likewise.
        held_out: Share of the rows that are held out, if objective is empty.
        responses: Which messages of the assistant are learned of a dialogue: all, or the last.
        separator: Put between a prompt and its response.
        max_tokens: Longest sequence, with the tokens that mark start and end; a longer one is cut.
        vocabulary: Tokens of the byte-level BPE tokenizer that is trained on the candidates; a
            pretrained model has its own, and does not read this.
        seed: Seeds which rows are held out.
        model: Sizes of a new language model.
        language: Which causal language model, and which of its weights are trained.
    """
    from engine.problems.texts.instructions import instructions_problem

    urls = {"train": url, "objective": objective, "validation": validation, "test": test}
    text = _part(TextSettings, locals())
    return instructions_problem(urls, held_out, seed, text, (model, language), responses)


def hf_dataset(
    source: SafeUrl,
    inputs: tuple[str, ...],
    label: str | None = None,
    hub: bool = False,
    held_out: Share = 0.4,
    size: PictureSize = 32,
    max_pixels: Number = 2**26,
    separator: str = "\n",
    max_tokens: MaxTokens = 256,
    vocabulary: Vocabulary = 1024,
    seed: Seed = 0,
    model: ModelSettings | str = ModelSettings(),
    language: LanguageSettings = LanguageSettings(),
) -> "Problem":
    """A data set of the package datasets: pictures or numbers with a label, or texts.

    Its own splits are kept: train, validation (of which objective and validation are cut) and test.

    Args:
        source: Folder that save_to_disk has filled, or a file of Parquet, JSON lines or CSV, both
            any fsspec URL; or a folder of such files; with hub, the name of a data set on the Hub.
        inputs: Columns that the model reads: one of pictures, some of numbers, or some of texts.
        label: Column of the label. A language model answers texts with it; empty learns the texts.
        hub: Whether source is a name on the Hub, which is then asked for it.
        held_out: Share of the training rows that are held out, if there is no split for it.
        size: Height and width to which the middle square of a picture is scaled.
        max_pixels: Most pixels of a picture; one with more is refused.
        separator: Put between texts and their label.
        max_tokens: Longest sequence of texts; a longer one is cut.
        vocabulary: Tokens of the tokenizer that is trained on the texts.
        seed: Seeds which rows are held out.
        model: Settings of a shipped model, or a class of your own, my_file.py:Net; of texts, the
            sizes of a new language model.
        language: Which causal language model texts are continued by.
    """
    from engine.problems.hf_dataset import Asked, hf_dataset_problem

    given = locals()
    asked = Asked(source, tuple(inputs), label, hub, held_out, seed, size, max_pixels)
    return hf_dataset_problem(asked, model, _part(TextSettings, given), language)


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

    data = _part(DataSettings, locals(), name=DataName.FASHION_CAPTIONS)
    return pairs_problem(data, model, contrastive)


def pairs(
    url: SafeUrl,
    num_train: Number = 800,
    num_objective: Number = 400,
    num_validation: Number = 200,
    num_test: Number | None = None,
    flip_fraction: Share = 0.0,
    seed: Seed = 0,
    model: ModelSettings = ModelSettings(),
    contrastive: ContrastiveSettings = ContrastiveSettings(),
) -> "Problem":
    """Pairs of images and captions: a.jpg beside a.txt, captions.csv, tar shards or Parquet.

    Args:
        url: Folder of the files, any fsspec URL.
        num_train: Training candidates.
        num_objective: Held-out pairs whose mean loss is the output phi that is differentiated.
        num_validation: Held-out pairs that choose the iterate; the objective never sees them.
        num_test: Held-out pairs for the final numbers; empty means all that are left.
        flip_fraction: Share of the training captions that describe something else.
        seed: Seeds the split and the wrong captions.
        model: The image tower.
        contrastive: The text tower, what both are compared by, and how files are read.
    """
    from engine.problems.pairs.problem import pairs_problem

    return pairs_problem(
        _part(DataSettings, locals(), name=DataName.IMAGE_TEXT), model, contrastive
    )


def _classes(given: dict[str, Any], name: DataName) -> "Problem":
    from engine.problems.classes.problem import classes_problem

    return classes_problem(_part(DataSettings, given, name=name), given["model"])


def _part(settings: type, given: dict[str, Any], **more: Any) -> Any:  # noqa: ANN401 (settings)
    """Return the arguments that belong to a group of settings."""
    fields = settings.model_fields  # pyright: ignore[reportAttributeAccessIssue] (of pydantic)
    return settings(**{key: value for key, value in given.items() if key in fields}, **more)
