"""What a user's function returns, taken as a run: seeded, split, scored, or refused in words."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from engine import Problem, central_difference, metagradient
from engine.errors import ConfigurationError, DataError, EngineError
from engine.numerics.determinism import deterministic
from engine.problems.built import build_problem, check_repeats
from engine.problems.data.splits import DataSet, Examples
from engine.problems.data.splitting import data_set
from engine.stages.run import Run
from engine.stages.training import initial_value, prepare
from tests.helpers.data.own_problem import PROBLEM, own, replaced

SPLITS = ("train", "objective", "validation", "test")


FLOAT64 = ["training.dtype=float64", "metaparameters={name: weights}", "outer.update=sign"]


def test_metagradient_is_that_of_the_users_own_loop(tmp_path):
    """The loop is written here with torch.optim and torch's autograd only, weights and all."""
    recipe = own(tmp_path, changes=FLOAT64)
    built = build_problem(recipe)

    found = metagradient(built.routine, built.output)["weights"]

    train = built.routine.examples
    orders = [built.routine.order.batch(step) for step in range(6)]
    held_out = built.held_out["objective"].batches(torch.device("cpu"))

    def trained(weights):
        model = nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 2)).double()
        model.load_state_dict(built.routine.model.state_dict())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for indices in orders:
            batch = train[indices]
            losses = nn.functional.cross_entropy(model(batch["x"]), batch["y"], reduction="none")
            optimizer.zero_grad()
            (losses * weights[indices]).mean().backward()
            optimizer.step()
        batch = held_out[torch.arange(len(held_out))]
        return float(nn.functional.cross_entropy(model(batch["x"]), batch["y"]))

    direction = torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ones, step = torch.ones(40, dtype=torch.float64), 1e-5
    measured = (trained(ones + step * direction) - trained(ones - step * direction)) / (2 * step)
    assert float(found @ direction) == pytest.approx(measured, rel=1e-6)


def test_splits_that_were_left_out_are_cut_by_class_and_said(tmp_path):
    """Half of the objective's examples, and what is left evenly, each with its share of a class."""
    built = build_problem(own(tmp_path))

    sizes = {name: len(examples) for name, examples in built.held_out.items()}
    assert sizes == {"objective": 30, "validation": 15, "test": 15}
    assert "no validation and no test split" in built.notes[0]
    assert built.data.names[3] == "point 3"


def test_metrics_are_means_over_the_split(tmp_path):
    """Compared with a loop over single examples."""
    built = build_problem(own(tmp_path))
    state = built.routine.initial_state()

    scores = built.scores(state)["test"]

    examples = built.held_out["test"].batches(torch.device("cpu"))
    model = built.routine.model
    hits = [
        float(model(examples[torch.tensor([i])]["x"]).argmax(1) == examples[torch.tensor([i])]["y"])
        for i in range(len(examples))
    ]
    assert scores["accuracy"] == pytest.approx(np.mean(hits))
    assert set(scores) == {"loss", "accuracy"}


def test_groups_of_ones_own_have_weights(tmp_path):
    """A mixture over whatever groups the problem names."""
    changes = ["metaparameters={name: group-weights, groups: cloud}", "outer.update=sign"]
    built = build_problem(own(tmp_path, changes=changes))

    assert built.kind.value.shape == (2,)
    with pytest.raises(ConfigurationError, match=r"no groups of that name. Use one of class"):
        build_problem(own(tmp_path, changes=[*changes, "metaparameters.groups=site"]))
    with pytest.raises(ConfigurationError, match=r"groups is cloud, and all .* of one group"):
        build_problem(own(tmp_path, replaced("y.tolist()", "[0] * number"), changes))


@pytest.mark.slow
def test_start_is_seeded_by_the_run_and_is_part_of_the_keys(tmp_path):
    """Another seed is another start; so is another initialization in the source."""
    one, same, other = (
        build_problem(own(tmp_path, changes=[f"training.seed={seed}"])) for seed in (0, 0, 1)
    )

    assert one.routine.initial_state()["params"].equal(same.routine.initial_state()["params"])
    assert not one.routine.initial_state()["params"].equal(other.routine.initial_state()["params"])
    assert one.origin != other.origin
    recipe = own(tmp_path)
    edited = own(tmp_path, PROBLEM + "\n")
    assert initial_value.key(Run(recipe, "")) != initial_value.key(Run(edited, ""))
    check_repeats(edited)


