"""The trained model of a run in a file: plain torch and safetensors read it."""

import stat
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy
from typer.testing import CliRunner

from engine.applications.descent import export
from engine.applications.descent.export import export_model
from engine.errors import CheckpointMissingError, ConfigurationError
from engine.problems.built import build_problem
from engine.recipes.files import load_recipe
from engine.recipes.names import run_name
from engine.runs.run import begin_run
from engine.stages import commits
from flows.cli.app import app
from tests.helpers.data.own_problem import RECIPE, write_problem
from tests.helpers.runs.finished import finish
from tests.helpers.runs.tiny_recipe import small

NORMED = '''
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import engine
from my_helpers import clouds


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(4, width), nn.BatchNorm1d(width)
        self.frozen = nn.Linear(width, width)
        self.frozen.requires_grad_(False)
        self.register_buffer("scale", torch.full((1,), 0.5))
        self.last = nn.Linear(width, 2)

    def forward(self, x):
        hidden = nn.functional.gelu(self.norm(self.first(x)))
        return self.last(self.scale * hidden + self.frozen(hidden))


def loss(model, batch):
    return cross_entropy(model(batch["x"]), batch["y"], reduction="none")


def accuracy(model, batch):
    return (model(batch["x"]).argmax(1) == batch["y"]).double()


def two_clouds(number: int = 40, wrong: float = 0.2, width: int = 5) -> engine.Problem:
    """Two clouds of points, for a network with running statistics and a frozen layer."""
    generator = torch.Generator().manual_seed(0)
    x, y = clouds(number, generator)
    hx, hy = clouds(90, generator)
    split = lambda a, b: {"x": hx[a:b], "y": hy[a:b]}
    return engine.Problem(
        model=Net(width), loss=loss, train={"x": x, "y": y}, objective=split(0, 30),
        validation=split(30, 60), test=split(60, 90), metrics={"accuracy": accuracy},
    )
'''


TIE = "self.last = nn.Linear(width, 2); self.again = self.first"


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A finished run of somebody's own network, its folder and its store."""
    folder = tmp_path_factory.mktemp("own")
    recipe = load_recipe(
        write_problem(folder, NORMED, RECIPE), ["preflight=advise", "training.dtype=float64"]
    )
    store = str(folder / "store")
    return recipe, store, finish(recipe, store)


def fresh_net(folder):
    """The network as its file makes it, loaded by plain Python."""
    names = {"__name__": "elsewhere"}
    code = (folder / "my_clouds.py").read_text().replace("from my_helpers import clouds", "")
    exec(compile(code, "elsewhere", "exec"), names)
    torch.manual_seed(99)
    return names["Net"](5).double()


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_a_fresh_model_with_the_file_in_it_has_the_figures_of_the_run(own, tmp_path, ending):
    """Running statistics, frozen layers and constant buffers among it, in the run's format."""
    recipe, store, record = own
    file = tmp_path / f"net.{ending}"

    found = export_model(store, record.run, file, trusted=True)

    tensors = load_file(file) if ending == "safetensors" else torch.load(file, weights_only=True)
    net = fresh_net(Path(store).parent)
    assert not net.load_state_dict(tensors, strict=True).missing_keys
    test = build_problem(recipe).data.splits["test"].batches(torch.device("cpu"))
    everything = test[torch.arange(30)]
    net.eval()
    with torch.no_grad():
        logits = net(everything["x"])
    scores = record.iterates[record.chosen].scores["test"]
    assert float(cross_entropy(logits, everything["y"])) == pytest.approx(scores["loss"], rel=1e-12)
    hits = logits.argmax(1) == everything["y"]
    assert float(hits.double().mean()) == pytest.approx(scores["accuracy"])
    assert int(tensors["norm.num_batches_tracked"]) == recipe.training.num_steps
    assert tensors["first.weight"].dtype == torch.float64
    assert (found.iterate, found.tensors) == (record.chosen, len(tensors))


def test_the_file_says_where_it_is_from_and_another_step_is_another_model(own, tmp_path):
    """Run, recipe and iterate travel with the tensors."""
    _, store, record = own

    for step in (0, 1):
        export_model(store, record.run, tmp_path / f"{step}.safetensors", step, trusted=True)

    with safe_open(tmp_path / "1.safetensors", "pt") as file:
        about = file.metadata()
    assert about == {"format": "pt", "run": record.run, "recipe": "clouds", "iterate": "1"}
    one, other = (load_file(tmp_path / f"{step}.safetensors") for step in (0, 1))
    assert not torch.equal(one["first.weight"], other["first.weight"])
    assert torch.equal(one["frozen.weight"], other["frozen.weight"])


@pytest.mark.slow
def test_weights_that_a_model_has_twice_are_in_the_file_twice(tmp_path):
    """Safetensors holds no two names of one memory; a strict load wants both names."""
    tied = NORMED.replace("self.last = nn.Linear(width, 2)", TIE)
    recipe = load_recipe(write_problem(tmp_path, tied), ["preflight=advise", "outer.num_steps=1"])
    record = finish(recipe, str(tmp_path / "store"))

    export_model(str(tmp_path / "store"), record.run, tmp_path / "net.safetensors", trusted=True)

    found = load_file(tmp_path / "net.safetensors")
    assert torch.equal(found["first.weight"], found["again.weight"])


