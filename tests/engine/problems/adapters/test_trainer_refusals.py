"""What a Trainer has and a problem cannot have: refused with the reason, or said."""

import importlib.util
import re

import pytest
import torch
from torch import nn

import engine
from engine.errors import ConfigurationError, EngineError
from tests.engine.problems.adapters.trainer_runs import (
    VOCABULARY,
    bert,
    bert_of,
    gpt2,
    kind,
    llama,
    masked,
    padded,
    trainer_of,
)

pytestmark = pytest.mark.usefixtures("trainers")


def test_what_is_left_behind_is_said(tmp_path, trainers):
    """In the notes, which the preflight says as well."""
    trainer = trainer_of(tmp_path, bert(), kind)
    trainer.add_callback(trainers.transformers.EarlyStoppingCallback())
    trainer.add_callback(trainers.Path())
    trainer.compute_metrics = lambda prediction: {}
    trainer.args.bf16 = True
    problem = engine.from_trainer(trainer, notes=("mine",))

    words = " ".join(problem.notes)
    for each in ("bf16", "EarlyStoppingCallback: all", "callbacks: Path", "compute_metrics", "mine",
                 "eps_root=1e-08", "num_steps: 18, batch_size: 4, seed: 42"):  # fmt: skip
        assert each in words


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("BertForMaskedLM", masked),
        ("BertForTokenClassification", lambda tokens: [each % 3 for each in tokens]),
    ],
)
def test_sum_of_means_is_no_mean_over_the_examples(name, labels, tmp_path):
    """The Trainer trains with it where a model takes the count of labels and does not read it."""
    trainer = trainer_of(tmp_path, bert_of(name), labels, gradient_accumulation_steps=2)

    with pytest.raises(ConfigurationError, match=r"adds the mean losses of these batches up for"):
        engine.from_trainer(trainer)


def stripped(samples):
    return {name: column for name, column in padded(samples).items() if name != "labels"}


def noisy(samples):
    batch = padded(samples)
    batch["input_ids"] = torch.randint(1, VOCABULARY, batch["input_ids"].shape)
    return batch


def test_model_with_a_loss_of_its_own_is_found_out(tmp_path, trainers):
    """Whatever its class is called: the batch's loss is compared with the examples'."""
    trainer = trainer_of(tmp_path, trainers.Odd(bert().config), kind)

    with pytest.raises(ConfigurationError, match="Hand in loss="):
        engine.from_trainer(trainer)


def test_mean_with_weights_of_classes_is_found_out_in_a_sorted_table(tmp_path, trainers):
    """The first examples are all of one class, whose weighted mean is the plain one."""
    trainer = trainer_of(tmp_path, trainers.ByClass(bert().config), kind)
    trainer.train_dataset.sort(key=lambda row: row["labels"])

    with pytest.raises(ConfigurationError, match="Hand in loss="):
        engine.from_trainer(trainer)


def test_format_and_random_numbers_of_the_model_are_said(tmp_path):
    """A model in bfloat16 is trained in float32, and no layer says that attention drops."""
    plain = engine.from_trainer(trainer_of(tmp_path, bert(), kind)).not_carried
    low = engine.from_trainer(trainer_of(tmp_path, bert().bfloat16(), kind)).not_carried
    drops = engine.from_trainer(trainer_of(tmp_path, llama(attention_dropout=0.3))).not_carried

    assert [each for each in low if "torch.bfloat16" in each]
    assert [each for each in drops if "the model or its loss draws" in each]
    assert not [each for each in plain if "bfloat16" in each or "draws in training" in each]


