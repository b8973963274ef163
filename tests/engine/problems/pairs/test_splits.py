"""Pairs as splits: captions of classes, wrong ones, token ids, and fingerprints."""

from pathlib import Path

import pytest
import torch

from engine.applications.attribution.scores import query_outputs
from engine.applications.canaries.canaries import first_canaries
from engine.errors import ConfigurationError, DataError
from engine.problems.built import build_problem
from engine.problems.classes.idx import FASHION_MNIST_URL
from engine.problems.pairs.captions import BEGIN, END, UNKNOWN, train_tokenizer
from engine.problems.pairs.images import ShardImages
from engine.problems.pairs.splits import exchange_captions, load_pairs
from engine.recipes.arguments.data import DataName, DataSettings
from engine.recipes.arguments.pairs import ContrastiveSettings
from engine.recipes.attribution import Queries
from engine.recipes.files import load_recipe, validate_recipe
from tests.helpers.data.pair_files import shards

pillow = pytest.importorskip("PIL.Image", reason="images need the extra clip")

needs_fashion = pytest.mark.skipif(
    not Path(FASHION_MNIST_URL).is_dir(), reason="needs Debian's package dataset-fashion-mnist"
)


def load(url, contrastive=None, **data):
    sizes = {"num_train": 8, "num_objective": 3, "num_validation": 2}
    chosen = DataSettings(name=DataName.IMAGE_TEXT, url=url, **(sizes | data))
    settings = ContrastiveSettings(image_size=8, **(contrastive or {}))
    return load_pairs(chosen, settings, torch.float64)[0]


def test_splits_are_disjoint_and_images_stay_with_their_captions(tmp_path):
    """A pair that is torn apart is a wrong caption that nobody knows of."""
    data = load(shards(tmp_path, 15))

    names = [name for split in data.splits.values() for name in split.names]
    assert sorted(names) == [f"0.tar/{n:03}" for n in range(15)]
    for split in data.splits.values():
        shades = ((split.inputs[:, 0, 0, 0] * 63.75 + 127.5) / 10).round().int().tolist()
        assert split.captions == tuple(f"shade {shade}" for shade in shades)
        assert split.names == tuple(f"0.tar/{shade:03}" for shade in shades)
    assert not data.corrupted.any()


def test_target_pairs_have_files_of_their_own(tmp_path):
    """The task that counts is often another data set than the pool."""
    pool, target = tmp_path / "pool", tmp_path / "target"
    pool.mkdir()
    target.mkdir()

    data = load(shards(pool, 8), {"target_url": shards(target, 6, colour=200)})

    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 8, "objective": 3, "validation": 2, "test": 1,
    }  # fmt: skip
    green = {name: float(split.inputs[:, 1].min()) for name, split in data.splits.items()}
    assert green["train"] < 0 < min(green["objective"], green["validation"], green["test"])


def test_fingerprint_sees_images_captions_and_their_order(tmp_path):
    """It is part of every stage's key: other pairs must reuse nothing."""
    folders = [tmp_path / name for name in "abcd"]
    for folder in folders:
        folder.mkdir()
    same, again, colour, more = (
        load(shards(folder, count, shade))
        for folder, count, shade in zip(folders, (15, 15, 15, 16), (0, 0, 9, 0), strict=True)
    )

    assert same.fingerprint == again.fingerprint
    assert len({each.fingerprint for each in (same, colour, more)}) == 3
    assert load(str(folders[0]), flip_fraction=0.5).fingerprint != same.fingerprint


def test_wrong_captions_are_those_of_other_pairs():
    """They must be as frequent and as long as right ones, or a filter need not look at images."""
    captions = [f"caption {n}" for n in range(50)]

    moved, wrong = exchange_captions(captions, 0.3, torch.Generator().manual_seed(0))

    assert sorted(moved) == sorted(captions)
    assert int(wrong.sum()) == 15
    assert [new != old for new, old in zip(moved, captions, strict=True)] == wrong.tolist()


def test_too_few_pairs_are_refused_with_the_sizes(tmp_path):
    """A smaller split than asked for is another experiment."""
    with pytest.raises(DataError, match="need 8 .train. .* = 14 pairs, but there are only 10"):
        load(shards(tmp_path, 10))


@pytest.mark.slow
@needs_fashion
def test_captions_of_fashion_mnist_name_the_class_and_wrong_ones_another():
    """The recipe's AUC is that of captions which name another class than the picture's."""
    chosen = [
        "arguments.num_train=200",
        "arguments.num_objective=20",
        "arguments.num_validation=20",
        "arguments.num_test=20",
    ]
    clean = [*chosen, "arguments.flip_fraction=0"]

    train = build_problem(load_recipe("fashion-contrastive", chosen).descent).data
    right = build_problem(load_recipe("fashion-contrastive", clean).descent).data.splits["train"]

    assert torch.equal(train.splits["train"].inputs, right.inputs)
    assert int(train.corrupted.sum()) == 60
    other = torch.tensor(
        [a != b for a, b in zip(train.splits["train"].captions, right.captions, strict=True)]
    )
    assert torch.equal(other, train.corrupted)


