"""The ready problems: functions that make a problem of a user's own files, without any Python.

They ship as those of ``engine.problems.shipped`` do, which names them; what is said there holds
here. All take trusted, validation and test examples of their own, and a model of one's own.
"""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from engine.recipes.arguments.data import DataName, DataSettings, Target
from engine.recipes.arguments.model import ModelSettings
from engine.recipes.arguments.pairs import ContrastiveSettings
from engine.recipes.arguments.parts import Number, Seed, Share, part
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

PictureSize = Annotated[int, Field(ge=4)]
MaxTokens = Annotated[int, Field(ge=3)]
Vocabulary = Annotated[int, Field(ge=260, le=2**20)]


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
    groups: tuple[str, ...] = (),
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
        groups: Columns that say of which group a row is, for metaparameters.groups; the model
            reads none of them unless features names it.
        objective: File of trusted rows whose mean loss is the output phi, with the same columns;
            empty holds some of the candidates out.
        validation: File of rows that choose the iterate; empty cuts them from the held-out ones.
        test: File of rows for the final numbers; empty cuts them likewise.
        held_out: Share of the rows that are held out, if objective is empty.
        seed: Seeds which rows are held out.
        model: Settings of a shipped model, or a class of your own, my_file.py:Net, which is called
            with those of input_shape, num_inputs and num_outputs that it takes.
    """
    from engine.problems.tables.problem import TableColumns, table_problem

    urls = {"train": url, "objective": objective, "validation": validation, "test": test}
    wanted = TableColumns(label, features, names, target, groups)
    return table_problem(urls, wanted, held_out, seed, model)


def texts(
    sources: tuple[SafeUrl, ...],
    target: SafeUrl | None = None,
    objective: SafeUrl | None = None,
    validation: SafeUrl | None = None,
    test: SafeUrl | None = None,
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
    model: LanguageModelSettings | str = LanguageModelSettings(),
    language: LanguageSettings = LanguageSettings(),
) -> "Problem":
    """Texts of several sources for a causal language model, when one task counts.

    Args:
        sources: Files of the candidates, any fsspec URL. JSON holds objects with prompt, completion
            and perhaps source on each line, or an array of them; any other is plain text.
        target: File of the task, from which the held-out examples are drawn that have no file of
            their own; it may be one of the sources, and then the candidates are what is left of
            it. Empty means all sources, if objective is empty too.
        objective: File of trusted texts whose mean loss is the output phi; empty draws them.
        validation: File of texts that choose the iterate; empty draws them from target, or, if
            there is none, cuts them from those of objective.
        test: File of texts for the final numbers; empty draws or cuts them likewise.
        url: Folder of the files; empty means the working folder, or that of Debian's fortunes.
        passages: What one example is in a plain text.
        separator: Put between a prompt and its completion.
        max_tokens: Longest sequence, with the tokens that mark start and end; a longer one is cut.
        vocabulary: Tokens of the byte-level BPE tokenizer that is trained on the candidates; a
            pretrained model has its own, and does not read this.
        num_train: Training candidates.
        num_objective: Texts that are drawn for the objective.
        num_validation: Texts that are drawn to choose the iterate.
        num_test: Texts that are drawn for the final numbers; empty means all that are left.
        seed: Seeds the splits.
        model: Sizes of a new language model, or a class of your own, my_file.py:Net, which is
            called with those of vocabulary and num_inputs (tokens of a text) that it takes, and
            maps tokens, shape (batch, tokens), to logits, shape (batch, tokens, vocabulary).
        language: Which causal language model, and which of its weights are trained.
    """
    from engine.problems.texts.problem import texts_problem

    given = locals()
    data, text = part(DataSettings, given, name=DataName.TEXT), part(TextSettings, given)
    own = {"objective": objective, "validation": validation, "test": test}
    return texts_problem(data, text, (model, language), own)


def instructions(
    url: SafeUrl,
    objective: SafeUrl | None = None,
    validation: SafeUrl | None = None,
    test: SafeUrl | None = None,
    held_out: Share = 0.4,
    groups: tuple[str, ...] = (),
    responses: Responses = Responses.ALL,
    separator: str = "\n",
    max_tokens: MaxTokens = 256,
    vocabulary: Vocabulary = 1024,
    seed: Seed = 0,
    model: LanguageModelSettings | str = LanguageModelSettings(),
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
        groups: Fields that say of which group a row is, for metaparameters.groups.
        responses: Which messages of the assistant are learned of a dialogue: all, or the last.
        separator: Put between a prompt and its response.
        max_tokens: Longest sequence, with the tokens that mark start and end; a longer one is cut.
        vocabulary: Tokens of the byte-level BPE tokenizer that is trained on the candidates; a
            pretrained model has its own, and does not read this.
        seed: Seeds which rows are held out.
        model: Sizes of a new language model, or a class of your own, as for texts.
        language: Which causal language model, and which of its weights are trained.
    """
    from engine.problems.texts.instructions import RowSettings, instructions_problem

    urls = {"train": url, "objective": objective, "validation": validation, "test": test}
    text = part(TextSettings, locals())
    wanted = RowSettings(responses, groups)
    return instructions_problem(urls, (held_out, seed), text, (model, language), wanted)


