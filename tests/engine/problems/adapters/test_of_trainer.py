"""Trainers of transformers as problems: each step is that of the real Trainer's own loop."""

import pytest
import torch
from torch import nn

import engine
from engine.errors import ConfigurationError
from engine.problems.built import build_problem, check_repeats
from engine.recipes.files import validate_recipe
from tests.engine.problems.adapters.states import by_the_start, difference, moved, states_of
from tests.engine.problems.adapters.trainer_runs import (
    SETTINGS,
    bart,
    bert,
    bert_of,
    gpt2,
    kind,
    llama,
    masked,
    padded,
    rows,
    t5,
    trainer_of,
)

pytestmark = pytest.mark.usefixtures("trainers")

CASES = {
    "bert": (bert, kind, {}),
    "bert, smoothed, accumulated": (
        bert, kind, {"label_smoothing_factor": 0.1, "gradient_accumulation_steps": 2},
    ),
    "bert, linear, no warm-up, no clipping": (
        bert, kind, {"lr_scheduler_type": "linear", "warmup_steps": 0, "max_grad_norm": 0},
    ),
    "bert, sgd, few steps": (bert, kind, {"optim": "sgd", "max_steps": 7, "learning_rate": 0.1}),
    "gpt2": (gpt2, None, {}),
    "gpt2, accumulated": (gpt2, None, {"gradient_accumulation_steps": 3}),
    "gpt2, smoothed": (gpt2, None, {"label_smoothing_factor": 0.2}),
    "gpt2, checkpointed": (gpt2, None, {"gradient_checkpointing": True, "max_steps": 3}),
    "bert, means added up, sgd": (
        bert, kind, {"gradient_accumulation_steps": 3, "optim": "sgd", "learning_rate": 0.1},
    ),
    "sequential": (bert, kind, {"train_sampling_strategy": "sequential"}),
    "two rates, polynomial": (
        bert, kind, {"base": "Groups", "lr_scheduler_type": "polynomial", "warmup_steps": 0,
                     "lr_scheduler_kwargs": {"lr_end": 1e-3, "power": 2.0}},
    ),
    "loader of one's own, shuffled": (bert, kind, {"base": "OwnLoader"}),
    "sampler of one's own": (bert, kind, {"base": "OwnSampler", "num_train_epochs": 2}),
    "means of batches, accumulated": (
        bert, kind, {"base": "Mean", "gradient_accumulation_steps": 2, "optim": "sgd",
                     "learning_rate": 0.1},
    ),
}  # fmt: skip


def without_embeddings():
    model = bert()
    for each in model.bert.embeddings.parameters():
        each.requires_grad_(False)
    return model


SGD = {"optim": "sgd", "learning_rate": 0.1}  # which sees a factor on the loss; Adam hardly does

