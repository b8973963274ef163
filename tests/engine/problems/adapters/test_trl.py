"""Trainers of trl as problems: each step is that of trl's own ``train()``."""

import functools
import textwrap

import pytest
import torch
from torch.nn import functional

import engine
from engine.errors import ConfigurationError
from engine.step.step import plain_step
from tests.engine.problems.adapters.states import states_of

pytestmark = pytest.mark.usefixtures("trl_runs")


@pytest.fixture(scope="module")
def trl_runs():
    """Trainers of trl, imported when a test runs, and asked nothing of the network."""
    pytest.importorskip("trl", reason="SFTTrainer and DPOTrainer need trl")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("CI", "1")  # no telemetry
        from tests.engine.problems.adapters import trl_runs

        yield trl_runs


def lora():
    import peft

    return peft.LoraConfig(task_type="CAUSAL_LM", r=2, lora_dropout=0.0)


SGD = {"optim": "sgd", "learning_rate": 0.5}  # which sees a factor on the loss; Adam hardly does

CASES = {
    "completions": ("completion", {}),
    "completions, all tokens": ("completion", {"completion_only_loss": False}),
    "completions, accumulated": ("completion", {"gradient_accumulation_steps": 3, **SGD}),
    "text": ("text", {}),
    "text, smoothed": ("text", {"label_smoothing_factor": 0.1, **SGD}),
    "text in another order": ("text", {"shuffle_dataset": True}),
    "messages": ("messages", {}),
    "what the assistant says": ("messages", {"assistant_only_loss": True}),
    "cut off": ("completion", {"max_length": 6}),
    "cut off at the start": ("completion", {"max_length": 6, "truncation_mode": "keep_end"}),
    "packed in rows that are padded": (
        "text", {"packing": True, "max_length": 12, "packing_strategy": "wrapped",
                 "dataloader_drop_last": True},
    ),
    "lora": ("completion", {"peft_config": lora, "learning_rate": 0.1}),
    "lora, accumulated": (
        "completion", {"peft_config": lora, "gradient_accumulation_steps": 2, **SGD},
    ),
    "no checkpoints": ("completion", {"gradient_checkpointing": False}),
    "checkpoints of trl": ("text", {"gradient_checkpointing_kwargs": {"selective": True}}),
}  # fmt: skip

ALWAYS = ("completions, accumulated",)


@pytest.mark.parametrize(
    "case",
    [each if each in ALWAYS else pytest.param(each, marks=pytest.mark.slow) for each in CASES],
)
def test_steps_are_those_of_trls_own_loop(case, tmp_path, trl_runs, trainers):
    """Templates, masks, cuts, adapters and what SFTConfig sets by itself, in float64.

    What is left is what trl computes in float32.
    """
    row, changes = CASES[case]
    changes = {name: each() if callable(each) else each for name, each in changes.items()}
    model = trl_runs.llama().double()
    trainer = trl_runs.sft(tmp_path, getattr(trl_runs, row), model, **changes)

    assert_same(trainer, trainers.Path(), engine.from_trainer(trainer, eps_root=0.0))


def assert_same(trainer, path, problem):
    """Compare all parameters after each step, and the losses that trl writes down."""
    start = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    found, losses = states_of(problem), losses_of(problem)
    trainer.add_callback(path)

    trainer.train()

    moved = max(float((path.states[-1][name] - p).abs().max()) for name, p in start.items())
    assert len(found) == len(path.states) == problem.num_steps
    assert moved > 0.05
    for mine, own in zip(found, path.states, strict=True):
        for name, tensor in mine.items():
            torch.testing.assert_close(tensor, own[name], rtol=0, atol=1e-5 * max(moved, 0.1))
    written = [each["loss"] for each in trainer.state.log_history if "loss" in each]
    assert losses == pytest.approx(written, rel=1e-5)


