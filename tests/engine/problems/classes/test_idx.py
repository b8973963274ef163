"""Fashion-MNIST as its IDX files: read from any place, damaged or missing files refused."""

import gzip
from pathlib import Path

import pytest
import torch

from engine.errors import DataError
from engine.problems.classes.data_sets import load_data
from engine.problems.classes.idx import FASHION_MNIST_URL
from engine.recipes.arguments.data import DataName, DataSettings

DIGITS = DataSettings(num_train=100, num_objective=40, num_validation=30, num_test=20)


def idx_bytes(values):
    """Write an IDX file the way its description reads, independently of the reader."""
    header = bytes([0, 0, 8, values.ndim])
    shape = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return header + shape + bytes(values.flatten().tolist())


def write_fashion(folder, *, num_train=12, num_test=5, compress=gzip.compress, suffix=".gz"):
    """Write four small files; image i of a file is filled with i and has label i % 10."""
    for stem, num in (("train", num_train), ("t10k", num_test)):
        index = torch.arange(num, dtype=torch.uint8)
        images = index[:, None, None].expand(num, 28, 28)
        for name, values in (("images-idx3", images), ("labels-idx1", index % 10)):
            path = Path(folder) / f"{stem}-{name}-ubyte{suffix}"
            path.write_bytes(compress(idx_bytes(values)))
    return small_fashion(folder)


def small_fashion(url):
    return DataSettings(
        name=DataName.FASHION_MNIST, url=str(url), num_train=6, num_objective=3, num_validation=2
    )


@pytest.mark.parametrize(
    ("compress", "suffix"), [(gzip.compress, ".gz"), (bytes, "")], ids=["gz", "plain"]
)
def test_fashion_mnist_is_read_from_idx_files(tmp_path, compress, suffix):
    """Pixels are standardized with fixed constants, and each image keeps its own label."""
    settings = write_fashion(tmp_path, compress=compress, suffix=suffix)

    data = load_data(settings, torch.float64)

    train = data.splits["train"]
    pixels = (train.inputs * 0.3530 + 0.2860) * 255
    assert train.inputs.shape == (6, 1, 28, 28)
    torch.testing.assert_close(pixels[:, 0, 0, 0].round().long() % 10, train.labels)
    torch.testing.assert_close(pixels, pixels.round(), rtol=0, atol=1e-12)


def test_fashion_mnist_takes_its_test_split_from_the_official_test_files(tmp_path):
    """Published accuracies are on these images, so they never enter another split."""
    settings = write_fashion(tmp_path, num_train=11, num_test=5)  # 11 = 6 + 3 + 2: all are used

    splits = load_data(settings, torch.float32).splits
    capped = load_data(settings.model_copy(update={"num_test": 2}), torch.float32).splits

    assert sorted(splits["test"].labels.tolist()) == [0, 1, 2, 3, 4]
    assert len(capped["test"]) == 2


def test_data_url_takes_any_fsspec_url(tmp_path):
    """Workers in a cloud have no Debian package; a file URL stands for every protocol here."""
    settings = write_fashion(tmp_path)

    by_url = load_data(small_fashion(tmp_path.as_uri() + "/"), torch.float32)

    assert by_url.fingerprint == load_data(settings, torch.float32).fingerprint


@pytest.mark.skipif(
    not Path(FASHION_MNIST_URL).is_dir(),
    reason="Debian's package dataset-fashion-mnist is not installed",
)
def test_the_installed_fashion_mnist_has_the_documented_statistics():
    """The constants describe the real training images: mean 0 and deviation 1 on a sample."""
    settings = DataSettings(
        name=DataName.FASHION_MNIST, num_train=2000, num_objective=500, num_validation=500
    )

    data = load_data(settings, torch.float32)

    train = data.splits["train"]
    assert len(data.splits["test"]) == 10_000
    assert train.labels.unique().tolist() == list(range(10))
    # 2000 images with a deviation of 0.7 between image means: 0.06 is four standard errors.
    assert abs(train.inputs.mean()) < 0.06
    assert abs(train.inputs.std() - 1) < 0.06


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"num_train": 8},
            r"= 13 examples, but fashion-mnist has only 12.*Lower arguments\.num_train",
        ),
        ({"num_test": 6}, r"6 \(test\) = 6 examples.*has only 5.*Lower arguments\.num_test"),
    ],
    ids=["training files", "test files"],
)
def test_splits_larger_than_the_files_are_refused(tmp_path, change, message):
    """Official test images are counted apart from the rest."""
    settings = write_fashion(tmp_path).model_copy(update=change)

    with pytest.raises(DataError, match=message):
        load_data(settings, torch.float32)


def test_a_missing_folder_is_refused_with_both_remedies(tmp_path):
    """Without the files, one either installs Debian's package or points arguments.url elsewhere."""
    with pytest.raises(
        DataError, match=r"nowhere.*package dataset-fashion-mnist.*set arguments\.url"
    ):
        load_data(small_fashion(tmp_path / "nowhere"), torch.float32)


@pytest.mark.parametrize("url", ["gopher://host/data", "gdrive://data"])
def test_a_protocol_that_fsspec_cannot_open_is_refused(url):
    """The message keeps fsspec's reason: unknown, or a package that is not installed."""
    with pytest.raises(
        DataError, match=rf"arguments\.url is {url}.*cannot be opened \(.+\).*protocol"
    ):
        load_data(small_fashion(url), torch.float32)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda raw: gzip.compress(raw)[:-20], "compressed stream is broken"),
        (lambda raw: gzip.compress(raw)[:12] + b"\xff" * 40, "compressed stream is broken"),
        (lambda raw: raw[:-1], r"needs 9408 bytes, not 9407"),
        (lambda raw: raw + b"\0", r"needs 9408 bytes, not 9409"),
        (lambda raw: b"<html>Not found</html>", r"starts with 3c68746d.*has 00000803"),
        (lambda raw: raw[:2] + b"\x0d" + raw[3:], r"starts with 00000d03"),
        (lambda raw: raw[:10], "starts with 00000803"),
        (lambda raw: b"", "starts with nothing"),
        (
            lambda raw: idx_bytes(torch.zeros(12, 8, 8, dtype=torch.uint8)),
            r"shape \(8, 8\) instead of \(28, 28\)",
        ),
    ],
    ids=[
        "truncated gz",
        "garbage in gz",
        "one byte short",
        "one byte over",
        "web page",
        "floats",
        "header cut off",
        "empty",
        "other image size",
    ],
)
def test_a_damaged_idx_file_is_refused_by_name(tmp_path, damage, reason):
    """A file that is almost right would train on shifted pixels without an error."""
    settings = write_fashion(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(gzip.decompress(path.read_bytes())))

    with pytest.raises(DataError, match=rf"train-images-idx3-ubyte\.gz .*{reason}.*arguments\.url"):
        load_data(settings, torch.float32)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.arange(11) % 10, r"12 inputs but 11 labels in .*arguments\.url=.*needs one label"),
        (torch.arange(12), r"run from 0 to 11.*10 classes.*arguments\.url="),
    ],
    ids=["one label short", "unknown class"],
)
def test_label_files_that_do_not_fit_the_images_are_refused(tmp_path, labels, message):
    """Files of two data sets mixed up are intact one by one, and wrong together."""
    settings = write_fashion(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(idx_bytes(labels.to(torch.uint8)))

    with pytest.raises(DataError, match=message):
        load_data(settings, torch.float32)
