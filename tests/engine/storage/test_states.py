"""Every store keeps the bits it was given, or says that it lost them."""

import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import (
    CheckpointCorruptError,
    CheckpointMissingError,
    ConfigurationError,
    ReplayMismatchError,
    StoreUnavailableError,
)
from engine.storage.location import check_writable, filesystem, join, list_folders
from engine.storage.records import read_record, write_record
from engine.storage.states import MemoryStates, RowStore

NUM_ROWS = 4
LAYOUT = {"params": (40, torch.float32), "exp_avg": (40, torch.float64)}

# The fixture hands out a new folder at each call, so examples do not see each other.
EXAMPLES = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def random_state(seed, layout=LAYOUT):
    """All bit patterns are equally likely, so there are NaN with payloads among them."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randint(0, 256, (size * dtype.itemsize,), generator=generator)
        .to(torch.uint8)
        .view(dtype)
        for name, (size, dtype) in layout.items()
    }


def bits(state):
    return {name: vector.numpy().tobytes() for name, vector in state.items()}


def special_state():
    words = torch.tensor([0x7FC00001, 0x7F800001, -0x3FFFFF, 0x7F800000, -(2**31), 1, 0, -1])
    return {
        "params": words.to(torch.int32).view(torch.float32).repeat(5),
        "exp_avg": torch.tensor([torch.nan, -0.0, torch.inf, -torch.inf]).double().repeat(10),
    }


def root_of(kind, request):
    match kind:
        case "s3":
            root = request.getfixturevalue("bucket")
        case "memory":
            root = "memory://states"
        case _:
            root = ("file://" if kind == "file" else "") + str(request.getfixturevalue("tmp_path"))
    return join(root, uuid.uuid4().hex)


@pytest.fixture(params=["local", "file", "memory", "s3"])
def url(request):
    return root_of(request.param, request)


@pytest.fixture(params=["in memory", "local", "file", "memory", "s3"])
def store(request):
    if request.param == "in memory":
        return MemoryStates()
    return create(root_of(request.param, request))


def create(url):
    return RowStore.create(url, LAYOUT, NUM_ROWS, attributes={"seed": 1})


def put(store, path, content):
    """Write below the root of a store without the store."""
    files, root = filesystem(store.url)
    files.pipe_file(join(root, path), content)


def get(store, path):
    files, root = filesystem(store.url)
    return files.cat_file(join(root, path))


def files_of(store):
    files, root = filesystem(store.url)
    return sorted(file.removeprefix(root).lstrip("/") for file in files.find(root))


def test_store_gives_back_what_was_saved(store):
    """The life of a row: it is not there, it is, and it is gone."""
    with pytest.raises(CheckpointMissingError):
        store.load(2)

    store.save(2, random_state(2))
    store.save(0, random_state(0))

    assert bits(store.load(2)) == bits(random_state(2))
    assert bits(store.load(0)) == bits(random_state(0))
    assert store.steps() == [0, 2]
    assert 2 in store
    assert 1 not in store

    store.delete(2)

    assert 2 not in store
    assert store.steps() == [0]
    with pytest.raises(CheckpointMissingError, match="Row 2 "):
        store.load(2)


def test_store_keeps_every_bit_pattern(store):
    """NaN payloads, signalling NaN, -0.0, infinities and subnormals come back as they were."""
    store.save(1, special_state())

    assert bits(store.load(1)) == bits(special_state())


def test_store_keeps_the_order_of_the_vectors(store):
    """torch.func compares the order of keys, and zarr lists arrays in its own."""
    store.save(1, random_state(1))

    assert list(store.load(1)) == list(LAYOUT)


def test_store_keeps_its_own_copy(store):
    """Optimizers update in place: neither what was saved nor what was loaded is shared."""
    state = random_state(1)
    store.save(1, state)

    state["params"].zero_()
    store.load(1)["exp_avg"].zero_()

    assert bits(store.load(1)) == bits(random_state(1))


def test_store_takes_vectors_that_need_gradients_and_are_strided(store):
    """What a routine hands over is an autograd leaf, or a column of something."""
    strided = torch.arange(80, dtype=torch.float32)[::2].requires_grad_()
    store.save(1, {"params": strided, "exp_avg": torch.zeros(40, dtype=torch.float64)})

    loaded = store.load(1)["params"]

    assert loaded.tolist() == strided.tolist()
    assert not loaded.requires_grad


def test_saving_the_same_bits_again_changes_nothing(store):
    """A retried segment saves its rows once more."""
    store.save(1, special_state())

    store.save(1, special_state())

    assert bits(store.load(1)) == bits(special_state())


def test_saving_other_bits_is_refused_with_the_place(store):
    """A run that makes other numbers the second time is not deterministic."""
    store.save(1, random_state(1))
    drifted = random_state(1)
    drifted["exp_avg"].view(torch.int64)[17] ^= 1

    with pytest.raises(ReplayMismatchError, match=r"Row 1 .* element 17 of vector 'exp_avg'"):
        store.save(1, drifted)
    assert bits(store.load(1)) == bits(random_state(1))


def test_deleting_what_is_not_there_changes_nothing(store):
    """A retried segment deletes its rows once more."""
    store.save(1, random_state(1))

    store.delete(3)

    assert store.steps() == [1]


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["save", "load", "delete", "reopen"]),
        st.integers(0, NUM_ROWS - 1),
        st.integers(0, 1),
    ),
    max_size=12,
)


def carry_out(operation, step, seed, store, model):
    """Do the same to a store and to a dict of bits, and compare what can be seen."""
    match operation:
        case "save" if model.get(step, seed) != seed:
            with pytest.raises(ReplayMismatchError):
                store.save(step, random_state(seed))
        case "save":
            store.save(step, random_state(seed))
            model[step] = seed
        case "load" if step in model:
            assert bits(store.load(step)) == bits(random_state(model[step]))
        case "load":
            with pytest.raises(CheckpointMissingError):
                store.load(step)
        case "delete":
            store.delete(step)
            model.pop(step, None)
    assert store.steps() == sorted(model)
    assert (step in store) == (step in model)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["in memory", "local", "memory"])
@settings(EXAMPLES, max_examples=30)
@given(operations=OPERATIONS)
def test_store_behaves_like_a_dict(kind, operations, tmp_path):
    """No order of operations, nor opening the store anew between them, shows a difference."""
    model = {}
    root = {"local": str(tmp_path), "memory": "memory://dict"}.get(kind)
    url = root and join(root, uuid.uuid4().hex)
    store = create(url) if url else MemoryStates()

    for operation, step, seed in operations:
        store = create(url) if url and operation == "reopen" else store
        carry_out(operation, step, seed, store, model)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_memory_states_moves_states_to_its_device():
    """Host memory is the second tier, for states that do not fit on the device."""
    store = MemoryStates(torch.device("cpu"))

    store.save(0, {"params": torch.ones(3, device="cuda")})

    assert store.load(0)["params"].device.type == "cpu"


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr("engine.storage.zarr_group._CHUNK_BYTES", 100)


@pytest.fixture(params=["local", "memory", "s3"])
def rows(request, small_chunks):
    """A store with rows 0 and 1, vectors cut into several chunks: params in 2, exp_avg in 4."""
    store = create(root_of(request.param, request))
    for step in range(2):
        store.save(step, random_state(step))
    return store


def test_row_is_files_that_are_committed_last(rows):
    """The storage layout, written out; see engine.storage.zarr_group."""
    assert [file for file in files_of(rows) if "/1/" in file or "01/" in file] == [
        "committed/00000001/zarr.json",
        "exp_avg/c/1/0",
        "exp_avg/c/1/1",
        "exp_avg/c/1/2",
        "exp_avg/c/1/3",
        "params/c/1/0",
        "params/c/1/1",
    ]


def test_deleted_row_leaves_no_file(rows):
    """Storage is what a schedule is planned for, so it must really come back."""
    rows.delete(1)

    assert [file for file in files_of(rows) if "/1/" in file or "01/" in file] == []


def test_row_without_its_mark_does_not_count(rows):
    """What a crash before the commit leaves behind is no row, and is written over."""
    files, root = filesystem(rows.url)
    files.rm_file(join(root, "committed/00000001/zarr.json"))
    put(rows, "params/c/1/0", b"half")

    assert rows.steps() == [0]
    with pytest.raises(CheckpointMissingError, match=f"Row 1 of {rows.url} is not committed"):
        rows.load(1)

    rows.save(1, random_state(1))

    assert bits(RowStore.open(rows.url).load(1)) == bits(random_state(1))


def damage(store, path, kind):
    """Damage a file of a store in one of the ways that disks and networks know."""
    content = get(store, path)
    files, root = filesystem(store.url)
    match kind:
        case "missing":
            files.rm_file(join(root, path))
        case "cut":
            put(store, path, content[: len(content) // 2])
        case "flipped":
            put(store, path, content[:-20] + bytes([content[-20] ^ 4]) + content[-19:])


@pytest.mark.parametrize(
    ("path", "kind", "found"),
    [
        ("exp_avg/c/1/2", "missing", "vector 'exp_avg' lacks the chunk exp_avg/c/1/2"),
        ("exp_avg/c/1/2", "cut", "vector 'exp_avg' fails its checksum"),
        ("params/c/1/0", "flipped", "vector 'params' fails its checksum"),
        ("committed/00000001/zarr.json", "cut", "its commit mark cannot be read"),
    ],
)
def test_damage_is_named_and_mended_by_saving_again(path, kind, found, rows):
    """The error says where, what and what to do; doing it works, and the other rows are whole."""
    damage(rows, path, kind)

    with pytest.raises(CheckpointCorruptError, match=f"Row 1 of {rows.url} .*{found}.*delete"):
        rows.load(1)
    assert bits(rows.load(0)) == bits(random_state(0))

    rows.save(1, random_state(1))

    assert bits(rows.load(1)) == bits(random_state(1))


def test_stale_chunk_with_a_valid_checksum_is_damage(rows):
    """Two rows may be swapped by a copying tool; a checksum of each chunk does not see that."""
    put(rows, "params/c/1/0", get(rows, "params/c/0/0"))

    with pytest.raises(CheckpointCorruptError, match="'params' has the fingerprint"):
        rows.load(1)


def test_mark_of_another_row_is_damage(rows):
    """Nor may a whole row take the place of another; saving again replaces such a mark."""
    put(rows, "committed/00000001/zarr.json", get(rows, "committed/00000000/zarr.json"))

    with pytest.raises(CheckpointCorruptError, match="its commit mark says .*'step': 0"):
        rows.load(1)

    rows.save(1, random_state(1))

    assert bits(rows.load(1)) == bits(random_state(1))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A folder with rows 0 to 2, to be copied and then damaged."""
    folder = tmp_path_factory.mktemp("pristine") / "rows"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.storage.zarr_group._CHUNK_BYTES", 100)
        store = create(str(folder))
        for step in range(3):
            store.save(step, random_state(step))
    return folder


