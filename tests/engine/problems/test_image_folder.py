"""Folders of pictures as people make them: links, empty classes, accents."""

import io
import os
import unicodedata

import pytest

from engine.errors import DataError
from engine.problems.shipped import image_folder

Image = pytest.importorskip("PIL.Image", reason="pictures need the extra clip")


def picture(red, **options):
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), (red, 10, 10)).save(stream, "PNG", **options)
    return stream.getvalue()


def put(folder, classes=("a", "b"), number=6):
    for place, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for each in range(number):
            (folder / name / f"{each}.png").write_bytes(picture(100 * place + each))
    return folder


def taken(problem):
    return len(problem.train.inputs) + len(problem.objective.inputs)


def link_pictures(folder, elsewhere):
    for each in put(elsewhere, ("c",)).glob("c/*"):
        (folder / "a" / f"c{each.name}").symlink_to(each)


def link_class(folder, elsewhere):
    (folder / "c").symlink_to(put(elsewhere, ("c",)) / "c")


def link_folder(folder, elsewhere):
    (folder / "a" / "more").symlink_to(put(elsewhere, ("c",)) / "c")


@pytest.mark.parametrize("link", [link_pictures, link_class, link_folder])
def test_links_are_what_they_lead_to(link, tmp_path):
    """Splits are often folders of links, which were left out without a word."""
    folder = put(tmp_path / "data")
    link(folder, tmp_path / "elsewhere")

    problem = image_folder(str(folder))

    assert taken(problem) == 18
    assert not problem.notes


def loop(folder):
    (folder / "a" / "loop").symlink_to(folder)


def loop_by_two(folder):
    (folder / "a" / "up").symlink_to(folder / "b")
    (folder / "b" / "up").symlink_to(folder / "a")


def whole_disk(folder):
    (folder / "a" / "all").symlink_to("/")


def dead(folder):
    (folder / "a" / "dead.png").symlink_to("nothing")


def pipe(folder):
    os.mkfifo(folder / "a" / "p.png")


def device(folder):
    (folder / "a" / "zero.png").symlink_to("/dev/zero")


def text_elsewhere(folder):
    (folder.parent / "private").write_bytes(picture(200))
    (folder / "a" / "notes").symlink_to(folder.parent / "private")


def empty(folder):
    (folder / "c").mkdir()


def hidden(folder):
    (folder / "a" / ".x.png").write_bytes(picture(0))


LEFT_OUT = {
    loop: ["1 pipes, devices or links", "a/loop"],
    whole_disk: ["1 pipes, devices or links", "a/all"],
    dead: ["1 pipes, devices or links", "a/dead.png"],
    pipe: ["1 pipes, devices or links", "a/p.png"],
    device: ["1 pipes, devices or links", "a/zero.png"],
    text_elsewhere: ["1 files are hidden or no pictures", "a/notes"],
    empty: ["1 folders are empty, so there is no class of their name: c."],
    hidden: ["1 files are hidden or no pictures", "a/.x.png"],
}


@pytest.mark.parametrize("make", LEFT_OUT, ids=lambda make: make.__name__)
def test_whatever_is_left_out_is_counted_and_named(make, tmp_path):
    """And nothing waits for a pipe, reads a device or walks over the disk."""
    folder = put(tmp_path / "data")
    make(folder)

    problem = image_folder(str(folder))

    assert taken(problem) == 12
    (note,) = problem.notes
    assert all(word in note for word in LEFT_OUT[make])


def test_links_to_one_another_end(tmp_path):
    """Each class has the pictures of the other, and the walk stops where it began."""
    folder = put(tmp_path / "data")
    loop_by_two(folder)

    problem = image_folder(str(folder))

    assert taken(problem) == 24
    assert "2 pipes, devices or links" in problem.notes[0]


def test_frames_of_animations_are_told(tmp_path):
    """The first frame counts, and somebody may have meant the others."""
    folder = put(tmp_path / "data")
    first, *others = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "green"))
    first.save(folder / "a" / "moving.gif", save_all=True, append_images=others)

    (note,) = image_folder(str(folder)).notes

    assert note == "1 pictures are animated, and their first frame counts: a/moving.gif."


