"""Pictures beside texts of the same name, and tables of captions: read, counted, refused."""

import pytest
import torch

from engine.errors import DataError
from engine.problems.built import build_problem
from engine.problems.pairs.images import ShardImages, standardized
from engine.recipes.files import validate_recipe
from tests.helpers.data.pair_files import SMALL, image, read


def put(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def test_picture_and_text_of_one_name_are_a_pair(tmp_path):
    """In the order of their paths, whatever a listing says; subfolders too."""
    put(tmp_path, {
        "b.PNG": image("red"), "b.txt": "a red\n square ",
        "a.1.jpg": image("blue", form="JPEG"), "a.1.txt": "\ufeffblue",
        "sub/b.webp": image("green", form="WEBP"), "sub/b.txt": "green",
        ".hidden.png": b"", "notes.md": "no caption",
    })  # fmt: skip

    found = read(tmp_path)

    assert found.names == ["a.1.jpg", "b.PNG", "sub/b.webp"]
    assert found.captions == ["blue", "a red square", "green"]
    assert found.passed == {
        "files that are neither pictures nor captions": ["notes.md"],
        "hidden files": [".hidden.png"],
    }


TABLES = {
    "captions.csv": 'image,caption\nb.png,"red, and round"\n./sub/a.png,blue\n',
    "captions.tsv": "image\tcaption\nb.png\tred, and round\nsub/a.png\tblue\n",
    "captions.txt": 'image,caption\r\nb.png,"red, and round"\r\nsub\\a.png,blue\r\n',
    "metadata.csv": 'file_name,split,text\nb.png,x,"red, and round"\nsub/a.png,y,blue\n',
}


@pytest.mark.parametrize("name", TABLES)
def test_table_says_which_caption_is_whose(name, tmp_path):
    """As Flickr8k's and those of image folders of ``datasets`` are written."""
    put(tmp_path, {"b.png": image("red"), "sub/a.png": image("blue"), name: TABLES[name]})

    found = read(tmp_path)

    assert found.names == ["b.png", "sub/a.png"]
    assert found.captions == ["red, and round", "blue"]


def test_further_captions_and_pictures_without_a_row_are_told(tmp_path):
    """Flickr8k has five captions of each picture; the first counts, as in Parquet."""
    put(tmp_path, {
        "a.png": image("red"), "b.png": image("blue"), "b.txt": "unread",
        "captions.csv": "image,caption\na.png,one\na.png,two\n",
    })  # fmt: skip

    found = read(tmp_path)

    assert found.captions == ["one"]
    assert found.remarks == {"with several captions, of which the first counts": ["a.png"]}
    assert found.passed == {
        "pictures that captions.csv does not name": ["b.png"],
        "texts beside captions.csv": ["b.txt"],
    }


BROKEN = {
    "no caption": ({"a.png": image("red")}, "1 without a caption .first a.png"),
    "no picture": ({"b.txt": "x"}, "1 without an image .first b.txt"),
    "two pictures": (
        {"a.png": image("red"), "a.jpg": image("red"), "a.txt": "x"},
        "several images",
    ),
    "no picture inside": ({"a.png": b"GIF89 no", "a.txt": "x"}, "image that cannot be read"),
    "empty": ({"a.png": b"", "a.txt": "x"}, "an image of 0 bytes"),
    "a row of nothing": (
        {"captions.csv": "image,caption\n../w.png,x\nw.png,x\n"},
        "1 without an image .first ../w.png",
    ),
    "columns": ({"captions.csv": "a,b\nw.png,x\n"}, "has no column image or file_name"),
    "a table of nothing": ({"captions.csv": ""}, "no column image.*but none"),
    "a table of another kind": ({"captions.csv": b"\x89PNG\r\n\x1a\n" + bytes(40)}, "captions.csv"),
}


@pytest.mark.parametrize(("files", "reason"), BROKEN.values(), ids=BROKEN)
def test_what_is_no_pair_is_refused_by_name(files, reason, tmp_path):
    """More than ``max_broken`` lets pass, which is none by default."""
    put(tmp_path, {"w.png": image("green"), **({} if "captions.csv" in files else {"w.txt": "w"})})
    put(tmp_path, files)

    with pytest.raises(DataError, match=reason):
        read(tmp_path)


def test_picture_outside_of_the_folder_is_never_read(tmp_path):
    """A table may come from anywhere; only what lies in the folder is a picture of it."""
    put(tmp_path, {"secret.png": image("red"), "in/a.png": image("red")})
    rows = f"image,caption\n../secret.png,x\n{tmp_path}/secret.png,x\na.png,y\n"
    put(tmp_path, {"in/captions.csv": rows})

    found = read(tmp_path / "in", max_broken=0.9)

    assert found.names == ["a.png"]


def test_pictures_read_on_demand_are_those_that_were_held(tmp_path):
    """``in_memory: false`` reads loose files as it reads members of a tar."""
    colours = ["red", "green", "blue"]
    put(tmp_path, {f"{place}.png": image(each) for place, each in enumerate(colours)})
    put(tmp_path, {f"{place}.txt": each for place, each in enumerate(colours)})
    held, placed = read(tmp_path, image_size=8), read(tmp_path, keep=False)
    url = str(tmp_path)
    lazy = ShardImages(placed.images, placed.names, placed.digests, url, 8, 2**20, torch.float64)

    batch = lazy[torch.tensor([2, 0])]

    assert torch.equal(batch, standardized([held.images[i] for i in (2, 0)], torch.float64))


def test_problem_of_loose_files_is_that_of_the_same_pairs_in_a_tar(tmp_path):
    """One door: what the pictures lie in changes no number."""
    import io
    import tarfile

    shades = {f"{n:03}": image((10 * n, 0, 0), form="PNG") for n in range(24)}
    texts = {name: f"shade {name}" for name in shades}
    put(tmp_path / "loose", {f"{name}.png": each for name, each in shades.items()})
    put(tmp_path / "loose", {f"{name}.txt": each for name, each in texts.items()})
    (tmp_path / "tar").mkdir()
    with tarfile.open(tmp_path / "tar" / "0.tar", "w") as archive:
        for name in shades:
            for ending, content in (("png", shades[name]), ("txt", texts[name].encode())):
                entry = tarfile.TarInfo(f"{name}.{ending}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))

    loose, packed = (problem_of(tmp_path / place) for place in ("loose", "tar"))

    assert torch.equal(loose.data.splits["train"].inputs, packed.data.splits["train"].inputs)
    assert loose.data.fingerprint == packed.data.fingerprint
    assert sorted(loose.data.splits["train"].names)[0].endswith(".png")


def problem_of(folder):
    arguments = {"url": str(folder), "num_train": 12, "num_objective": 4, "num_validation": 4}
    content = {"name": "x", "problem": "pairs", "arguments": arguments}
    from engine.recipes.files import changed

    content["arguments"]["model"] = {"name": "vit"}
    small = [each for each in SMALL if not each.startswith(("arguments.num_", "outer."))]
    return build_problem(changed(validate_recipe(content, "test"), small))


WRITTEN = {
    "semicolons": "image;caption\na.png;one, two\nb.png;three\n",
    "bars": "image|caption\na.png|one, two\nb.png|three\n",
    "tabs": "image\tcaption\na.png\tone, two\nb.png\tthree\n",
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_table_is_read_by_what_separates_its_columns(kind, tmp_path):
    """Whatever the ending of its name says."""
    put(tmp_path, {"a.png": image("red"), "b.png": image("blue"), "captions.csv": WRITTEN[kind]})

    assert read(tmp_path).captions == ["one, two", "three"]


def test_caption_with_a_bare_comma_is_not_cut(tmp_path):
    """What stands after the comma was lost without a word."""
    table = "image,caption\na.png,a dog, running\nb.png,a cat\n"
    put(tmp_path, {"a.png": image("red"), "b.png": image("blue"), "captions.csv": table})

    with pytest.raises(DataError, match="1 in a row of captions.csv with more cells than columns"):
        read(tmp_path)


def test_quotation_mark_that_nobody_closes_takes_no_rows(tmp_path):
    """The captions of all pictures after it became a part of one."""
    table = 'image,caption\na.png,"a dog\nb.png,a cat\n'
    put(tmp_path, {"a.png": image("red"), "b.png": image("blue"), "captions.csv": table})

    with pytest.raises(DataError, match="cell on line 2 that begins with a quotation mark"):
        read(tmp_path)


def test_two_texts_of_one_picture_are_several_captions(tmp_path):
    """Which of them was read depended on the order of capital letters."""
    put(tmp_path, {"a.png": image("red"), "a.txt": "one", "a.TXT": "two"})

    with pytest.raises(DataError, match="1 with several captions .first a.png"):
        read(tmp_path)


def test_table_names_pictures_in_either_form_of_unicode(tmp_path):
    """MacOS takes letters with accents apart."""
    composed, apart = "\u00e9.png", "e\u0301.png"
    put(tmp_path, {apart: image("red"), "captions.csv": f"image,caption\n{composed},one\n"})

    assert read(tmp_path).captions == ["one"]


def test_links_are_followed_and_texts_elsewhere_are_not_opened(tmp_path):
    """A caption is shown in reports, and whoever packs a data set may pack links into it."""
    data, away = tmp_path / "data", tmp_path / "away"
    put(away, {"p.png": image("blue"), "secret": "mine"})
    put(data, {"a.png": image("red"), "a.txt": "one", "c.png": image("green"), "c.txt": "three"})
    (data / "b.png").symlink_to(away / "p.png")
    (data / "b.txt").symlink_to(data / "a.txt")
    (data / "d.txt").symlink_to(away / "secret")

    found = read(data)

    assert found.names == ["a.png", "b.png", "c.png"]
    assert found.captions == ["one", "one", "three"]
    assert found.passed == {"texts that are links out of the folder": ["d.txt"]}
