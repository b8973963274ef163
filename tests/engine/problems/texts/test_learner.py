"""Language models of one's own for texts, instructions and texts of a data set."""

import json

import pytest
import torch

import engine
from engine.errors import ConfigurationError, EngineError
from engine.problems.built import build_problem
from engine.recipes.files import validate_recipe
from tests.helpers.data.language import TINY, small_texts
from tests.helpers.runs.finished import finish

NET = '''
import torch
from torch import nn


class Net(nn.Module):
    """A causal convolution: each token knows itself and two before it."""

    def __init__(self, vocabulary, num_inputs, width=6):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(0.1 * torch.randn(num_inputs, width))
        self.mix = nn.Conv1d(width, width, 3)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens):
        hidden = self.embed(tokens) + self.places
        return self.head(self.mixed(hidden))

    def mixed(self, hidden):
        padded = nn.functional.pad(hidden.transpose(1, 2), (2, 0))
        return nn.functional.gelu(self.mix(padded)).transpose(1, 2)


class Shifted(Net):
    def get_input_embeddings(self):
        return self.embed

    def forward(self, tokens, shifts=None):
        hidden = self.embed(tokens) + self.places
        return self.head(self.mixed(hidden if shifts is None else hidden + shifts))


class Last(Net):
    def forward(self, tokens):
        return super().forward(tokens)[:, -1]
'''