def test_words_become_ids_by_frequency_and_the_alphabet():
    """A tie that fell by the order of the captions would be another model for the same set."""
    tokenizer = train_tokenizer(["b a", "a c"], ContrastiveSettings(vocabulary=6, context=5))

    assert tokenizer.size == 6
    assert tokenizer(["A b, c"]).tolist() == [[BEGIN, 4, 5, UNKNOWN, END]]
    assert tokenizer(["c"]).tolist() == [[BEGIN, UNKNOWN, END, 0, 0]]
    assert train_tokenizer(["a c", "b a"], ContrastiveSettings(vocabulary=6)).split("b") == [5]


def test_bpe_knows_every_byte():
    """Captions of the web have words that no vocabulary holds."""
    pytest.importorskip("tokenizers", reason="BPE needs the extra clip")
    settings = ContrastiveSettings(tokenizer="bpe", vocabulary=270, context=40)

    ids = train_tokenizer(["a dress", "a dress"], settings)(["a \u00fcber-dress"])

    assert UNKNOWN not in ids
    assert int((ids == END).sum()) == 1
    with pytest.raises(ConfigurationError, match="begins with 260 ids"):
        train_tokenizer([], ContrastiveSettings(tokenizer="bpe", vocabulary=100))


REFUSED_WHEN_READ = {
    "captions for classes": (
        {"problem": "digits", "arguments": {"contrastive": {"context": 9}}},
        "arguments.contrastive: unknown setting",
    ),
    "no url": ({"problem": "pairs"}, "arguments.url: missing"),
    "classes": (
        {"problem": "fashion_captions", "arguments": {"target_classes": [1]}},
        "arguments.target_classes: unknown setting",
    ),
}


@pytest.mark.parametrize(("content", "reason"), REFUSED_WHEN_READ.values(), ids=REFUSED_WHEN_READ)
def test_argument_that_a_problem_does_not_have_is_refused(content, reason):
    """What is silently ignored would be reported as if it had been done."""
    with pytest.raises(ConfigurationError, match=reason):
        validate_recipe({"name": "x", **content}, "the test")


REFUSED = {
    "inputs": (
        {"metaparameters": {"name": "inputs"}, "outer": {"update": "sign"}},
        "which needs losses of single examples",
    ),
    "smoothing": ({"training": {"label_smoothing": 0.1}}, "no labels to smooth"),
    "smoothing as a scalar": (
        {
            "metaparameters": {"name": "scalars", "scalars": ["label_smoothing"]},
            "outer": {"update": "sign"},
        },
        "no labels to smooth",
    ),
    "output scale": ({"model": {"output_scale": 0.5}}, "arguments.model.output_scale is 0.5"),
    "micro-batch": ({"replay": {"micro_batch": 4}}, "Use training.piece"),
    "pieces of a graph": ({"training": {"piece": 4, "path": "graph"}}, "not for a batch in pieces"),
}


def shades(folder, model=None, **content):
    """Return a recipe that trains on shades of grey."""
    own = {
        "url": shards(folder, 15),
        "num_train": 8,
        "num_objective": 3,
        "num_validation": 2,
        "model": {"width": 4, "depth": 1} | (model or {}),
        "contrastive": {"image_size": 8, "text_width": 4, "text_depth": 1, "text_heads": 2},
    }
    shared = {"name": "x", "problem": "pairs", "arguments": own}
    return validate_recipe(shared | content, "the test").descent


@pytest.mark.parametrize(("content", "reason"), REFUSED.values(), ids=REFUSED)
def test_setting_without_meaning_for_pairs_is_refused(tmp_path, content, reason):
    """What is silently ignored would be reported as if it had been done."""
    recipe = shades(tmp_path, **content)

    with pytest.raises(ConfigurationError, match=reason):
        build_problem(recipe)


def test_losses_of_single_examples_are_not_asked_of_pairs(tmp_path):
    """A pair's loss is that among the others of its batch: alone it would be zero."""
    problem = build_problem(shades(tmp_path, training={"batch_size": 4}))

    with pytest.raises(ConfigurationError, match="kind is canaries.*loss of single examples"):
        first_canaries(problem, 2)
    with pytest.raises(ConfigurationError, match="kind is attribution.*loss of single examples"):
        query_outputs(problem, Queries(split="objective", number=2))


def test_images_are_read_on_demand_from_the_same_shards_as_the_task(tmp_path):
    """Held-out pairs of the same folder are held, and everything else is as if all were."""
    url = shards(tmp_path, 15)

    expected, found = (load(url, {"in_memory": held}) for held in (True, False))

    assert isinstance(found.splits["train"].inputs, ShardImages)
    for name, pairs in expected.splits.items():
        images = found.splits[name].inputs
        images = images[torch.arange(len(images))] if name == "train" else images
        assert torch.equal(images, pairs.inputs)
    assert found.fingerprint == expected.fingerprint