def spoil(file, how, where):
    content = bytearray(file.read_bytes())
    index = int(where * len(content))
    match how:
        case "delete":
            file.unlink()
        case "truncate":
            file.write_bytes(content[:index])
        case "garbage":
            file.write_bytes(content[:index] + b"\x00garbage" + content[index + 8 :])
        case _:
            content[index] ^= 1 << how
            file.write_bytes(content)


def outcome(folder, step):
    """Return the bits of a row, or the name of the error that a user can act on."""
    try:
        return bits(RowStore.open(str(folder)).load(step))
    except (CheckpointCorruptError, CheckpointMissingError):
        return "refused"


@pytest.mark.slow
@settings(EXAMPLES, max_examples=120)
@given(
    pick=st.floats(0, 1, exclude_max=True),
    how=st.sampled_from([*range(8), "delete", "truncate", "garbage"]),
    where=st.floats(0, 1, exclude_max=True),
)
def test_no_damage_ever_gives_other_numbers(pristine, tmp_path, pick, how, where):
    """Any file, any place, any kind: a row loads with its own bits, or it does not load."""
    folder = tmp_path / uuid.uuid4().hex
    shutil.copytree(pristine, folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())

    spoil(files[int(pick * len(files))], how, where)

    assert outcome(folder, 0) in ("refused", bits(random_state(0)))
    assert outcome(folder, 1) in ("refused", bits(random_state(1)))
    assert outcome(folder, 2) in ("refused", bits(random_state(2)))


