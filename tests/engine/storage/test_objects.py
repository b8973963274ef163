"""Names that fsspec would take for patterns are read and deleted as they are, and nothing else."""

import uuid

import pytest
from fsspec import AbstractFileSystem

from engine.errors import StoreError, StoreUnavailableError
from engine.runs.clean.clean_plan import CleanRules
from engine.runs.clean.cleaning import plan_clean
from engine.runs.clean.freeing import carry_out
from engine.runs.inventory import stored_runs, take_inventory
from engine.runs.store_mark import mark_store
from engine.storage.location import (
    check_writable,
    filesystem,
    join,
    list_files,
    list_folders,
    remove_file,
    remove_files,
    remove_folder,
    scratch_folder,
)
from engine.storage.records import read_records, write_bytes
from tests.helpers.runs.tiny_stores import add_run, add_stage

SIBLINGS = {
    "exp[1]": "exp1",
    "exp*": "exp7",
    "exp?": "exp9",
    "exp[!a]": "expb",
    "exp{1,2}": "exp1",
    "exp**": "exp",
    "exp?2": "exp?2x",
    "[": "[x",
    "exp#1": "exp",
    "ex p%5B1%5D": "ex p[1]",
}
"""A folder whose name is a pattern or has signs of URLs, and one that the pattern fits."""


@pytest.fixture(params=["local", "memory", "s3"])
def root(request, tmp_path):
    """An empty folder on each kind of filesystem; S3 is a server of its own."""
    if request.param == "local":
        return str(tmp_path)
    name = uuid.uuid4().hex
    return f"memory://{name}" if request.param == "memory" else f"s3://states/{name}"


@pytest.fixture(autouse=True)
def _server(request):
    if "s3" in request.node.name:
        request.getfixturevalue("bucket")


@pytest.fixture(params=SIBLINGS, ids=SIBLINGS)
def pair(request, root):
    """Two folders with the same files, the name of the first being a pattern for the second."""
    found = join(root, request.param), join(root, SIBLINGS[request.param])
    for folder in found:
        for name in ("runs/a/run.json", "runs/a/x/1", "runs/b/run.json"):
            write_bytes(join(folder, name), f'{{"of": "{folder}"}}'.encode())
    return found


def below(url):
    file_system, path = filesystem(url)
    return sorted(name.removeprefix(path).strip("/") for name in file_system.find(path))


WHOLE = ["runs/a/run.json", "runs/a/x/1", "runs/b/run.json"]


def test_a_folder_is_removed_in_one_store_and_stays_in_its_sibling(pair):
    """``exp[1]`` is a name; as a pattern it would take the files of ``exp1``."""
    mine, sibling = pair

    remove_folder(join(mine, "runs/a"))
    remove_folder(join(mine, "runs/a"))

    assert below(mine) == ["runs/b/run.json"]
    assert list_folders(join(mine, "runs")) == ["b"]
    assert below(sibling) == WHOLE


def test_files_are_removed_in_one_store_and_stay_in_its_sibling(pair):
    """They are deleted in bulk, by lists that fsspec would expand."""
    mine, sibling = pair
    paths = [filesystem(join(mine, name))[1] for name in (*WHOLE[1:], "runs/gone")]

    remove_files(mine, paths)
    remove_file(join(mine, "runs/none"))

    assert below(mine) == ["runs/a/run.json"]
    assert below(sibling) == WHOLE


def test_documents_of_one_store_are_read_and_not_those_of_its_sibling(pair):
    """What is read in bulk is read by name; what is not there is left out."""
    mine, sibling = pair
    urls = [join(folder, name) for folder in pair for name in (WHOLE[0], "none.json")]

    found = read_records(urls)

    assert found == {join(folder, WHOLE[0]): {"of": folder} for folder in (mine, sibling)}
    assert list_files(join(mine, "runs/a")) == ["run.json"]


def test_probes_of_one_store_leave_its_sibling_alone(pair):
    """Every start of a run writes and removes a probe."""
    mine, sibling = pair

    check_writable(mine)
    with scratch_folder(mine) as scratch:
        write_bytes(join(scratch, "x"), b"")

    assert below(mine) == below(sibling) == WHOLE


@pytest.mark.parametrize("name", ["exp[1]", "exp*", "exp?"])
def test_clean_frees_a_run_in_one_store_and_leaves_its_sibling(root, name):
    """House-keeping lists, reads and deletes by what the store holds, whatever its name."""
    stores = join(root, name), join(root, SIBLINGS[name])
    for store in stores:
        check_writable(store)
        used = add_stage(store, "train", uuid.uuid4().hex)
        run = add_run(store, "run-1", used)
        mark_store(store)
    before = below(stores[1])

    runs = stored_runs(stores[0])
    carry_out(plan_clean(stores[0], CleanRules(runs=[run], grace_seconds=0)))

    assert [run.name for run in runs] == [run]
    assert not take_inventory(stores[0]).stages
    assert list_folders(join(stores[0], "runs")) == []
    assert below(stores[1]) == before


def test_links_out_of_a_store_are_removed_and_not_followed(tmp_path):
    """What lies outside is not the engine's, however it can be reached."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "link").symlink_to(tmp_path / "outside")

    remove_folder(str(tmp_path / "run"))
    remove_folder(str(tmp_path / "link"))

    assert below(str(tmp_path)) == ["outside/precious"]


def test_a_server_that_refuses_the_connection_is_one_message():
    """Some drivers connect as soon as a URL is opened."""
    with pytest.raises(StoreError, match="does not answer.*ConnectionRefused"):
        filesystem("ftp://127.0.0.1:9/store")


def test_a_filesystem_that_makes_no_folders_is_refused_with_the_reason(monkeypatch):
    """An FTP server holds no store: a file there needs a folder first."""

    class Plain(AbstractFileSystem):
        def pipe_file(self, path, value, mode="overwrite", **options):
            raise FileNotFoundError(path)

    monkeypatch.setattr(
        "engine.storage.location.filesystem", lambda url, options=None: (Plain(), "store")
    )

    with pytest.raises(StoreUnavailableError, match="with ftp:// a folder has to be made before"):
        check_writable("ftp://somewhere/store")