def hf_dataset(
    source: SafeUrl,
    inputs: tuple[str, ...],
    label: str | None = None,
    groups: tuple[str, ...] = (),
    objective: SafeUrl | None = None,
    validation: SafeUrl | None = None,
    test: SafeUrl | None = None,
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

    Its own splits are kept: train, validation (of which the objective is cut, if it is empty) and
    test.

    Args:
        source: Folder that save_to_disk has filled, or a file of Parquet, JSON lines or CSV, both
            any fsspec URL; or a folder of such files; with hub, the name of a data set on the Hub.
        inputs: Columns that the model reads: one of pictures, some of numbers, or some of texts.
        label: Column of the label. A language model answers texts with it; empty learns the texts.
        groups: Columns that say of which group a row is, for metaparameters.groups; the model
            reads none of them unless inputs names it.
        objective: Name of a split of source, or a source by itself, of trusted rows whose mean loss
            is the output phi; empty cuts them from the split validation, or holds some of the
            candidates out.
        validation: Rows that choose the iterate, likewise; empty takes the split validation, or
            cuts them from those of the objective.
        test: Rows for the final numbers, likewise; empty takes the split test, or cuts them.
        hub: Whether source is a name on the Hub, which is then asked for it.
        held_out: Share of the training rows that are held out, if there is no split for it.
        size: Height and width to which the middle square of a picture is scaled.
        max_pixels: Most pixels of a picture; one with more is refused.
        separator: Put between texts and their label.
        max_tokens: Longest sequence of texts; a longer one is cut.
        vocabulary: Tokens of the tokenizer that is trained on the texts.
        seed: Seeds which rows are held out.
        model: Settings of a shipped model, or a class of your own, my_file.py:Net, as for
            image_folder; of texts, the sizes of a new language model, or a class as for texts.
        language: Which causal language model texts are continued by.
    """
    from engine.problems.saved.problem import hf_dataset_problem
    from engine.problems.saved.reading import ColumnRoles, DataRequest

    given = locals()
    splits = {"objective": objective, "validation": validation, "test": test}
    columns = ColumnRoles(tuple(inputs), label, tuple(groups))
    asked = DataRequest(source, splits, columns, hub, held_out, seed, size, max_pixels)
    return hf_dataset_problem(asked, model, part(TextSettings, given), language)


def pairs(
    url: SafeUrl,
    objective: SafeUrl | None = None,
    validation: SafeUrl | None = None,
    test: SafeUrl | None = None,
    num_train: Number = 800,
    num_objective: Number = 400,
    num_validation: Number = 200,
    num_test: Number | None = None,
    flip_fraction: Share = 0.0,
    seed: Seed = 0,
    model: ModelSettings | str = ModelSettings(),
    contrastive: ContrastiveSettings = ContrastiveSettings(),
) -> "Problem":
    """Pairs of images and captions: a.jpg beside a.txt, captions.csv, tar shards or Parquet.

    Args:
        url: Folder of the files, any fsspec URL.
        objective: Folder of trusted pairs whose mean loss is the output phi; empty draws them from
            contrastive.target_url, or, if that is empty, from url.
        validation: Folder of pairs that choose the iterate; empty draws them likewise, or, if
            objective is a folder and contrastive.target_url is empty, cuts them from that one.
        test: Folder of pairs for the final numbers; empty draws or cuts them likewise.
        num_train: Training candidates.
        num_objective: Pairs that are drawn for the objective.
        num_validation: Pairs that are drawn to choose the iterate.
        num_test: Pairs that are drawn for the final numbers; empty means all that are left.
        flip_fraction: Share of the training captions that describe something else.
        seed: Seeds the split and the wrong captions.
        model: The image tower; or a class of your own, my_file.py:Net, in place of both towers. It
            is called with those of input_shape (of an image), num_outputs (contrastive.embedding),
            vocabulary and context that it takes, and maps images and token ids, shape (batch,
            context), to two vectors each, both of shape (batch, features).
        contrastive: The text tower, what both are compared by, and how files are read.
    """
    from engine.problems.pairs.problem import pairs_problem

    data = part(DataSettings, locals(), name=DataName.IMAGE_TEXT)
    own = {"objective": objective, "validation": validation, "test": test}
    return pairs_problem(data, model, contrastive, own)