@pytest.fixture
def code(tmp_path):
    """A folder with models of one's own."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "nets.py").write_text(NET)
    return folder


def recipe(code, folder, model="nets.py:Net", arguments=None, **changes):
    own = small_texts(folder) | {"vocabulary": 300, "model": model} | (arguments or {})
    content = TINY | {"arguments": own, "folder": str(code)} | changes
    return validate_recipe(content, "the test")


WEIGHTS = {"metaparameters": {"name": "weights"}, "outer": {"update": "sign"}}


def slope(built, name):
    """Compare the metagradient with central differences of the whole run."""
    metagradient = engine.metagradient(built.routine, built.output)[name]
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(metagradient.shape, dtype=torch.float64, generator=generator)
    measured = engine.central_difference(built.routine, built.output, {name: direction})
    assert float((metagradient * direction).sum()) == pytest.approx(measured, rel=1e-5)


def test_model_of_ones_own_learns_texts(code, tmp_path):
    """Its metagradient is the derivative of its run, and its loss that of a plain loop."""
    built = build_problem(recipe(code, tmp_path, **WEIGHTS))

    net = built.routine.model
    assert type(net).__name__ == "Net"
    vocabulary, positions = net.embed.num_embeddings, len(net.places)
    assert (vocabulary, positions) == (
        built.data.num_classes,
        built.held_out["test"].inputs.shape[1],
    )
    examples = built.held_out["objective"]
    losses = []
    for tokens, labels in zip(examples.inputs, examples.labels, strict=True):
        counted = [place for place, label in enumerate(labels.tolist()) if label >= 0]
        spoken = net(tokens[None])[0].log_softmax(1)
        losses.append(-sum(spoken[place, labels[place]] for place in counted) / len(counted))
    score = built.scores(built.routine.initial_state())["objective"]["loss"]
    assert score == pytest.approx(float(sum(losses) / len(losses)), rel=1e-9)
    slope(built, "weights")


def test_model_that_says_how_has_its_embedded_tokens_moved(code, tmp_path):
    """A model that does not is told what it lacks; nothing is moved that nobody reads."""
    inputs = {"metaparameters": {"name": "inputs", "fraction": 0.3}, "outer": {"update": "sign"}}

    built = build_problem(recipe(code, tmp_path, "nets.py:Shifted", **inputs))

    slope(built, "inputs")
    with pytest.raises(
        ConfigurationError, match=r"nets\.py:Net, which does not say how. Give it a"
    ):
        build_problem(recipe(code, tmp_path, **inputs))


REFUSED = {
    "adapters": (
        {"language": {"lora_rank": 4}},
        r"arguments\.language\.lora_rank is 4, but arguments\.model is nets\.py:Net, a model of",
    ),
    "weights": ({"language": {"pretrained": "gpt2"}}, r"language\.pretrained is gpt2, but"),
    "architecture": ({"language": {"architecture": "llama"}}, "architecture is llama, but"),
    "no such class": ({"model": "nets.py:Nut"}, "Nut"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_settings_of_other_models_are_refused(case, code, tmp_path):
    """What nothing reads would be reported as if it had been done."""
    arguments, words = REFUSED[case]

    with pytest.raises(ConfigurationError, match=words):
        build_problem(recipe(code, tmp_path, arguments=arguments, **WEIGHTS))


def test_model_that_returns_something_else_is_one_message(code, tmp_path):
    """The logits of the last token alone are those of a classifier."""
    built = build_problem(recipe(code, tmp_path, "nets.py:Last", **WEIGHTS))

    with pytest.raises(EngineError):
        engine.metagradient(built.routine, built.output)


@pytest.mark.slow
def test_descent_with_a_model_of_ones_own_runs_from_the_recipe_alone(code, tmp_path):
    """From the preflight to the report, which has the shares of the sources."""
    record = finish(recipe(code, tmp_path, preflight="advise"), str(tmp_path / "store"))

    assert (tmp_path / "store" / "runs" / record.run / "report.html").exists()
    assert [share.name for share in record.sources] == ["sums", "words"]


def test_instructions_have_models_and_groups_of_ones_own(code, tmp_path):
    """The field of a row says what has a weight; source is what reports call a corpus."""
    rows = [
        {"instruction": f"Add {n} and 2", "output": str(n + 2), "source": "ab"[n % 2],
         "skill": ["sum", None][n % 3 == 0]}
        for n in range(24)
    ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = {"url": str(tmp_path / "rows.jsonl"), "model": "nets.py:Net", "vocabulary": 300}

    def built(group, groups):
        content = TINY | {
            **{"problem": "instructions", "folder": str(code)},
            **{"arguments": arguments | {"groups": groups}, "outer": {"update": "sign"}},
            "metaparameters": {"name": "group-weights", "groups": group},
        }
        return build_problem(validate_recipe(content, "the test"))

    skills, sources = built("skill", ["skill"]), built("source", ["source", "skill"])

    names = [int(name.split()[1]) - 1 for name in skills.data.names]
    assert list(skills.data.groups["skill"]) == [["sum", "missing"][n % 3 == 0] for n in names]
    assert any("not read: source (24 rows)" in note for note in skills.notes)
    slope(skills, "group_weights")
    assert sources.data.texts.sources == ("a", "b")
    assert sources.kind.value.shape == (2,)
    assert not any("not read" in note for note in sources.notes)
    with pytest.raises(EngineError, match="has 'town', but no row of .* has a field of that name"):
        built("town", ["town"])


@pytest.mark.slow
def test_texts_of_a_data_set_have_a_model_of_ones_own(code, tmp_path, monkeypatch):
    """The same contract, whoever has saved the texts."""
    datasets = pytest.importorskip("datasets", reason="needs the extra datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = {
        "text": [f"film {n} was long" for n in range(24)],
        "mood": ["sad", "glad"] * 12,
        "site": ["Ulm", "Bonn", "Kiel"] * 8,
    }
    datasets.Dataset.from_dict(rows).to_json(str(tmp_path / "rows.jsonl"))
    arguments = {
        **{"source": str(tmp_path / "rows.jsonl"), "inputs": ["text"], "label": "mood"},
        **{"model": "nets.py:Net", "vocabulary": 300, "groups": ["site"]},
    }
    content = TINY | {
        **{"problem": "hf_dataset", "folder": str(code), "arguments": arguments},
        **{"metaparameters": {"name": "group-weights", "groups": "site"}},
        "outer": {"update": "sign"},
    }

    built = build_problem(validate_recipe(content, "the test"))

    assert type(built.routine.model).__name__ == "Net"
    assert set(built.data.groups) == {"site", "mood"}
    slope(built, "group_weights")