WRITER = """
import itertools, sys, torch
from engine.storage.states import RowStore
store = RowStore.create(
    sys.argv[1], {"params": (1_000_000, torch.float32)}, 100_000, attributes={}
)
for step in itertools.count():
    store.save(step, {"params": torch.full((1_000_000,), float(step))})
"""


@pytest.mark.slow
def test_killed_writer_leaves_whole_rows_only(tmp_path):
    """SIGKILL asks nobody: whatever is committed by then is right, and the next run goes on."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], cwd=Path(__file__).parents[3]
    )
    while not (tmp_path / "committed" / "00000010").exists():
        assert writer.poll() is None
        time.sleep(0.001)
    writer.send_signal(signal.SIGKILL)
    writer.wait()

    store = RowStore.open(str(tmp_path))
    done = store.steps()
    first_values = [float(store.load(step)["params"].unique().item()) for step in done]
    store.save(len(done), {"params": torch.full((1_000_000,), float(len(done)))})

    assert len(done) >= 10
    assert first_values == done == list(range(len(done)))
    assert store.steps() == [*done, len(done)]


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"params": (40, torch.float32)}, r"\['params'\] cannot"),
        (LAYOUT | {"momentum": (40, torch.float32)}, "'momentum'"),
        (LAYOUT | {"params": (41, torch.float32)}, r"'params' of shape \(41,\).*\(40,\)"),
        (LAYOUT | {"params": (40, torch.float64)}, "float64.*float32"),
    ],
    ids=["missing vector", "extra vector", "length", "dtype"],
)
def test_state_that_does_not_fit_is_refused(state, reason, tmp_path):
    """Broadcasting or casting would store other numbers than the run's."""
    with pytest.raises(ConfigurationError, match=reason):
        create(str(tmp_path)).save(0, random_state(0, state))