def losses_of(problem):
    """Return the engine's loss of each step's batch, before the step."""
    weights = engine.ExampleWeights(torch.ones(len(problem.train)).double())
    routine = problem.routine({"weights": weights})
    state, found = routine.initial_state(), []
    for step in range(routine.num_steps):
        state, loss = plain_step(routine, state, routine.point(), step)
        found.append(float(loss))
    return found


def test_trainer_and_its_logs_stay(tmp_path, trl_runs):
    """Trl counts tokens in its loss, which is called for a comparison; its model keeps its head."""
    trainer = trl_runs.sft(tmp_path)
    before, head = repr((trainer._metrics, trainer._total_train_tokens)), trainer.model.forward

    problem = engine.from_trainer(trainer)

    assert repr((trainer._metrics, trainer._total_train_tokens)) == before
    assert trainer.model.forward is head
    assert any(each.startswith("trl ") for each in problem.origin)


@pytest.mark.slow
def test_metagradient_is_the_central_difference_of_trls_own_loop(tmp_path, trl_runs):
    """Weights of examples, through whole trainings by trl with a loss of the test's own."""
    import trl

    settings = {"optim": "sgd", "learning_rate": 1.0, "max_steps": 6, "warmup_steps": 0}
    make = functools.partial(trl_runs.sft, tmp_path, trl_runs.completion, **settings)
    trainer = make(trl_runs.gpt2())
    problem = engine.from_trainer(trainer)
    routine = problem.routine({"weights": engine.ExampleWeights(torch.ones(24).double())})
    found = engine.metagradient(routine, problem.phi)["weights"]
    places = {tuple(row["input_ids"]): at for at, row in enumerate(trainer.train_dataset)}
    assert len(places) == 24

    def output(weights):
        class Weighted(trl.SFTTrainer):
            def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
                rows = sums_of(model, inputs)
                pairs = zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
                own = [places[tuple(row[mask.bool()].tolist())] for row, mask in pairs]
                return (weights[own] * rows).sum() / num_items_in_batch

        own = make(trl_runs.gpt2(), base=Weighted)
        own.train()
        batch = own.data_collator(list(own.eval_dataset))
        with torch.no_grad():
            counted = (batch["labels"][:, 1:] != -100).sum(dim=1)
            return float((sums_of(own.model.eval(), batch) / counted).mean())

    v = torch.randn(24, generator=torch.Generator().manual_seed(2)).double()
    one, other = (output(1 + 1e-3 * sign * v) for sign in (1, -1))
    assert float(found @ v) == pytest.approx((one - other) / 2e-3, rel=1e-5)


def sums_of(model, batch):
    """Return the sum of the losses of each example's tokens, by the model's logits."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    labels = batch["labels"][:, 1:]
    each = functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="none"
    )
    return each.view(labels.shape).sum(dim=1)


@pytest.mark.slow
def test_loss_that_detaches_is_that_of_the_remedy(tmp_path, trl_runs, trainers):
    """Minus the probability of each token has the gradient of the loss named dft."""
    changes = {"loss_type": "dft", "optim": "sgd", "learning_rate": 20.0, "max_grad_norm": 0}
    trainer = trl_runs.sft(tmp_path, trl_runs.completion, trl_runs.gpt2(), **changes)

    def remedy(model, batch):
        labels = batch["labels"][:, 1:]
        logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        chances = logits.softmax(-1).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        counted = labels != -100
        return -(chances * counted).sum(dim=1) * len(labels) / counted.sum()

    problem = engine.from_trainer(trainer, loss=remedy)

    found, path = states_of(problem), trainers.Path()
    trainer.add_callback(path)
    start = trainer.model.transformer.wte.weight.detach().clone()
    trainer.train()
    moved = float((path.states[-1]["transformer.wte.weight"] - start).abs().max())
    assert moved > 0.5
    for mine, own in zip(found, path.states, strict=True):
        for name, tensor in mine.items():
            torch.testing.assert_close(tensor, own[name], rtol=0, atol=1e-4 * moved)


def preferred():
    """Return DPO's loss of each pair, as the docstring of ``from_trainer`` has it."""
    code = engine.from_trainer.__doc__.partition("```py")[2].partition("problem =")[0]
    names = {"torch": torch}
    exec(textwrap.dedent(code), names)
    return functools.partial(names["preferred"], beta=0.5)


