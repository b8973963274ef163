"""CIFAR-10's binary archive: a tiny one in the official format, and the files that are refused."""

import hashlib
import io
import tarfile

import fsspec
import pytest
import torch

from engine.errors import DataError
from engine.problems.built import build_problem
from engine.problems.classes.cifar import CHECKSUM, TESTS, TRAINING, read_archive
from engine.problems.classes.data_sets import load_data
from engine.recipes.arguments.data import DataName, DataSettings
from engine.recipes.files import load_recipe

FOLDER = "cifar-10-batches-bin"


def record(label, red, green, blue):
    """One image of three even colours, written the way that the format is described."""
    return bytes([label]) + bytes([red] * 1024) + bytes([green] * 1024) + bytes([blue] * 1024)


def archive(per_file=4, *, files=(*TRAINING, TESTS), cut=0):
    """An archive whose file f has ``per_file`` images: image i is red i, green f, blue 200."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as made:
        for number, name in enumerate(files):
            data = b"".join(record(i % 10, i, number, 200) for i in range(per_file))
            info = tarfile.TarInfo(f"{FOLDER}/{name}")
            info.size = len(data) - cut
            made.addfile(info, io.BytesIO(data[: info.size]))
    return content.getvalue()


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def write(folder, content):
    path = folder / "archive.tar.gz"
    path.write_bytes(content)
    return str(path)


def test_archive_is_read_record_by_record_with_its_channels_in_order(tmp_path):
    """Label, red, green, blue; five files to train on and one to test on, in their order."""
    content = archive()

    (images, labels), (test_images, test_labels) = read_archive(
        write(tmp_path, content), md5(content)
    )

    assert images.shape == (20, 3, 32, 32)
    assert labels.tolist() == [0, 1, 2, 3] * 5
    assert test_labels.tolist() == [0, 1, 2, 3]
    assert images[6].flatten(1).unique(dim=1).tolist() == [[2], [1], [200]]
    assert test_images[3].flatten(1).unique(dim=1).tolist() == [[3], [5], [200]]


def test_shipped_recipe_trains_on_an_archive_in_the_official_format(tmp_path):
    """The recipe itself, on few images: shapes, statistics and bounds reach the model."""
    content = archive(8)
    changes = [
        *(f"arguments.url={write(tmp_path, content)}", f"arguments.checksum={md5(content)}"),
        *("arguments.num_train=24", "arguments.num_objective=8", "arguments.num_validation=8"),
        *("training.num_steps=2", "training.batch_size=4", "training.threads=1"),
        *("metaparameters.injection_step=1", "arguments.model.width=4", "arguments.model.depth=1"),
    ]

    problem = build_problem(load_recipe("cifar-selection", changes).descent)

    inputs, labels = problem.routine.examples
    assert inputs.shape == (24, 3, 32, 32)
    assert len(problem.held_out["test"]) == 8
    assert int(problem.data.corrupted.sum()) == 10
    blue = (200 - 0.4734 * 255) / (0.2516 * 255)
    torch.testing.assert_close(inputs[:, 2], torch.full((24, 32, 32), blue))
    losses = problem.routine.evaluate(
        lambda model: problem.routine.loss(model, (inputs, labels)),
        problem.routine.initial_state(),
    )
    assert losses.shape == (24,)
    assert torch.isfinite(losses).all()


def test_archive_that_is_not_local_is_fetched_once(tmp_path, monkeypatch):
    """A hundred megabytes for every stage would be a burden on those who serve them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    content, url = archive(), "memory://cifar/archive.tar.gz"
    fsspec.filesystem("memory").pipe("/cifar/archive.tar.gz", content)

    first = read_archive(url, md5(content))
    fsspec.filesystem("memory").rm("/cifar/archive.tar.gz")
    second = read_archive(url, md5(content))

    assert torch.equal(first[0][0], second[0][0])


def test_incomplete_archive_is_refused_and_fetched_anew(tmp_path, monkeypatch):
    """A download that broke off must not stay for good."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    content, url = archive(), "memory://cifar/broken.tar.gz"
    fsspec.filesystem("memory").pipe("/cifar/broken.tar.gz", content[:100])

    with pytest.raises(DataError, match=r"has the MD5 .* asked for: it is incomplete"):
        read_archive(url, md5(content))

    fsspec.filesystem("memory").pipe("/cifar/broken.tar.gz", content)
    assert len(read_archive(url, md5(content))[0][1]) == 20


def test_other_archive_than_the_official_one_needs_its_checksum(tmp_path):
    """Results on other images must not pass for results on CIFAR-10."""
    settings = DataSettings(name=DataName.CIFAR_10, url=write(tmp_path, archive()))

    with pytest.raises(DataError, match=rf"{CHECKSUM} is asked for.*arguments\.checksum="):
        load_data(settings, torch.float32)


def test_missing_network_is_one_message_with_the_way_out():
    """Port 9 discards: nothing answers there, as on a machine without a network."""
    with pytest.raises(
        DataError, match=r"cannot be read .*fetch .* elsewhere and set arguments\.url"
    ):
        read_archive("http://127.0.0.1:9/cifar-10-binary.tar.gz", CHECKSUM)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no archive", r"cannot be read as one"),
        (archive(files=TRAINING), r"has no test_batch\.bin"),
        (archive(cut=1), r"not whole records of 3073"),
    ],
    ids=["no-archive", "no-tests", "half-a-record"],
)
def test_broken_archive_is_refused(tmp_path, content, words):
    """Its checksum was given for it, so the format has to be looked at as well."""
    with pytest.raises(DataError, match=words):
        read_archive(write(tmp_path, content), md5(content))


def test_checksum_of_data_that_is_no_archive_is_refused():
    """A setting that nothing reads would promise a check that is not made."""
    with pytest.raises(DataError, match=r"arguments\.checksum is 0.*digits"):
        load_data(DataSettings(checksum="0" * 32), torch.float32)