EXACT = {
    "masked": (lambda: bert_of("BertForMaskedLM"), masked, {}),
    "masked, smoothed, accumulated": (
        lambda: bert_of("BertForMaskedLM"), masked,
        {"gradient_accumulation_steps": 2, "label_smoothing_factor": 0.1, **SGD},
    ),
    "tokens": (lambda: bert_of("BertForTokenClassification"), lambda t: [x % 3 for x in t], {}),
    "llama with tied embeddings": (llama, None, {"lr_scheduler_type": "linear"}),
    "llama, accumulated": (llama, None, {"gradient_accumulation_steps": 3, **SGD}),
    "t5": (t5, None, {"base": "Seq2Seq"}),
    "bart": (bart, None, {"base": "Seq2Seq", **SGD}),
    "frozen embeddings": (without_embeddings, kind, {}),
    "inverse square root": (bert, kind, {"lr_scheduler_type": "inverse_sqrt"}),
    "polynomial": (bert, kind, {"lr_scheduler_type": "polynomial"}),
    "short last batch left out": (
        bert, kind, {"per_device_train_batch_size": 5, "dataloader_drop_last": True},
    ),
    "rmsprop with restarts": (
        bert, kind, {"lr_scheduler_type": "cosine_with_restarts", "optim": "rmsprop"},
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", EXACT)
def test_steps_agree_in_float64_with_the_trainers_own(case, tmp_path, trainers):
    """As strangers write them; what is left is what transformers computes in float32."""
    make, labels, changes = EXACT[case]
    base = getattr(trainers, changes.get("base", ""), None)
    changes = {"num_train_epochs": 2} | changes | {"base": base}
    trainer = trainer_of(tmp_path, make().double(), labels, **changes)
    found = states_of(engine.from_trainer(trainer, eps_root=0.0))
    path = trainers.Path()
    trainer.add_callback(path)

    trainer.train()

    assert len(found) == len(path.states)
    for mine, own in zip(found, path.states, strict=True):
        for name, tensor in mine.items():
            torch.testing.assert_close(tensor, own[name], rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_steps_are_those_of_the_trainers_own_loop(case, tmp_path, trainers):
    """Order, padding, token counts, groups of decay, rates, clipping and accumulation at once."""
    make, labels, changes = CASES[case]
    base = getattr(trainers, changes.get("base", ""), None)
    trainer = trainer_of(tmp_path, make(), labels, **(changes | {"base": base}))
    problem = engine.from_trainer(trainer, eps_root=0.0)
    found = states_of(problem)

    path = trainers.Path()
    trainer.add_callback(path)
    trainer.train()

    assert len(found) == len(path.states) == problem.num_steps
    start = dict(make().named_parameters())
    moved = max(float((path.states[-1][n] - p.detach()).abs().max()) for n, p in start.items())
    for step, (mine, own) in enumerate(zip(found, path.states, strict=True)):
        for name, tensor in mine.items():
            error = float((tensor - own[name]).abs().max())
            assert error < 2e-4 * moved, (step, name, error, moved)


def test_batches_are_those_of_a_loader_of_ones_own(tmp_path, trainers):
    """``get_train_dataloader`` is what people override; the arguments say another size then."""
    import transformers

    class Own(transformers.Trainer):
        def get_train_dataloader(self):
            from torch.utils.data import DataLoader

            return DataLoader(self.train_dataset, batch_size=3, collate_fn=self.data_collator)

    trainer = trainer_of(tmp_path, bert(), kind, base=Own, num_train_epochs=1)
    problem = engine.from_trainer(trainer, eps_root=0.0)
    found, path = states_of(problem), trainers.Path()

    trainer.add_callback(path)
    trainer.train()

    assert (problem.batch_size, problem.num_steps, len(path.states)) == (3, 8, 8)
    for name, own in path.states[-1].items():
        torch.testing.assert_close(found[-1][name], own, rtol=1e-3, atol=1e-6)


def test_layers_in_evaluation_mode_are_trained(tmp_path):
    """As by a Trainer, which puts every layer into training mode in each step."""
    model = bert()
    model.bert.encoder.eval()

    problem = engine.from_trainer(trainer_of(tmp_path, model, kind))

    assert all(each.training for each in problem.model.modules())
    assert not model.bert.encoder.training


def test_model_that_is_made_when_training_begins(tmp_path, trainers):
    """Under the Trainer's seed, whatever stood in between; its order then follows from that."""
    import transformers

    args = transformers.TrainingArguments(output_dir=str(tmp_path), **SETTINGS)
    config = bert().config
    trainer = transformers.Trainer(
        model_init=lambda: transformers.BertForSequenceClassification(config),
        args=args, train_dataset=rows(24, 0, labels=kind), eval_dataset=rows(12, 1, labels=kind),
        data_collator=padded,
    )  # fmt: skip
    torch.manual_seed(99)
    before, own = trainer.model, torch.get_rng_state()
    found = states_of(engine.from_trainer(trainer, eps_root=0.0))
    assert trainer.model is before
    assert torch.equal(torch.get_rng_state(), own)
    path = trainers.Path()
    trainer.add_callback(path)

    trainer.train()

    for name, tensor in found[-1].items():
        torch.testing.assert_close(tensor, path.states[-1][name], rtol=0, atol=2e-5)


def test_the_trainer_stays_as_it_is(tmp_path):
    """It may train afterwards; nothing that was made for the reading is kept in it."""
    trainer = trainer_of(tmp_path, bert(), kind)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    problem = engine.from_trainer(trainer)
    states_of(problem)

    assert trainer.optimizer is None
    assert trainer.lr_scheduler is None
    assert all(torch.equal(p, before[n]) for n, p in trainer.model.named_parameters())


@pytest.mark.slow
def test_metagradient_is_the_central_difference_of_the_trainers_own_loop(tmp_path):
    """In float64, by the start of the parameters, which needs no change of the Trainer.

    Padding, groups, clipping and rates take part. The losses of causal models are in float32.
    """
    changes = {"max_steps": 5, "adam_epsilon": 1e-3, "warmup_steps": 1, "learning_rate": 0.02}
    trainer = trainer_of(tmp_path, bert().double(), kind, **changes)
    problem = engine.from_trainer(trainer, eps_root=0.0)
    found, directions = by_the_start(problem)

    def loop(shift):
        own = trainer_of(tmp_path, moved(bert().double(), shift), kind, **changes)
        own.train()
        with torch.no_grad():
            each = [own.model.eval()(**padded([row])).loss for row in own.eval_dataset]
            return float(torch.stack(each).mean())

    for slope, direction in zip(found, directions, strict=True):
        assert slope == pytest.approx(difference(loop, direction), rel=1e-6)


def test_batches_of_two_sizes_have_no_order(tmp_path):
    """All batches have one size here, so the short one at the end of a pass is said."""
    trainer = trainer_of(tmp_path, bert(), kind, number=22)
    problem = engine.from_trainer(trainer)

    assert problem.order is None
    assert problem.num_steps == 18
    assert "2 examples where the others have 4" in problem.not_carried[0]
    kept = trainer_of(tmp_path, bert(), kind, number=22, dataloader_drop_last=True)
    assert len(engine.from_trainer(kept).order) == 15


def doubled(model, batch):
    inputs = {name: column for name, column in batch.items() if name != "labels"}
    logits = model(**inputs).logits
    return 2 * nn.functional.cross_entropy(logits, batch["labels"], reduction="none")


@pytest.mark.slow
def test_own_loss_of_a_trainer_is_taken_by_example(tmp_path, trainers):
    """Without it the Trainer is refused; with it its steps are those of the Trainer."""
    trainer = trainer_of(tmp_path, bert(), kind, base=trainers.OwnLoss)
    with pytest.raises(ConfigurationError, match="compute_loss of its own.*Hand in loss="):
        engine.from_trainer(trainer)
    found = states_of(engine.from_trainer(trainer, loss=doubled, eps_root=0.0))

    path = trainers.Path()
    trainer.add_callback(path)
    trainer.train()

    name = "classifier.weight"
    torch.testing.assert_close(found[-1][name], path.states[-1][name], rtol=1e-3, atol=2e-5)


@pytest.mark.slow
def test_sentences_that_are_told_apart_in_their_batch(tmp_path, trainers):
    """The loss of one depends on the others; torch skips the layers that it leaves out."""
    changes = {"base": trainers.InBatch, **SGD}
    trainer = trainer_of(tmp_path, bert().double(), None, **changes)
    with pytest.raises(ConfigurationError, match="compute_loss of its own.*Hand in loss="):
        engine.from_trainer(trainer)
    problem = engine.from_trainer(trainer, loss=trainers.told_apart)
    found, path = states_of(problem, skip_idle=True), trainers.Path()

    trainer.add_callback(path)
    trainer.train()

    assert not [each for each in problem.not_carried if "own loss" in each]
    for mine, own in zip(found, path.states, strict=True):
        for name, tensor in mine.items():
            torch.testing.assert_close(tensor, own[name], rtol=0, atol=1e-9)


FILE = '''
import engine
import torch
import transformers


def collate(samples):
    return {name: torch.tensor([each[name] for each in samples]) for name in samples[0]}


def made(steps: int = 5) -> engine.Problem:
    """A Trainer as a problem.

    Args:
        steps: Of the Trainer.
    """
    drawn = torch.Generator().manual_seed(0)
    rows = torch.randint(1, 20, (32, 6), generator=drawn).tolist()
    samples = [{"input_ids": row, "labels": sum(row) % 3} for row in rows]
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, max_position_embeddings=8, num_labels=3, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    args = transformers.TrainingArguments(
        output_dir="out", max_steps=steps, per_device_train_batch_size=4, report_to=[],
        use_cpu=True, learning_rate=0.01, seed=3,
    )
    trainer = transformers.Trainer(
        model=transformers.BertForSequenceClassification(config), args=args,
        train_dataset=samples[:20], eval_dataset=samples[20:], data_collator=collate,
    )
    return engine.from_trainer(trainer)
'''


def test_problem_file_may_return_a_trainer(tmp_path, monkeypatch):
    """The pipeline's run has the Trainer's optimizer, rates and order, and says what it lacks."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FILE)
    content = {
        "name": "mine",
        "problem": "mine.py:made",
        "folder": str(tmp_path),
        "training": {"num_steps": 5, "batch_size": 4, "seed": 3, "threads": 1},
        "metaparameters": {"name": "weights"},
        "outer": {"update": "sign"},
    }
    recipe = validate_recipe(content, "the test")

    built = build_problem(recipe)
    check_repeats(recipe)

    assert built.routine.optimizer.name == "adamw"
    assert built.routine.learning_rate == pytest.approx([0.01 * (5 - t) / 5 for t in range(5)])
    assert set(built.scores(built.routine.initial_state())["test"]) == {"loss", "hits"}
    assert any("num_steps: 5, batch_size: 4, seed: 3" in note for note in built.notes)
    assert {name: len(each) for name, each in built.held_out.items()} == {
        "objective": 6, "validation": 3, "test": 3,
    }  # fmt: skip


def resnet():
    import transformers

    config = transformers.ResNetConfig(
        num_channels=1, embedding_size=4, hidden_sizes=[4, 6], depths=[1, 1], layer_type="basic",
        num_labels=3,
    )  # fmt: skip
    return transformers.ResNetForImageClassification(config)


@pytest.mark.slow
def test_normalization_of_accumulated_batches_is_that_of_the_trainers_own_loop(tmp_path, trainers):
    """Each of them has its own mean, so they are shards of a step's batch."""
    torch.manual_seed(0)
    model = resnet().double()
    changes = {"gradient_accumulation_steps": 2, "num_train_epochs": 3, **SGD}
    trainer = trainer_of(tmp_path, model, kind, base=trainers.Mean, **changes)
    pixels = torch.randn(16, 1, 16, 16, dtype=torch.float64)
    rows = [{"pixel_values": each, "labels": place % 3} for place, each in enumerate(pixels)]
    trainer.train_dataset, trainer.data_collator = rows, torch.utils.data.default_collate
    problem = engine.from_trainer(trainer)
    found, path = states_of(problem), trainers.Path()

    trainer.add_callback(path)
    trainer.train()

    assert problem.settings["shards"] == 2
    assert len(found) == len(path.states)
    for mine, own in zip(found, path.states, strict=True):
        for name, tensor in mine.items():
            torch.testing.assert_close(tensor, own[name], rtol=0, atol=1e-9)