def test_code_that_only_the_store_names_is_not_loaded(own, tmp_path):
    """As for verify and resume: whoever can write to the store could have named it."""
    _, store, record = own

    with pytest.raises(ConfigurationError, match="my_clouds.py:two_clouds.*--trust-store"):
        export_model(store, record.run, tmp_path / "net.pt", trusted=False)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_refused_in_one_message(own, tmp_path):
    """Before the data is read; and never over what is there."""
    _, store, record = own
    (tmp_path / "there.pt").write_text("precious")

    for file, message in {
        "net.bin": "ends in '.bin'.*safetensors or .pt",
        "net": "ends in 'nothing'.*safetensors or .pt",
        "there.pt": "there already.*Name another file",
        "no/folder/net.pt": "is no folder.*Name another",
    }.items():
        with pytest.raises(ConfigurationError, match=message):
            export_model(store, record.run, tmp_path / file, trusted=True)
    with pytest.raises(ConfigurationError, match="has no outer step 9.*0 to 2"):
        export_model(store, record.run, tmp_path / "net.pt", 9, trusted=True)
    with pytest.raises(ConfigurationError, match="No run in .* begins with 'nothing-here'"):
        export_model(store, "nothing-here", tmp_path / "net.pt", trusted=True)
    with pytest.raises(ConfigurationError, match=f"Did you mean {record.run}"):
        export_model(store, f"x{record.run}", tmp_path / "net.pt", trusted=True)
    assert (tmp_path / "there.pt").read_text() == "precious"
    assert [each.name for each in tmp_path.iterdir()] == ["there.pt"]


def test_a_run_without_a_model_is_refused(tmp_path):
    """One that has not finished, and one of another kind."""
    recipe, store = small(), str(tmp_path / "store")
    begin_run(recipe, store)

    with pytest.raises(ConfigurationError, match="has not finished.*mgd resume"):
        export_model(store, run_name(recipe), tmp_path / "net.pt", trusted=True)
    other = load_recipe("digits-attribution")
    begin_run(other, store)
    with pytest.raises(ConfigurationError, match="of kind attribution.*kind descent"):
        export_model(store, run_name(other.descent), tmp_path / "net.pt", trusted=True)


@pytest.mark.slow
def test_a_state_that_was_cleaned_away_is_told_with_the_way_back(tmp_path):
    """``mgd clean --intermediate`` keeps the chosen training only."""
    recipe, store = small("preflight=advise"), str(tmp_path / "store")
    record = finish(recipe, store)
    gone = next(n for n in range(3) if n != record.chosen)
    commits.discard(store, record.iterates[gone].final)

    with pytest.raises(CheckpointMissingError, match="not in the store any more.*mgd resume"):
        export_model(store, record.run, tmp_path / "net.pt", gone, trusted=False)
    export_model(store, record.run, tmp_path / "net.pt", trusted=False)
    assert stat.S_ISREG((tmp_path / "net.pt").stat().st_mode)


def test_the_command_says_what_it_wrote(own, tmp_path):
    """And ends with one message where it could not."""
    _, store, record = own
    file = str(tmp_path / "net.safetensors")
    arguments = ["export", record.run[:8], file, "--store", store, "--trust-store"]

    first, again = (CliRunner().invoke(app, arguments) for _ in range(2))

    assert first.exit_code == 0, first.output
    assert "on the test split" in first.output
    assert again.exit_code == 2
    assert "there already" in again.output


class Holding(nn.Module):
    """Holds one tensor."""

    def __init__(self, tensor):
        super().__init__()
        self.register_buffer("held", tensor)


def exported(tmp_path, tensor, ending):
    """Write the state of a module as an export does, and return the file."""
    path = tmp_path / f"model{ending}"
    path.write_bytes(export._as_bytes(path, export._tensors(Holding(tensor)), {}))
    return path


@pytest.mark.parametrize("ending", export.ENDINGS)
@pytest.mark.parametrize("part", [torch.Tensor.conj, lambda x: x.conj().imag], ids=["all", "imag"])
def test_a_conjugate_is_written_as_the_numbers_that_it_stands_for(tmp_path, part, ending):
    """By itself a file of safetensors has the bits that it is a note on, without a word."""
    tensor = part(torch.complex(torch.arange(3.0), torch.ones(3)))
    path = exported(tmp_path, tensor, ending)

    found = load_file(path) if ending == ".safetensors" else torch.load(path, weights_only=True)

    assert torch.equal(found["held"], tensor)


@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta")
@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.ones(3, dtype=torch.complex128), "torch.complex128"),
        (torch.eye(3).to_sparse(), "torch.sparse_coo of torch.float32"),
        (torch.eye(3).to_sparse_csr(), "torch.sparse_csr of torch.float32"),
    ],
    ids=["complex128", "coo", "csr"],
)
def test_what_safetensors_cannot_hold_is_refused_and_a_pt_holds_it(tmp_path, tensor, words):
    """Complex parameters in float64 were a KeyError."""
    with pytest.raises(ConfigurationError, match=rf"\({words}\). Name a file that ends in .pt"):
        exported(tmp_path, tensor, ".safetensors")

    found = torch.load(exported(tmp_path, tensor, ".pt"), weights_only=True)["held"]
    assert torch.equal(found.to_dense(), tensor.to_dense())