WRONG = {
    "raises": (replaced("    generator =", "    raise KeyError('x')\n    generator ="), "KeyError"),
    "other thing": (replaced("return engine.Problem(", "return dict("), "returned a dict"),
    "model": (replaced("model=net", "model=3"), r"model of the problem is 3 \(int\), but"),
    "loss": (replaced("loss=loss", "loss=3"), r"loss of the problem is 3 \(int\), but"),
    "no length": (replaced('train={"x": x, "y": y}', "train=iter([])"), "has no length"),
    "lengths": (replaced('train={"x": x,', 'train={"x": x[:5],'), r"\[5, 40\] rows"),
    "nan": (replaced("    hx, hy =", "    x = x / 0\n    hx, hy ="), "NaN or infinite"),
    "mean loss": (replaced('reduction="none"', 'reduction="mean"'), "for each|per example"),
    "names": (replaced("in range(number)]", "in range(3)]"), "3 entries for 40"),
    "unseeded model": (
        replaced("    net =", "    torch.manual_seed(torch.seed() % 2**60)\n    net ="),
        "initial parameters of the model",
    ),
    "unseeded data": (
        replaced("generator = torch.Generator().manual_seed(0)",
                 "generator = torch.Generator().manual_seed(torch.Generator().seed())"),
        "different .*examples",
    ),
    "exit": (
        replaced("    net =", "    raise SystemExit('bye')\n    net ="), "ends the process in line",
    ),
    "exit at the head": (
        replaced("import engine", "import engine\nraise SystemExit('bye')"), "__main__",
    ),
    "default format": (
        replaced("import engine", "import engine\ntorch.set_default_dtype(torch.float64)"),
        "calls torch.set_default_dtype .* training.dtype says it",
    ),
    "default device": (
        replaced("import engine", "import engine\ntorch.set_default_device('meta')"),
        "training.device moves them",
    ),
    "the engine's own refusal": (
        replaced("    net =", "    engine.averaged(engine.sgd(), 2.0)\n    net ="),
        r"refused in line \d+ of .*my_clouds.py. The decay of an average is 2.0",
    ),
    "the engine's own refusal at the head": (
        replaced("import engine", "import engine\nengine.averaged(engine.sgd(), 2.0)"),
        r"cannot be loaded, because of line \d+ of .*The decay of an average is 2.0",
    ),
    "metric": (
        replaced('return (model(batch["x"])', 'return 1 / 0 + (model(batch["x"])'),
        r"metric 'accuracy' raised ZeroDivisionError in line \d+ of",
    ),
    "picture": (
        replaced("groups=", "show=lambda place: 1 / 0,\n        groups="),
        "show of problem .* raised ZeroDivisionError",
    ),
    "other columns": (
        replaced('objective={"x"', 'objective={"z"'),
        r"loss fails on held-out examples \(KeyError.* same columns",
    ),
    "a list of losses": (
        replaced("return cross_entropy(model(batch[\"x\"]), batch[\"y\"], reduction=\"none\")",
                 "return [1.0]"),
        "The loss returned a list",
    ),
    "too few held out": (replaced("clouds(60,", "clouds(3,"), "too few to cut"),
}  # fmt: skip


@pytest.mark.parametrize(("problem", "words"), WRONG.values(), ids=WRONG)
def test_wrong_problem_is_one_message_before_training(problem, words, tmp_path):
    """What a user gets wrong is said by the line or the part, with what to do."""
    with pytest.raises(EngineError, match=words):
        prepare(Run(own(tmp_path, problem), str(tmp_path / "store")))


def held(**more):
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    y = torch.arange(12) % 3
    given = {"train": (x, y), "objective": (x + 1, y), "validation": (x + 2, y), "test": (x + 3, y)}
    model = nn.Linear(3, 3)
    return Problem(model=model, loss=lambda m, b: m(b[0]).sum(1), **(given | more))


def test_copies_of_candidates_in_a_held_out_split_are_said():
    """A held-out loss on training examples says little, and people do it by accident."""
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))

    _, notes = data_set(held(objective=(x[:5], torch.arange(5) % 3)), torch.float32)

    assert notes == (
        "5 of 5 objective examples are the same as a training candidate, so their loss says little "
        "about new ones.",
    )
    assert data_set(held(), torch.float32)[1] == ()


@pytest.mark.parametrize(
    "form",
    [
        lambda x, y: (x, y),
        lambda x, y: (x.numpy(), y.tolist()),
        lambda x, y: {"x": x, "y": y},
        lambda x, y: torch.utils.data.TensorDataset(x, y),
        lambda x, y: [(x[i], y[i]) for i in range(len(x))],
        lambda x, y: x,
    ],
    ids=["tensors", "numpy and list", "dict", "dataset", "samples", "one tensor"],
)
def test_examples_of_any_form_have_a_digest_that_sees_one_number(form):
    """The key of every stage has it."""
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)).double()
    y, moved = torch.arange(12) % 3, x.clone()
    moved[7, 1] += 1e-9
    found = [
        data_set(held(**dict.fromkeys(("train", "objective", "validation", "test"), form(a, y))),
                 torch.float64)[0].fingerprint
        for a in (x, x.clone(), moved)
    ]  # fmt: skip

    assert found[0] == found[1] != found[2]


