"""Folders of pretrained models as somebody else packs them: nothing outside, nothing endless."""

import json
import os
import shutil
import socket

import pytest

from engine.errors import EngineError
from engine.problems.texts.pretrained_files import MOST_LAYERS
from engine.problems.texts.tokens import pretrained_tokenizer
from tests.helpers.data.language import build_pretrained
from tests.helpers.machine.needs import needs

needs("transformers", "language models need the extra lm")


@pytest.fixture
def folder(tmp_path):
    """A tiny pretrained model with its tokenizer."""
    import tokenizers
    import transformers

    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<s>": 0, "a": 1, "b": 2}, "<s>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    path = tmp_path / "model"
    config = transformers.GPT2Config(vocab_size=3, n_positions=8, n_embd=4, n_layer=1, n_head=1)
    transformers.GPT2LMHeadModel(config).save_pretrained(path)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="<s>", unk_token="<s>"
    ).save_pretrained(path)
    return path


def write_index(folder, weights):
    """Say in an index that every weight is in one file."""
    import safetensors.torch as safetensors

    names = safetensors.load_file(folder / "weights.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, weights)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_an_index_names_files_of_its_own_folder_alone(folder, tmp_path):
    """Another folder's weights were read in place of the model's, wherever they lay."""
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    write_index(folder, "weights.safetensors")
    assert build_pretrained(folder) is not None
    shutil.copy(folder / "weights.safetensors", tmp_path / "private.safetensors")

    for named in ("../private.safetensors", str(tmp_path / "private.safetensors"), "..", 3):
        write_index(folder, named)
        with pytest.raises(EngineError, match=r"index\.json names .*, no file of its folder"):
            build_pretrained(folder)


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": {}}}'])
def test_an_index_that_is_none_is_refused_in_one_message(folder, index):
    """Documents of others may be anything."""
    (folder / "model.safetensors.index.json").write_text(index)

    with pytest.raises(EngineError, match="its index of weights is none"):
        build_pretrained(folder)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_file_without_an_end_is_not_read(folder, name):
    """A pipe is waited for, and a device read until the memory is full."""
    (folder / name).unlink()
    os.mkfifo(folder / name)

    for read in (build_pretrained, lambda path: pretrained_tokenizer(str(path))):
        with pytest.raises(EngineError, match=rf"{name} is no regular file"):
            read(folder)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", [MOST_LAYERS + 1, 4000, 10**12])
def test_layers_that_nobody_has_trained_are_not_made(folder, number):
    """All of them were made before a weight was read: 49 s for 4,000."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"n_layer": number}))

    with pytest.raises(EngineError, match=f"says n_layer={number}, and at most {MOST_LAYERS}"):
        build_pretrained(folder)


def test_layers_of_a_part_of_a_model_are_counted_too():
    """Models of several parts nest the settings of each."""
    import transformers

    from engine.problems.texts.pretrained_files import refuse_depth

    for wrong in ({"num_hidden_layers": 4000}, {"vision_config": {"num_hidden_layers": 4000}}):
        with pytest.raises(ValueError, match="num_hidden_layers=4000"):
            refuse_depth(transformers.PretrainedConfig(**wrong))
    # Sizes of what each layer has are no numbers of layers.
    refuse_depth(transformers.PretrainedConfig(vocab_size_per_layer_input=262144, n_layer=126))


def test_a_tokenizer_that_panics_is_told_in_one_message(folder):
    """A panic of Rust's is no Exception of Python's, and ended the process with a traceback."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    pattern = {"type": "Split", "pattern": {"Regex": "(a|aa)+$"}, "behavior": "Isolated"}
    path.write_text(json.dumps(tokenizer | {"pre_tokenizer": pattern | {"invert": False}}))
    known = pretrained_tokenizer(str(folder))

    with pytest.raises(EngineError, match=r"cannot cut the text that begins 'aaaa.*Regex search"):
        known.encode("a" * 40 + "b")


def test_an_adapter_asks_nobody_for_its_base(folder, monkeypatch):
    """Its settings name a model of the hub, which whoever reads the folder would ask for."""

    def refuse(*asked, **_):
        raise AssertionError(f"{asked} was asked for")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "nobody/base", "r": 2}
    adapter |= {"lora_alpha": 2, "target_modules": ["c_attn"], "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))

    for gone in (None, "model.safetensors", "config.json"):
        if gone is not None:
            (folder / gone).unlink()
        with pytest.raises(EngineError, match=r"no causal language model can be read"):
            build_pretrained(folder)