def reference():
    from tests.engine.problems.adapters.trl_runs import other_llama

    return other_llama()


LIVE = {"precompute_ref_log_probs": False}

PAIRS = {
    "pairs": {},
    "reference that is asked in each step": {**LIVE, "ref_model": reference},
    "such a one, accumulated": {
        **LIVE, "ref_model": reference, "gradient_accumulation_steps": 2, **SGD,
    },
    "such a one below an adapter": {**LIVE, "peft_config": lora, "learning_rate": 0.2},
    "accumulated": {"gradient_accumulation_steps": 2, **SGD},
    "lora": {"peft_config": lora, "learning_rate": 0.2},
    "cut off": {"max_length": 6},
}  # fmt: skip


@pytest.mark.parametrize(
    "case", ["pairs", *(pytest.param(each, marks=pytest.mark.slow) for each in list(PAIRS)[1:])]
)
def test_pairs_are_those_of_trls_own_loop(case, tmp_path, trl_runs, trainers):
    """A batch of pairs has two rows for each, and the numbers of the reference."""
    changes = {name: each() if callable(each) else each for name, each in PAIRS[case].items()}
    trainer = trl_runs.dpo(tmp_path, trl_runs.llama().double(), beta=0.5, **changes)
    problem = engine.from_trainer(trainer, loss=preferred(), eps_root=0.0)

    assert not [each for each in problem.not_carried if "own loss" in each]
    assert_same(trainer, trainers.Path(), problem)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"loss_type": "ipo"}, {"f_divergence_type": "forward_kl"}, {"beta": 0.1}]
)
def test_another_loss_of_pairs_is_said(changes, tmp_path, trl_runs):
    """Of which two are the same where training begins, because the reference is the model."""
    trainer = trl_runs.dpo(tmp_path, trl_runs.llama().double(), **({"beta": 0.5} | changes))

    found = engine.from_trainer(trainer, loss=preferred()).not_carried

    assert [each for each in found if "own loss" in each]


def test_pairs_without_a_loss_are_refused_with_what_works(tmp_path, trl_runs):
    """The remedy is what the test above does."""
    with pytest.raises(ConfigurationError, match=r"Hand in loss=.*as ref_chosen_logps and"):
        engine.from_trainer(trl_runs.dpo(tmp_path))


def following():
    return {"sync_ref_model": True, "ref_model": reference()}


def sharing():
    """Return a model whose head is the reference's, too."""
    from tests.engine.problems.adapters.trl_runs import llama

    model, other = llama().double(), reference()
    other.lm_head.weight = model.lm_head.weight
    return {"model": model, "ref_model": other}


def drawing():
    """Return a reference that drops, in training mode."""
    from tests.engine.problems.adapters.trl_runs import other_llama

    other = other_llama()
    other.config.attention_dropout = 0.5
    for layer in other.model.layers:
        layer.self_attn.attention_dropout = 0.5
    return {"ref_model": other.train(), "disable_dropout": False}


MOVING = {
    "following": (following, r"sync_ref_model is True.*state= is the reference"),
    "sharing": (sharing, r"has parameters that are trained .*precompute_ref_log_probs=True"),
    "drawing": (drawing, r"reference draws random numbers.*disable_dropout=True"),
}


@pytest.mark.parametrize("case", MOVING)
def test_reference_that_does_not_stay_is_refused(case, tmp_path, trl_runs):
    """One column of numbers would be the reference of the first step only."""
    make, words = MOVING[case]
    trainer = trl_runs.dpo(tmp_path, **(LIVE | {"model": trl_runs.llama().double()} | make()))

    with pytest.raises(ConfigurationError, match=words):
        engine.from_trainer(trainer, loss=preferred())