def test_accents_of_macos_are_those_of_linux(tmp_path):
    """One name in two forms of Unicode is one class, and cannot be two of them."""
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    train = put(tmp_path / "train", (composed, "b"))
    held = put(tmp_path / "held", (apart, "b"))

    problem = image_folder(str(train), objective=str(held))

    assert problem.objective.labels.bincount().tolist() == [6, 6]
    with pytest.raises(DataError, match="look the same, by a space at an end"):
        image_folder(str(put(tmp_path / "both", (composed, apart))))


DAMAGED = {
    "empty": (b"", "an image of 0 bytes"),
    "cut off": (picture(1)[:-20], "decoded .*Truncated"),
    "large": (picture(1), "more pixels than arguments.max_pixels=100"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_picture_that_cannot_be_used_is_named_with_its_own_setting(kind, tmp_path):
    """There are no pairs here, and no setting called contrastive."""
    content, words = DAMAGED[kind]
    folder = put(tmp_path / "data")
    (folder / "a" / "z.png").write_bytes(content)

    with pytest.raises(DataError, match=words) as refused:
        image_folder(str(folder), max_pixels=100 if kind == "large" else 10_000)

    assert "contrastive" not in str(refused.value)
    assert "the pair" not in str(refused.value)


def test_the_seed_says_which_pictures_are_held_out(tmp_path):
    """Another seed holds out others, and the same one the same."""
    put(tmp_path, number=20)

    held = [image_folder(str(tmp_path), size=4, seed=seed).objective.inputs for seed in (0, 0, 1)]

    assert held[0].equal(held[1])
    assert held[0].shape == held[2].shape
    assert not held[0].equal(held[2])


@pytest.mark.parametrize(
    "names", [("train", "val"), ("Train", "Test", "valid"), ("a", "dev", "eval")]
)
def test_splits_are_no_classes(names, tmp_path):
    """They were told apart in silence, in the place of what is in them."""
    for name in names:
        put(tmp_path / name)

    with pytest.raises(DataError, match="called as splits are, and each would be a class"):
        image_folder(str(tmp_path))


def test_pictures_of_trains_are_a_class(tmp_path):
    """One name by itself says nothing."""
    assert taken(image_folder(str(put(tmp_path, ("plane", "train"))))) == 12


def test_the_same_subfolders_in_every_class_are_told(tmp_path):
    """They may be the classes, and the class a hospital; several that differ are none."""
    for name in ("here", "there"):
        put(tmp_path / "alike" / name)
        put(tmp_path / "others" / name, (name, f"{name} again"))

    (told,) = image_folder(str(tmp_path / "alike")).notes

    assert "in the same subfolders (a, b), which are not told apart" in told
    assert not image_folder(str(tmp_path / "others")).notes


def test_only_picture_of_a_class_is_trained_on_and_told(tmp_path):
    """One class of a single picture made a folder of thousands useless."""
    folder = put(tmp_path)
    put(folder, ("c",), number=1)

    problem = image_folder(str(folder))

    assert taken(problem) == 13
    assert problem.train.labels.bincount().tolist()[2] == 1
    assert 2 not in problem.objective.labels
    assert problem.notes == (
        f"The folder {folder} has one example of c, which is trained on and not held out.",
    )


def test_classes_of_one_picture_each_leave_none_to_hold_out(tmp_path):
    """There is nothing to judge by."""
    with pytest.raises(DataError, match="Every class of .* has one picture"):
        image_folder(str(put(tmp_path, number=1)))


@pytest.mark.parametrize("other", ["a ", "a\u200b", "\u00e9"])
def test_classes_that_look_the_same_are_refused(other, tmp_path):
    """A space at an end made a class of its own."""
    first = "e\u0301" if other == "\u00e9" else "a"

    with pytest.raises(DataError, match="look the same, by a space at an end"):
        image_folder(str(put(tmp_path, (first, other, "b"))))
