"""Modules of Lightning as problems: each step is that of Lightning's own Trainer."""

import copy
import re

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import engine
from engine.errors import ConfigurationError
from tests.engine.problems.adapters.lightning_runs import each_loss, loaders, trainer_of
from tests.engine.problems.adapters.states import by_the_start, difference, moved, states_of

CASES = {
    "adamw, one by one": ({}, {}, {}),
    "sgd, by epoch": ({"optimizer": "sgd", "interval": "epoch"}, {}, {"loss": each_loss}),
    "rmsprop, flat": ({"optimizer": "rmsprop", "interval": None}, {}, {"loss": each_loss}),
    "accumulated": ({}, {"accumulate_grad_batches": 3}, {"loss": each_loss}),
    "clipped by value": ({}, {"gradient_clip_algorithm": "value"}, {"loss": each_loss}),
    "max_steps": ({}, {"max_steps": 4}, {"loss": each_loss}),
    "four of six batches": (
        {"interval": "epoch"}, {"limit_train_batches": 4, "accumulate_grad_batches": 2}, {},
    ),
    "workers": ({}, {}, {"loss": each_loss}),
    "workers that stay": ({}, {}, {"loss": each_loss}),
    "some of the batches of workers": ({}, {"limit_train_batches": 3}, {"loss": each_loss}),
    "in a list": ({}, {}, {"loss": each_loss}),
    "normalized and accumulated": (
        {"optimizer": "sgd"}, {"accumulate_grad_batches": 2}, {"loss": each_loss},
    ),
    "a forward around the old one": ({}, {}, {}),
    "every second batch": ({"frequency": 2}, {"max_epochs": 2}, {"loss": each_loss}),
    "every third batch, accumulated": (
        {"frequency": 3}, {"accumulate_grad_batches": 2, "max_epochs": 4}, {"loss": each_loss},
    ),
    "every fourth batch": (
        {"frequency": 4, "optimizer": "sgd"}, {"limit_train_batches": 5}, {"loss": each_loss},
    ),
    "every second pass": (
        {"interval": "epoch", "frequency": 2}, {"max_epochs": 5}, {"loss": each_loss},
    ),
    "half of the batches": ({}, {"limit_train_batches": 0.5}, {"loss": each_loss}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_steps_are_those_of_lightnings_own_trainer(case, of_lightning):
    """Shuffled order, two groups, schedulers, clipping and accumulation at once.

    Workers ask for the end of a pass, at which a random sampler draws once more.
    """
    settings, of_trainer, parts = CASES[case]
    torch.manual_seed(1)
    nets = {
        "in a list": of_lightning.Listing,
        "normalized and accumulated": of_lightning.Normed,
        "a forward around the old one": of_lightning.Wrapped,
    }
    net = nets.get(case, of_lightning.Net)
    of_loader = {"num_workers": 1} if "workers" in case else {}
    module = net(**settings)
    data = loaders(persistent_workers=case == "workers that stay", **of_loader)
    start = copy.deepcopy(dict(module.named_parameters()))
    path = of_lightning.Path()
    trainer = trainer_of(callbacks=[path], **of_trainer)
    problem = engine.from_lightning(module, data, trainer, eps_root=0.0, **parts)
    found = states_of(problem)

    trainer.fit(module, data[0])

    assert len(found) == len(path.states) == problem.num_steps
    moved = max(float((path.states[-1][n] - p).detach().abs().max()) for n, p in start.items())
    assert moved > 1e-3
    for step, (mine, own) in enumerate(zip(found, path.states, strict=True)):
        for name, tensor in mine.items():
            error = float((tensor - own[name]).abs().max())
            assert error < 2e-4 * moved, (step, name, error, moved)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_metagradient_is_the_central_difference_of_lightnings_own_loop(optimizer, of_lightning):
    """In float64, by the start of the parameters, which needs no change of the module."""

    def parts():
        torch.manual_seed(1)
        data = [DataLoader(each.dataset, batch_size=4) for each in loaders()]
        return of_lightning.Net(optimizer), data, trainer_of(precision="64-true", max_epochs=1)

    module, data, trainer = parts()
    problem = engine.from_lightning(module, data, trainer, eps_root=0.0, loss=each_loss)
    found, directions = by_the_start(problem)

    def loop(shift):
        own, data, trainer = parts()
        trainer.fit(moved(own.double(), shift), data[0])
        with torch.no_grad():
            each = [
                each_loss(own.eval(), [part.double() if part.is_floating_point() else part
                                       for part in batch])
                for batch in data[1]
            ]  # fmt: skip
            return float(torch.cat(each).mean())

    for slope, direction in zip(found, directions, strict=True):
        assert slope == pytest.approx(difference(loop, direction), rel=1e-6)


def test_datamodule_is_set_up_and_read(of_lightning):
    """As a Trainer does."""
    data = of_lightning.Data(lambda: loaders(shuffle=False))

    problem = engine.from_lightning(of_lightning.Net(), data, trainer_of(max_epochs=2))

    assert (len(problem.train), len(problem.objective), problem.num_steps) == (24, 8, 12)
    assert problem.order[:2] == [[0, 1, 2, 3], [4, 5, 6, 7]]


WRONG = {
    "ByHand": "optimizes by hand",
    "Averages": "hook on_train_batch_end, which is not called",
    "Asks": "asks for self.current_epoch",
    "Sums": "not a mean over the batch",
    "Skips": "returned a NoneType",
    "Two": "2 optimizers",
    "Indexed": "takes batch, batch_idx, optimizer_idx",
    "Some": "leaves out 4 parameters of the model, head.weight",
    "Plateau": "ReduceLROnPlateau|plateau|metric",
    "Normed": "body.1 is a batch normalization",
    "Alternates": "number 1 in its pass.*Leave batch_idx out of the loss",
    "Listed": "number 1 in its pass",
    "Scaled": "number 1 in its pass",
    "Noisy": "draws random numbers.*Hand in loss=",
    "LeavesOut": "gives nothing for a batch with number 3",
    "Late": "raised AttributeError in .*has no attribute 'late'.*setup is not called",
    "Cycles": "SequentialLR moves the momentum",
    "ByClass": "not a mean over the batch",
    "AsksData": "raised AttributeError in .*'datamodule'.*that only has estimated_stepping",
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_be_carried_over_is_refused(kind, of_lightning):
    """With the reason and the remedy, when the problem is made or its run."""

    def made():
        data = loaders(by_class=kind == "ByClass")
        problem = engine.from_lightning(getattr(of_lightning, kind)(), data, num_steps=6)
        return problem.routine({"weights": engine.ExampleWeights(torch.ones(24))})

    with pytest.raises(ConfigurationError, match=WRONG[kind]):
        made()


def test_hook_that_changes_nothing_is_named_and_said(of_lightning):
    """Only the user knows what it does."""
    problem = engine.from_lightning(
        of_lightning.Averages(), loaders(), num_steps=3, ignored_hooks=("on_train_batch_end",)
    )

    assert "on_train_batch_end is not called." in problem.not_carried


def test_number_of_a_batch_that_only_logs_read_is_fine(of_lightning):
    """A logger says nothing here; an argument with a default is none that Lightning has to give."""
    problem = engine.from_lightning(of_lightning.Shows(), loaders(), num_steps=3)

    assert len(states_of(problem)) == 3
    assert "configure_callbacks is not called." in problem.not_carried


def test_batches_that_a_datamodule_changes_are_refused(of_lightning):
    """Lightning calls its hooks for every batch."""
    with pytest.raises(ConfigurationError, match="Halves has the hook on_after_batch_transfer"):
        engine.from_lightning(of_lightning.Net(), of_lightning.Halves(loaders), num_steps=2)


def test_sampler_is_told_the_number_of_the_pass(of_lightning):
    """As by Lightning; two passes are not the same then."""
    train, held = loaders(shuffle=False, generator=None, sampler=of_lightning.OfPass(24))
    problem = engine.from_lightning(of_lightning.Net(), (train, held), trainer_of(max_epochs=2))

    assert problem.order[0] == [0, 1, 2, 3]
    assert problem.order[6] == [5, 6, 7, 8]
    assert train.sampler.epoch == 0


@pytest.mark.parametrize("generator", [None, 9])
def test_order_from_a_generator_that_all_share_is_said(generator, of_lightning):
    """That of torch stands elsewhere when Lightning begins, whose checks draw from it."""
    own = None if generator is None else torch.Generator().manual_seed(generator)
    problem = engine.from_lightning(of_lightning.Net(), loaders(generator=own), num_steps=7)

    said = any("drawn: the loader draws from a generator" in each for each in problem.not_carried)
    assert said == (generator is None)


class Augmented(torch.utils.data.Dataset):
    """Flips a sample when it is read."""

    def __len__(self):
        return 24

    def __getitem__(self, place):
        return torch.ones(4) * (2 * torch.rand(()) - 1), place % 3


def test_random_numbers_of_the_data_are_said(of_lightning):
    """They are seeded by the step here, so that a step can be run again."""
    train = DataLoader(Augmented(), batch_size=4)

    problem = engine.from_lightning(of_lightning.Net(), (train, loaders()[1]), num_steps=2)

    assert any("draws when it is read" in each for each in problem.not_carried)


def test_what_is_no_module_or_has_no_length_is_refused(of_lightning):
    """In words of what was handed in."""
    with pytest.raises(ConfigurationError, match="not a LightningModule"):
        engine.from_lightning(nn.Linear(1, 1), loaders())
    with pytest.raises(ConfigurationError, match="Net is in evaluation mode"):
        engine.from_lightning(of_lightning.Net().eval(), loaders(), num_steps=2)
    with pytest.raises(ConfigurationError, match="how many steps"):
        engine.from_lightning(of_lightning.Net(), loaders())
    with pytest.raises(ConfigurationError, match="a pair of loaders"):
        engine.from_lightning(of_lightning.Net(), loaders()[0], num_steps=2)


def test_several_devices_are_refused(of_lightning):
    """Each would take a batch of its own, and a step would be another one."""
    import lightning.pytorch as lightning

    trainer = lightning.Trainer(
        accelerator="cpu", devices=2, strategy="ddp_spawn", max_epochs=1, logger=False,
        enable_checkpointing=False,
    )  # fmt: skip

    with pytest.raises(ConfigurationError, match="runs on 2 devices.*Use devices=1"):
        engine.from_lightning(of_lightning.Net(), loaders(), trainer)


def test_normalization_of_accumulated_batches_is_in_shards(of_lightning):
    """Lightning normalizes each of them by itself; in evaluation mode nothing sees it."""
    trainer = trainer_of(accumulate_grad_batches=2)
    frozen = of_lightning.Normed()
    frozen.body.eval()

    made = [
        engine.from_lightning(module, loaders(), of_trainer, loss=each_loss)
        for module, of_trainer in (
            (of_lightning.Normed(), trainer),
            (frozen, trainer),
            (of_lightning.Normed(), trainer_of()),
        )
    ]

    assert [each.shards for each in made] == [2, 1, 1]
    assert made[0].settings["shards"] == 2
    assert "shards: 2" in made[0].notes[0]


def test_loaders_that_are_made_anew_are_refused(of_lightning):
    """Each pass might have another order, or other examples."""
    trainer = trainer_of(reload_dataloaders_every_n_epochs=1)

    for data in (of_lightning.Data(loaders), loaders()):  # which Lightning begins twice, and draws
        with pytest.raises(ConfigurationError, match="asks for its loaders anew.*Set it to 0"):
            engine.from_lightning(of_lightning.Net(), data, trainer)


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_loss_that_is_not_that_of_training_step_is_said(factor, of_lightning):
    """With both numbers; one that is, is not."""
    problem = engine.from_lightning(
        of_lightning.Net(), loaders(), num_steps=2, loss=lambda *given: factor * each_loss(*given)
    )

    said = [each for each in problem.not_carried if each.startswith("training_step")]
    assert len(said) == (factor != 1.0)
    if said:
        theirs, ours = map(float, re.findall(r"\d+\.\d+", said[0]))
        assert ours == pytest.approx(3 * theirs, rel=1e-4)


def test_random_numbers_of_the_model_are_said(of_lightning):
    """Also where no layer draws them."""
    problem = engine.from_lightning(
        of_lightning.Blurs(), loaders(), num_steps=2, loss=each_loss, keep_order=False
    )

    assert any("the model or its loss draws" in each for each in problem.not_carried)
    assert not any(
        "draws in training" in each
        for each in engine.from_lightning(of_lightning.Net(), loaders(), num_steps=2).not_carried
    )


@pytest.mark.parametrize(("precision", "is_said"), [("64-true", True), ("32-true", False)])
def test_format_that_the_trainer_converts_to_is_said(precision, is_said, of_lightning):
    """Of a module that is not in it already."""
    made = engine.from_lightning(
        of_lightning.Net(), loaders(), trainer_of(precision=precision), loss=each_loss
    )

    assert is_said == any(each.startswith("precision=") for each in made.not_carried)


def test_examples_of_64_bits_for_a_trainer_of_32_are_refused_with_what_helps(of_lightning):
    """Lightning converts neither, and its own step fails on them."""
    doubled = [
        DataLoader(TensorDataset(each.dataset.tensors[0].double(), each.dataset.tensors[1]))
        for each in loaders()
    ]

    with pytest.raises(ConfigurationError, match=r"converts no batches.*64-true") as refused:
        engine.from_lightning(of_lightning.Net(), tuple(doubled), trainer_of())
    assert "__init__" not in str(refused.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_trainer_of_64_bits_converts_module_and_examples(dtype, of_lightning):
    """Lightning does, whatever the data's format is; each step is then its own to 1e-12."""
    torch.manual_seed(1)
    module = of_lightning.Net(optimizer="sgd")
    x, y = torch.randn(24, 4, dtype=dtype), torch.arange(24) % 3
    loader = DataLoader(TensorDataset(x, y), batch_size=4)
    path = of_lightning.Path()
    trainer = trainer_of(precision="64-true", callbacks=[path], gradient_clip_val=None)
    problem = engine.from_lightning(module, (loader, loader), trainer, eps_root=0.0)
    found = states_of(problem)

    trainer.fit(module, loader)

    assert len(found) == len(path.states)
    for mine, own in zip(found, path.states, strict=True):
        for name, tensor in mine.items():
            assert tensor.dtype == torch.float64
            assert torch.allclose(tensor, own[name], rtol=0, atol=1e-12), name