@pytest.mark.parametrize("step", [-1, NUM_ROWS])
def test_step_outside_the_rows_is_refused(step, tmp_path):
    """A negative step must not count from the end, as it does in an array."""
    store = create(str(tmp_path))
    store.save(NUM_ROWS - 1, random_state(0))

    with pytest.raises(ConfigurationError, match=f"Row {step} .* 0 to 3"):
        store.save(step, random_state(0))
    with pytest.raises(CheckpointMissingError, match=f"Row {step} "):
        store.load(step)
    assert step not in store


def test_location_serves_all_that_a_run_needs(url):
    """Probe, states and records of one run live side by side on every kind of URL."""
    check_writable(url)
    before = list_folders(url)
    create(join(url, "states")).save(0, random_state(0))
    write_record(join(url, "report", "record.json"), {"key": "abc"})

    assert before == []
    assert list_folders(url) == ["report", "states"]
    assert read_record(join(url, "report", "record.json")) == {"key": "abc"}
    with pytest.raises(CheckpointMissingError):
        read_record(join(url, "report", "absent.json"))
    with pytest.raises(CheckpointMissingError):
        RowStore.open(join(url, "report"))


def test_bucket_that_does_not_exist_is_refused(bucket):
    """A bucket is not made on the way, as a folder is: a typing error would cost money."""
    with pytest.raises(StoreUnavailableError, match=r"s3://no-such-bucket/run.*--store URL"):
        check_writable("s3://no-such-bucket/run")