WRONG = {
    "own step": (
        lambda t: setattr(t, "__class__", type("Own", (type(t),), {"training_step": print})),
        "training_step of its own",
    ),
    "no training data": (lambda t: setattr(t, "train_dataset", None), "no train_dataset"),
    "no evaluation data": (lambda t: setattr(t, "eval_dataset", None), "no eval_dataset"),
    "which evaluation data": (
        lambda t: setattr(t, "eval_dataset", {"de": [1], "fr": [2]}), "has 'de', 'fr'",
    ),
    "noise": (lambda t: setattr(t.args, "neftune_noise_alpha", 5.0), "neftune_noise_alpha is 5"),
    "labels": (lambda t: setattr(t, "data_collator", stripped), "a loss needs labels"),
    "random collator": (lambda t: setattr(t, "data_collator", noisy), "draws input_ids at random"),
    "trained": (lambda t: setattr(t.state, "global_step", 3), "has taken 3 steps"),
    "adafactor": (lambda t: setattr(t.args, "optim", "adafactor"), "no counterpart"),
    "no trainer": (lambda t: setattr(t, "__class__", nn.Module), "not a Trainer of transformers"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_carried_over_is_refused(case, tmp_path):
    """With the reason, before any training."""
    change, words = WRONG[case]
    trainer = trainer_of(tmp_path, bert(), kind)
    if case == "adafactor":
        trainer = trainer_of(tmp_path, bert(), kind, optim="adafactor")
    elif case == "no trainer":
        trainer = nn.Linear(1, 1)
    else:
        change(trainer)

    with pytest.raises(EngineError, match=words):
        engine.from_trainer(trainer)


@pytest.mark.parametrize(("name", "method"), [("Shifted", "_prepare_inputs"), ("ByValue", "_clip")])
def test_trainer_whose_step_is_another_one_is_refused(name, method, tmp_path, trainers):
    """Whatever part of a step it is that a user wrote anew; the engine would train without it."""
    trainer = trainer_of(tmp_path, bert(), kind, base=getattr(trainers, name))

    with pytest.raises(ConfigurationError, match=f"{name} has a {method}.* of its own"):
        engine.from_trainer(trainer)


def test_method_that_is_not_called_is_said(tmp_path, trainers):
    """Those of the Trainer only: a user's new names are called by a user's own methods."""
    trainer = trainer_of(tmp_path, bert(), kind, base=trainers.Logs)

    assert "methods of Logs: log are not called." in engine.from_trainer(trainer).not_carried


def test_loss_over_all_labels_that_is_divided_once_more_is_refused(tmp_path, trainers):
    """A language model's loss is over the labels of all accumulated batches already."""
    trainer = trainer_of(tmp_path, gpt2(), None, base=trainers.Mean, gradient_accumulation_steps=2)

    with pytest.raises(ConfigurationError, match="divides the loss of GPT2LMHeadModel"):
        engine.from_trainer(trainer)


def test_scheduler_that_moves_the_momentum_is_refused_by_name(tmp_path):
    """Its rates alone would be another training."""
    model = bert()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    trainer = trainer_of(tmp_path, model, kind)
    trainer.optimizer = optimizer
    trainer.lr_scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=20)
    problem = engine.from_trainer(trainer)

    with pytest.raises(ConfigurationError, match=r"OneCycleLR moves the momentum besides"):
        problem.routine({"weights": engine.ExampleWeights(torch.ones(24))})


def test_order_from_a_generator_that_all_share_is_said(tmp_path):
    """``train()`` would draw another one, and the run has the one that was read."""
    trainer = trainer_of(tmp_path, bert(), kind, accelerator_config={"use_seedable_sampler": False})
    before = torch.get_rng_state()

    problem = engine.from_trainer(trainer)

    assert any("drawn: the loader draws from a generator" in each for each in problem.not_carried)
    assert torch.equal(torch.get_rng_state(), before)


def each_loss(model, batch):
    inputs = {name: column for name, column in batch.items() if name != "labels"}
    return nn.functional.cross_entropy(model(**inputs).logits, batch["labels"], reduction="none")


@pytest.mark.parametrize(("accumulated", "ratio"), [(1, 2.0), (3, 6.0)])
def test_loss_that_is_not_the_trainers_is_said(accumulated, ratio, tmp_path, trainers):
    """Also where transformers adds the means of accumulated batches up; one that is, is not."""
    settings = {"gradient_accumulation_steps": accumulated}
    trainer = trainer_of(tmp_path, bert(), kind, base=trainers.OwnLoss, **settings)

    (said,) = [
        each
        for each in engine.from_trainer(trainer, loss=each_loss).not_carried
        if "own loss" in each
    ]
    theirs, ours = map(float, re.findall(r"\d+\.\d+", said))
    assert theirs == pytest.approx(ratio * ours, rel=1e-4)

    plain = trainer_of(tmp_path, bert(), kind)
    found = engine.from_trainer(plain, loss=each_loss).not_carried
    assert not [each for each in found if "own loss" in each]


def test_optimizer_of_an_absent_package_is_refused_by_its_setting(tmp_path):
    """And one that is handed in with its rates takes its place; lost clipping is said."""
    if importlib.util.find_spec("schedulefree"):
        pytest.skip("needs a package to be absent")
    trainer = trainer_of(tmp_path, bert(), kind, optim="schedule_free_adamw")
    with pytest.raises(ConfigurationError, match=r"optim is 'schedule_free_adamw'.*learning_rate="):
        engine.from_trainer(trainer)
    with pytest.raises(ConfigurationError, match="optim is 'schedule_free_adamw'"):
        engine.from_trainer(trainer, optimizer=engine.sgd())

    problem = engine.from_trainer(trainer, optimizer=engine.sgd(), learning_rate=0.1)

    routine = problem.routine({"weights": engine.ExampleWeights(torch.ones(24))})
    assert (routine.optimizer.name, routine.learning_rate) == ("sgd", 0.1)
    assert any("max_grad_norm=0.4, because sgd" in each for each in problem.not_carried)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        (
            {"optim_args": "momentum"},
            r"optim='adamw_torch[a-z_]*' and optim_args='momentum': .*written as 'momentum=0.9",
        ),
        ({"optim": "sgd", "optim_args": "momentum=high"}, "and optim_args='momentum=high': .*high"),
        (
            {"adam_beta1": 1.5},
            r"from optim='adamw_torch[a-z_]*': Invalid beta.* 1\.5\. Correct its arg",
        ),
    ],
)
def test_settings_that_no_optimizer_is_made_of_are_not_called_without_counterpart(
    changes, cause, tmp_path
):
    """The optimizer has a counterpart; its settings are what is wrong."""
    trainer = trainer_of(tmp_path, bert(), kind, **changes)
    with pytest.raises(ConfigurationError, match=cause) as refused:
        engine.from_trainer(trainer)
    assert "counterpart" not in str(refused.value)