def test_columns_are_what_the_reference_says_of_each_pair(tmp_path, trl_runs):
    """By its logits; the model that is trained stays in its modes."""
    trainer = trl_runs.dpo(
        tmp_path, trl_runs.llama().double(), ref_model=trl_runs.other_llama(), **LIVE
    )
    modes = [each.training for each in trainer.model.modules()]

    problem = engine.from_trainer(trainer, loss=preferred())

    batch = problem.train.collate([problem.train.samples[place] for place in (5, 2)])
    held = problem.objective.collate([problem.objective.samples[0]])
    assert [each.training for each in trainer.model.modules()] == modes
    assert held.keys() == batch.keys()
    one = trainer.data_collator([trainer.train_dataset[5]])
    logits = trainer.ref_model.eval()(one["input_ids"], attention_mask=one["attention_mask"]).logits
    tokens, counted = one["input_ids"][:, 1:], one["completion_mask"][:, 1:]
    each = logits[:, :-1].log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    expected = (each * counted).sum(dim=1)
    assert float(batch["ref_chosen_logps"][0]) == pytest.approx(float(expected[0]), rel=1e-6)
    assert float(batch["ref_rejected_logps"][0]) == pytest.approx(float(expected[1]), rel=1e-6)


def tuning():
    import peft

    return peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)


WRONG = {
    "packed": (
        {"packing": True, "max_length": 12},
        r"makes 1 rows of labels of 2 examples.*wrapped",
    ),
    "not padded": ({"padding_free": True, "max_length": None}, "makes 1 rows of labels of 2"),
    "detached": ({"loss_type": "dft"}, "loss_type of the SFTTrainer is 'dft': it detaches"),
    "noise": ({"neftune_noise_alpha": 5.0}, "neftune_noise_alpha is 5"),
    "learned tokens": ({"peft_config": tuning}, r"loss of each example.*Hand in loss="),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_carried_over_is_refused(case, tmp_path, trl_runs):
    """With the reason and a remedy that works."""
    changes, words = WRONG[case]
    changes = {name: each() if callable(each) else each for name, each in changes.items()}

    with pytest.raises(ConfigurationError, match=words):
        engine.from_trainer(trl_runs.sft(tmp_path, **changes))


def test_step_that_another_version_might_have_is_refused(tmp_path, trl_runs):
    """Whatever its module is called: its source is not the one that is known."""
    trainer = trl_runs.sft(tmp_path)

    def training_step(self, *args, **kwargs):
        with self.maybe_activation_offload_context:
            return 2 * super(trainer.__class__, self).training_step(*args, **kwargs)

    made = {"training_step": training_step, "__module__": "trl.trainer.sft_trainer"}
    trainer.__class__ = type("SFTTrainer", (type(trainer),), made)

    with pytest.raises(ConfigurationError, match=r"SFTTrainer of trl .* training_step of its own"):
        engine.from_trainer(trainer)


def test_step_and_loss_that_a_user_wrote_are_refused(tmp_path, trl_runs):
    """Around trl's as around the Trainer's."""
    import trl

    class Stepped(trl.SFTTrainer):
        def training_step(self, *args, **kwargs):
            with self.maybe_activation_offload_context:
                return super().training_step(*args, **kwargs)

    class Doubled(trl.SFTTrainer):
        def compute_loss(self, *args, **kwargs):
            return 2 * super().compute_loss(*args, **kwargs)

    with pytest.raises(ConfigurationError, match="Stepped has a training_step of its own"):
        engine.from_trainer(trl_runs.sft(tmp_path, base=Stepped))
    with pytest.raises(ConfigurationError, match="Doubled has a compute_loss of its own"):
        engine.from_trainer(trl_runs.sft(tmp_path, base=Doubled))