def test_coupled_setting_of_single_losses_is_refused(tmp_path):
    """A setting that nothing reads would be reported as if it had been done."""
    for change, words in (
        ("training.label_smoothing=0.1", "no labels to smooth"),
        ("training.piece=5", "that of single examples"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            build_problem(own(tmp_path, changes=[change]))


def test_copies_are_seen_in_columns_of_any_name():
    """All columns of a row count: two rows with one label are no copies."""
    x, y = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
    splits = {name: {"labels": y, "x": x + place} for place, name in enumerate(SPLITS)}

    assert data_set(held(**splits), torch.float32)[1] == ()
    copied = splits | {"test": {"labels": y[:4], "x": x[:4]}}
    (note,) = data_set(held(**copied), torch.float32)[1]
    assert note.startswith("4 of 4 test examples")


@pytest.mark.parametrize(
    "form", ["a data set by index", "by index, beside tensors", "of words too"]
)
def test_copies_are_seen_in_what_is_read_sample_by_sample(form):
    """As people use it by accident: one data set, cut twice with two seeds."""
    x, y = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3

    class Samples(torch.utils.data.Dataset):
        def __init__(self, rows):
            self.rows = rows

        def __len__(self):
            return len(self.rows)

        def __getitem__(self, place):
            row = int(self.rows[place])
            return (x[row], y[row], "word") if "words" in form else (x[row], y[row])

    cut = {"train": range(5), "objective": range(5, 8), "validation": (8, 4), "test": (9, 8)}
    splits = {name: Samples(rows) for name, rows in cut.items()}
    if "tensors" in form:
        splits["train"] = (x[:5], y[:5])

    notes = data_set(held(**splits), torch.float32)[1]

    if "words" in form:  # whose rows nobody can tell apart
        assert notes == ()
    else:
        assert [note.partition(" examples")[0] for note in notes] == [
            "1 of 2 validation",
            "1 of 2 test",
        ]


def test_labels_that_number_no_classes_have_none():
    """Minus one and one would be taken for a class and the one after it."""
    x, y = torch.randn(12, 3), torch.arange(12) % 2 * 2 - 1

    assert data_set(held(**dict.fromkeys(SPLITS, (x, y))), torch.float32)[0].num_classes == 0


def test_mean_of_a_held_out_loss_is_refused(tmp_path):
    """It would be divided by the number of examples twice, and nobody would see it."""
    other = replaced("loss=loss", "training_loss=loss, loss=lambda m, b: loss(m, b).mean()")

    with pytest.raises(EngineError, match="one number for each example"):
        prepare(Run(own(tmp_path, other), str(tmp_path / "store")))


def test_problem_is_made_while_no_other_thread_trains(tmp_path):
    """Its number format is the process's: another run would make tensors of it meanwhile."""
    recipe, seen = own(tmp_path, changes=["training.dtype=float64"]), []

    def other():
        with deterministic():
            for _ in range(50):
                seen.append(torch.zeros(1).dtype)
                time.sleep(0.001)

    thread = threading.Thread(target=other)
    thread.start()
    for seed in range(3):
        build_problem(recipe.model_copy(update={"description": str(seed)}))
    thread.join()

    assert set(seen) == {torch.float32}
    assert torch.get_default_dtype() == torch.float32


def test_damaged_examples_name_the_split():
    """Which of four splits has the number is what the user needs."""
    x = torch.full((12, 3), float("nan"))
    with pytest.raises(DataError, match="validation of the problem"):
        data_set(held(validation=(x, torch.arange(12) % 3)), torch.float32)


def test_central_difference_through_the_door(tmp_path):
    """The engine's own oracle agrees as well, for the model as it is called by the problem."""
    built = build_problem(own(tmp_path, changes=FLOAT64))
    found = metagradient(built.routine, built.output)["weights"]
    direction = torch.ones_like(found)

    measured = central_difference(built.routine, built.output, {"weights": direction})

    assert float(found @ direction) == pytest.approx(measured, rel=1e-5)


def test_names_can_be_written_whatever_bytes_a_file_is_called_by():
    """They go into reports, tables, a database and onto a terminal, each on one line."""
    names = [
        "a",
        "caf\u00e9 \u6f22\u5b57\u00a0x",
        "caf\udce9",
        "a\nb",
        "\x1b]0;x\x07",
        "",
        "\U0001f600",
    ]
    numbers = torch.zeros(len(names))
    splits = {"train": Examples(numbers, numbers.long())}

    found = DataSet(
        splits, 1, numbers.bool(), "", names=tuple(names), groups={"of": tuple(names) + (3,)}
    )

    shown = ("caf\\udce9", "a\\nb", "\\x1b]0;x\\x07")
    assert found.names == (*names[:2], *shown, *names[5:])
    assert found.groups["of"] == (*found.names, 3)
    assert replace(found, fingerprint="x").names == found.names
