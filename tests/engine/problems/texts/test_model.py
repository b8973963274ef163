"""Metagradients through models of transformers, full and with adapters, against two oracles."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch.nn.functional import log_softmax

from engine import central_difference, metagradient, whole_run_gradient
from engine.errors import ConfigurationError, DataError
from engine.models.losses import IGNORED, per_example_cross_entropy
from engine.problems.built import build_problem
from engine.problems.identity.names import CONFIGURATION
from engine.problems.texts.model import _pretrained
from engine.problems.texts.packages import extra
from engine.problems.texts.tokens import pretrained_tokenizer
from engine.recipes.arguments.model import ModelSettings
from engine.replay.refusals.first_step import check_routine
from engine.stages.run import Run
from engine.stages.training import initial_value
from tests.helpers.data.language import TINY, tiny_problem, tiny_recipe

ADAPTERS = {"lora_rank": 2, "lora_alpha": 4.0}

MODELS = {
    "gpt2": {},
    "llama": {"architecture": "llama"},
    "gpt2 with adapters": ADAPTERS,
    "llama with adapters": ADAPTERS
    | {"architecture": "llama", "lora_targets": ["q_proj", "down_proj"]},
}


@pytest.fixture
def pretrained(tmp_path):
    """A folder that save_pretrained has filled: a tiny Llama and a tokenizer trained on English."""
    import tokenizers
    import transformers

    inner = tokenizers.ByteLevelBPETokenizer()
    inner.train_from_iterator(["one two three say the word"] * 9, vocab_size=280)
    config = transformers.LlamaConfig(
        vocab_size=300, hidden_size=8, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=30, attention_dropout=0.1,
    )  # fmt: skip
    folder = str(tmp_path / "pretrained")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner._tokenizer, eos_token="!", bos_token="!"
    ).save_pretrained(folder)
    return folder


EDITS = {
    "epsilon of the norms": {"rms_norm_eps": 0.1},
    "activation": {"hidden_act": "gelu"},
    "base of the positions": {"rope_parameters": {"rope_theta": 10.0, "rope_type": "default"}},
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_edited_configuration_beside_the_same_weights_is_another_run(tmp_path, pretrained, edit):
    """The parameters are the same to the bit, and the losses are others."""
    recipe = instruction_recipe(tmp_path, pretrained)
    one = build_problem(recipe, anew=True)
    path = Path(pretrained) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | edit))
    other = build_problem(recipe, anew=True)

    state = one.routine.initial_state()
    assert one.scores(state) != other.scores(state)  # or the test would say nothing
    assert one.origin != other.origin
    assert one.digests[CONFIGURATION] != other.digests[CONFIGURATION]


def test_a_model_that_was_moved_is_the_same(tmp_path, pretrained):
    """Where it lies is in the recipe; a worker may have it elsewhere."""
    copied = shutil.copytree(pretrained, tmp_path / "elsewhere")
    places = (pretrained, str(copied))
    digests = [build_problem(instruction_recipe(tmp_path, each)).digests for each in places]

    assert digests[0] == digests[1]


def instruction_recipe(folder, pretrained, **language):
    own = {
        "model": {"name": "transformers"},
        "language": {"pretrained": pretrained, **ADAPTERS, **language},
    }
    return tiny_recipe(folder, own)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["counts", "weights"])
@pytest.mark.parametrize("language", MODELS.values(), ids=MODELS)
def test_metagradient_equals_both_oracles(tmp_path, language, kind):
    """Autograd through the whole run to rounding, and a central difference to its error."""
    kinds = {"name": "counts", "injection_step": 2} if kind == "counts" else {"name": "weights"}
    changes = {"metaparameters": kinds, "outer": {"update": "sign"}}
    problem = tiny_problem(tmp_path, {"language": language}, **changes)
    routine, output = problem.routine, problem.output

    found = metagradient(routine, output, schedule="k-ary", arity=2)[kind]

    expected = whole_run_gradient(routine, output)[1][kind]
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(found.shape, generator=generator, dtype=found.dtype)
    measured = central_difference(routine, output, {kind: direction}, step_size=1e-5)
    assert float((found - expected).norm() / expected.norm()) < 1e-11
    assert float(found @ direction) == pytest.approx(measured, rel=1e-6)
    assert (found != 0).all()


@pytest.mark.slow
def test_only_adapters_are_trained(tmp_path):
    """Then a state is as small as they are, and every one of them moves."""
    full, few = (
        build_problem(tiny_recipe(tmp_path, {"language": language})).routine
        for language in ({}, ADAPTERS)
    )

    assert all("lora_" in name for name in few.trainable)
    assert len(few.trainable) == 2 * 4  # two for each of a block's linear layers
    assert len(few.initial_state()["params"]) < len(full.initial_state()["params"]) / 4


def test_tied_weights_are_one_parameter(tmp_path):
    """Embedding and output share their numbers, so both uses are in one gradient."""
    routine = build_problem(tiny_recipe(tmp_path)).routine
    names = [name for name in routine.trainable if "wte" in name or "lm_head" in name]
    params = routine.initial_state()["params"]

    moved = routine.layout.views(params)
    logits = routine.call(lambda model: model(routine.examples[0][:1]), params, training=False)
    halved = routine.call(
        lambda model: model(routine.examples[0][:1]),
        {**moved, names[0]: moved[names[0]] * 2},
        training=False,
    )

    assert len(names) == 1
    assert not torch.allclose(halved, logits)
    assert not torch.allclose(halved, 2 * logits)


def test_loss_is_the_mean_over_the_completion_of_each_example(tmp_path):
    """Written out with a loop and a softmax: long completions weigh as much as short ones."""
    problem = build_problem(tiny_recipe(tmp_path))
    inputs, labels = problem.routine.examples
    params = problem.routine.initial_state()["params"]

    logits = problem.routine.call(lambda model: model(inputs), params, training=False)
    losses = problem.routine.call(
        lambda model: per_example_cross_entropy(model, (inputs, labels)), params, training=False
    )

    for row, found in enumerate(losses):
        places = [place for place, label in enumerate(labels[row]) if label != IGNORED]
        each = [-log_softmax(logits[row, place], 0)[labels[row, place]] for place in places]
        assert float(found) == pytest.approx(float(sum(each) / len(each)), rel=1e-12)
    assert len({int((row != IGNORED).sum()) for row in labels}) > 1


def test_prompts_are_context_and_not_learned(tmp_path):
    """Another label inside a prompt changes nothing; another token of it changes the loss."""
    problem = build_problem(tiny_recipe(tmp_path))
    inputs, labels = (column.clone() for column in problem.routine.examples)
    row = int((labels[:, 1] == IGNORED).nonzero()[0])
    other = inputs.clone()
    other[row, 1] = (other[row, 1] + 1) % 200

    scores = [problem.routine.evaluate(
        lambda model, x=x: per_example_cross_entropy(model, (x, labels)),
        problem.routine.initial_state(),
    ) for x in (inputs, other)]  # fmt: skip

    changed = (scores[0] != scores[1]).nonzero().flatten().tolist()
    assert labels[row, 0] == IGNORED
    assert changed == [row]


@pytest.mark.slow
def test_a_pretrained_folder_is_trained_by_adapters(tmp_path, pretrained):
    """The recipe for instruction tuning, on a tiny model, passes every check of a first step."""
    problem = build_problem(instruction_recipe(tmp_path, pretrained))
    routine = problem.routine
    network = routine.model.network

    check_routine(routine, [problem.output], routine.point())
    found = metagradient(routine, problem.output)["counts"]

    dropouts = [m.attention_dropout for m in network.modules() if hasattr(m, "attention_dropout")]
    assert set(dropouts) == {0.0}  # model.dropout decides, not the folder
    assert found.isfinite().all()
    assert (found != 0).any()


@pytest.mark.slow
def test_key_of_a_stage_knows_pretrained_weights(tmp_path, pretrained):
    """With adapters the base is in no state, so its bits must be in the key."""
    import transformers

    recipe = instruction_recipe(tmp_path, pretrained)
    before = initial_value.key(Run(recipe, ""))
    model = transformers.AutoModelForCausalLM.from_pretrained(pretrained)
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1e-3
    model.save_pretrained(pretrained)
    from engine.problems import built

    built._build.cache_clear()

    assert initial_value.key(Run(recipe, "")) != before


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ({"pretrained": "/nowhere/at/all"}, "arguments.language.pretrained is /nowhere/at/all"),
        ({"lora_targets": ["q_prj"]}, "q_prj.*down_proj, gate_proj"),
    ],
)
def test_impossible_models_are_refused(tmp_path, pretrained, language, words):
    """One message with the value, the reason and what would be right."""
    with pytest.raises((ConfigurationError, DataError), match=words):
        build_problem(instruction_recipe(tmp_path, **({"pretrained": pretrained} | language)))


def test_texts_longer_than_a_pretrained_model_knows_are_refused(tmp_path, pretrained):
    """Positions outside the table would be an index error deep inside the model."""
    recipe = instruction_recipe(tmp_path, pretrained)
    long = "word " * 90
    (tmp_path / "long.txt").write_text(f"{long}\n{long}two\n" * 6 + "more\nof\nthese\nlines\n" * 3)
    changed = recipe.arguments | {"num_train": 24, "max_tokens": 60}
    changed["sources"] = [*changed["sources"], str(tmp_path / "long.txt")]

    with pytest.raises(ConfigurationError, match=r"knows 30 positions.*arguments.max_tokens to 31"):
        build_problem(recipe.model_copy(update={"arguments": changed}))


def test_a_missing_package_is_refused_with_the_command(tmp_path, monkeypatch):
    """Language models are an extra, and one line says how to get it."""
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)

    with pytest.raises(ConfigurationError, match=r"pip install .*'\.\[lm\]'"):
        build_problem(tiny_recipe(tmp_path, training=TINY["training"] | {"seed": 77}))


def test_code_of_a_model_is_neither_run_nor_asked_about(tmp_path, monkeypatch):
    """A folder may bring code of its own, and the library would ask whoever sits there."""
    folder, ran = tmp_path / "model", tmp_path / "ran"
    folder.mkdir()
    settings = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", None]}})
    )
    (folder / "mine.py").write_text(f"open({str(ran)!r}, 'w')\nclass Mine: pass\n")
    monkeypatch.setattr("builtins.input", lambda *words: pytest.fail("somebody is asked"))

    with pytest.raises(DataError, match="no tokenizer can be read"):
        pretrained_tokenizer(str(folder))
    with pytest.raises(ConfigurationError, match="no causal language model can be read"):
        _pretrained(extra("transformers"), ModelSettings(name="transformers"), str(folder), 8)

    assert not ran.exists()
