"""Stages: the same bits as one call, made once, made again where damaged."""

from pathlib import Path

import pytest
import torch

from engine import metagradient
from engine.errors import ConfigurationError, StoreError, WitnessError
from engine.numerics.determinism import deterministic
from engine.preflight.verdict import CheckReport
from engine.problems.built import build_problem
from engine.problems.segments import segments
from engine.replay.refusals import later_steps
from engine.schedules.segments import Segment
from engine.stages import commits
from engine.stages import training as stages
from engine.stages.monitoring import read_sweep
from engine.stages.run import Run
from tests.helpers.runs.tiny_stages import kind, recipe, reverse_all, train_all


def metagradient_of(store, ref):
    (found,) = (
        row
        for name, row in commits.read_rows(store, ref).items()
        if name.startswith("metagradient")
    )
    return found


def files_of(store, ref):
    """Every file of a stage with the time at which it was written."""
    folder = Path(store, "stages", ref.stage, ref.key)
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def store(tmp_path):
    return str(tmp_path / "store")


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        (),
        (("replay", "steps_per_segment", 1), ("replay", "schedule", "store-all")),
        (("replay", "steps_per_segment", 5), ("replay", "arity", 2)),
        (("replay", "steps_per_segment", 100), ("replay", "arity", 3)),
        (*kind("weights"), ("replay", "steps_per_segment", 5), ("replay", "arity", 2)),
        (*kind("learning-rate"), ("optimizer", "name", "sgd")),
        *[
            (*kind(name), ("replay", "steps_per_segment", 5))
            for name in ("inputs", "initial-parameters", "group-weights")
        ],
        (
            *kind("scalars"),
            ("metaparameters", "scalars", ["beta1", "label_smoothing"]),
            ("training", "label_smoothing", 0.1),
        ),
    ],
    ids=[
        "counts",
        "one-step-segments",
        "uneven",
        "one-segment",
        "weights",
        "learning-rate",
        "inputs",
        "initial-parameters",
        "group-weights",
        "scalars",
    ],
)
def test_staged_metagradient_has_the_bits_of_one_call(changes, store):
    """Segments, schedule and the way through files decide cost; the answer is the notebook's."""
    tiny = recipe(*changes)
    problem = build_problem(tiny)
    expected = metagradient(problem.routine, problem.output, schedule="store-all")
    value = stages.initial_value(Run(tiny, store))

    borders = train_all(tiny, store, value)
    gradient = reverse_all(tiny, store, value, borders)

    (name,) = expected.gradient
    final = commits.read_rows(store, borders[-1])
    assert torch.equal(metagradient_of(store, gradient), expected[name].reshape(-1))
    assert all(torch.equal(final[row], expected.state[row]) for row in expected.state)


def test_records_hold_the_run_that_one_call_made(store):
    """Loss curve, output and adjoint norms in the report come from the records of the stages."""
    tiny = recipe(*kind("weights"))
    problem = build_problem(tiny)
    expected = metagradient(problem.routine, problem.output)
    value = stages.initial_value(Run(tiny, store))

    borders = train_all(tiny, store, value)
    seed = stages.seed(Run(tiny, store), value, borders[-1])
    last = segments(tiny)[-1]
    reverse = stages.reverse_segment(Run(tiny, store), last, value, borders[-2], borders[-1], seed)

    losses = [x for ref in borders[1:] for x in commits.read_scalars(store, ref)["losses"]]
    norms = commits.read_scalars(store, reverse)["adjoint_norms"]
    assert losses == expected.losses.tolist()
    assert commits.read_scalars(store, seed)["output"] == expected.output
    assert norms == {str(step): expected.adjoint_norms[step] for step in range(last.start, 12)}


@pytest.mark.slow
def test_later_steps_of_a_run_of_stages_are_looked_at(store, monkeypatch):
    """What a loss cuts out of the graph once it is small is in no twin that a preflight makes."""
    tiny = recipe(*kind("weights"))
    value = stages.initial_value(Run(tiny, store))
    borders = train_all(tiny, store, value)
    reverse_all(tiny, store, value, borders)

    def wrong(routine, here):
        raise WitnessError(f"Off in {here.step}.")

    monkeypatch.setattr(later_steps, "compare_loss", wrong)
    other = recipe(*kind("weights"), ("training", "learning_rate", 0.03))
    gradient = reverse_all(other, store, value, train_all(other, store, value))
    parts = commits.lineage(store, gradient, "adjoint")
    found = [words for ref in parts for words in commits.read_scalars(store, ref)["wrong"]]
    assert sorted(words[:9] for words in found) == [
        "Off in 10",
        "Off in 11",
        "Off in 6.",
        "Off in 9.",
    ]
    monkeypatch.setattr(later_steps, "compare_loss", lambda routine, here: (None, ""))
    third = recipe(*kind("weights"), ("training", "learning_rate", 0.04))
    gradient = reverse_all(third, store, value, train_all(third, store, value))
    assert read_sweep(store, gradient).uncompared == [6, 9, 10, 11]


@pytest.mark.parametrize(
    ("changes", "starts"),
    [
        ((), [0, 4, 5, 9]),
        ((("replay", "steps_per_segment", 5),), [0, 5, 10]),
        ((("replay", "steps_per_segment", 100),), [0, 5]),
        ((*kind("weights"), ("replay", "steps_per_segment", 5)), [0, 5, 10]),
        ((("metaparameters", "injection_step", 11),), [0, 4, 8, 11]),
        ((("metaparameters", "injection_step", 0),), [0, 4, 8]),
    ],
)
def test_segments_cover_the_run_with_a_border_where_z_enters(changes, starts):
    """The reverse sweep ends at the first step that reads z, so a segment must start there."""
    parts = segments(recipe(*changes))

    assert [part.start for part in parts] == starts
    assert [part.stop for part in parts] == [*starts[1:], 12]


def test_finished_stage_is_not_computed_again(store):
    """A retry, a second run and another worker find the work done: no file is written again."""
    tiny = recipe()
    value = stages.initial_value(Run(tiny, store))
    first = stages.train_segment(Run(tiny, store), Segment(start=0, stop=4), value, None)
    before = files_of(store, first)

    again = stages.train_segment(Run(tiny, store), Segment(start=0, stop=4), value, None)

    assert again == first
    assert files_of(store, again) == before


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        ("record.json", Path.unlink),
        ("record.json", lambda path: path.write_text("{")),
        ("record.json", lambda path: path.write_text(path.read_text().replace("losses", "loss"))),
        ("attempts/*/params/c/0/0", Path.unlink),
        ("attempts/*/params/c/0/0", flip_a_byte),
        ("attempts/*/exp_avg_sq/c/0/0", lambda path: path.write_bytes(path.read_bytes()[:-9])),
        ("attempts/*/committed/*/zarr.json", Path.unlink),
        ("attempts/*/zarr.json", Path.unlink),
    ],
    ids=[
        "record-lost",
        "record-cut",
        "record-changed",
        "chunk-lost",
        "bit-flipped",
        "moment-cut",
        "mark-lost",
        "group-lost",
    ],
)
def test_damaged_stage_is_computed_again_and_gives_the_same_ref(pattern, damage, store):
    """A cache hit counts only while its bits are intact; what depends on it stays valid."""
    tiny = recipe()
    value = stages.initial_value(Run(tiny, store))
    first = stages.train_segment(Run(tiny, store), Segment(start=0, stop=4), value, None)
    rows = commits.read_rows(store, first)
    (target,) = Path(store, "stages", first.stage, first.key).glob(pattern)
    damage(target)
    assert commits.find(first.stage, first.key, store) is None

    again = stages.train_segment(Run(tiny, store), Segment(start=0, stop=4), value, None)

    assert again == first
    assert commits.find(first.stage, first.key, store) == first
    found = commits.read_rows(store, again)
    assert all(torch.equal(row, rows[name]) for name, row in found.items())


def test_stage_whose_input_is_damaged_stops_with_its_name(store):
    """Training on from a damaged state would be a run that nobody asked for."""
    tiny = recipe()
    value = stages.initial_value(Run(tiny, store))
    first = stages.train_segment(Run(tiny, store), Segment(start=0, stop=4), value, None)
    (chunk,) = Path(store, "stages", first.stage, first.key).glob("attempts/*/params/c/0/0")
    flip_a_byte(chunk)

    with pytest.raises(StoreError, match=rf"{first.key}.*'params' fails its checksum"):
        stages.train_segment(Run(tiny, store), Segment(start=4, stop=5), value, first)


def test_trajectory_that_is_gone_is_replayed_to_the_same_bits(store):
    """A clean or a damaged disk may take what was replayed ahead; it was only ever a saving."""
    tiny = recipe(*kind("weights"), ("replay", "steps_per_segment", 12))
    value = stages.initial_value(Run(tiny, store))
    borders = train_all(tiny, store, value)
    (part,) = segments(tiny)
    adjoint = stages.seed(Run(tiny, store), value, borders[-1])
    ahead = stages.replay_segment(Run(tiny, store), part, value, None)
    commits.discard(store, ahead)

    found = stages.reverse_segment(
        Run(tiny, store), part, value, None, borders[-1], adjoint, trajectory=ahead
    )

    problem = build_problem(tiny)
    expected = metagradient(problem.routine, problem.output)["weights"]
    assert torch.equal(metagradient_of(store, found), expected)


def test_failed_stage_is_not_committed(store, monkeypatch):
    """A worker that dies after its rows and before its record has not finished."""
    tiny = recipe()
    value = stages.initial_value(Run(tiny, store))
    segment = Segment(start=0, stop=4)

    def die(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(commits, "_commit", die)
    with pytest.raises(KeyboardInterrupt):
        stages.train_segment(Run(tiny, store), segment, value, None)
    monkeypatch.undo()
    left = list(Path(store, "stages", "train").glob("*/attempts/*/committed/*/zarr.json"))
    again = stages.train_segment(Run(tiny, store), segment, value, None)

    assert len(left) == 1  # the rows were there
    assert commits.find(again.stage, again.key, store) == again


@pytest.mark.parametrize("update", ["Adam", "RMSprop", "AdamW", "SGD"])
def test_state_of_a_torch_optimizer_survives_between_updates(update, store):
    """Its moments and its count of steps travel with z; torch run continuously is the reference."""
    tiny = recipe(
        *kind("weights"),
        ("outer", "update", update),
        ("outer", "step_size", 0.05),
        ("training", "num_steps", 2),
    )
    value = stages.initial_value(Run(tiny, store))
    gradient = reverse_all(tiny, store, value, train_all(tiny, store, value))
    theirs = commits.read_rows(store, value)["value"].clone().requires_grad_()
    reference = getattr(torch.optim, update)([theirs], lr=0.05)
    theirs.grad = metagradient_of(store, gradient)
    with deterministic():
        for _ in range(3):
            reference.step()

    for outer_step in range(3):  # along one metagradient; another each time would cost trainings
        value = stages.update(Run(tiny, store), outer_step, value, gradient)

    expected = theirs.detach().clamp(min=0)
    assert torch.allclose(commits.read_rows(store, value)["value"], expected, rtol=1e-6, atol=0)


@pytest.mark.slow
def test_update_uphill_is_the_mirror_image_of_one_downhill(store):
    """An audit asks how much a set-up can hurt; the sign of the move is all that differs."""
    tiny = recipe(*kind("weights"), ("outer", "update", "sign"), ("outer", "step_size", 0.25))
    value = stages.initial_value(Run(tiny, store))
    gradient = reverse_all(tiny, store, value, train_all(tiny, store, value))
    uphill = recipe(
        *kind("weights"),
        ("outer", "update", "sign"),
        ("outer", "step_size", 0.25),
        ("outer", "maximize", True),
    )

    down = commits.read_rows(store, stages.update(Run(tiny, store), 0, value, gradient))["value"]
    up = commits.read_rows(store, stages.update(Run(uphill, store), 0, value, gradient))["value"]

    assert torch.equal(up - 1, 1 - down)
    assert (down != 1).any()


def test_inputs_stay_inside_what_an_image_can_be(store):
    """A pixel brighter than white is no attack that anybody could mount."""
    tiny = recipe(*kind("inputs"), ("outer", "update", "sign"), ("outer", "step_size", 10))
    value = stages.initial_value(Run(tiny, store))
    gradient = reverse_all(tiny, store, value, train_all(tiny, store, value))

    moved = commits.read_rows(store, stages.update(Run(tiny, store), 0, value, gradient))["value"]

    assert moved.min() == 0
    assert moved.max() == 1


def test_update_says_how_many_moved_and_keeps_counts_whole(store):
    """The report shows how much of the data set a step changed."""
    tiny = recipe(("outer", "update", "masked-sign"), ("replay", "steps_per_segment", 100))
    value = stages.initial_value(Run(tiny, store))
    gradient = reverse_all(tiny, store, value, train_all(tiny, store, value))

    moved = stages.update(Run(tiny, store), 0, value, gradient)

    counts = commits.read_rows(store, moved)["value"]
    assert set(counts.tolist()) <= {0.0, 1.0, 2.0}
    assert commits.read_scalars(store, moved) == {"moved": int((counts != 1).sum())}
    assert 0 < int((counts != 1).sum()) < 60


def test_evaluation_scores_every_held_out_split(store):
    """The validation split chooses the iterate, the test split is for the reader."""
    tiny = recipe()
    value = stages.initial_value(Run(tiny, store))
    (*_, final) = train_all(tiny, store, value)
    problem = build_problem(tiny)
    params = commits.read_rows(store, final)["params"]

    scores = commits.read_scalars(store, stages.evaluate(Run(tiny, store), final))

    expected = float(problem.routine.call(problem.output, params, training=False))
    assert scores.keys() == {"objective", "validation", "test"}
    assert scores["objective"]["loss"] == pytest.approx(expected, rel=1e-5)
    assert all(0 <= split["accuracy"] <= 1 for split in scores.values())


def test_prepare_leaves_nothing_behind(store):
    """It runs before every flow, also where the work is done already."""
    stages.prepare(Run(recipe(), store))

    assert not [path for path in Path(store).rglob("*") if path.is_file()]


def test_prepare_refuses_a_store_that_cannot_be_written(tmp_path):
    """Hours of training must not end at the first save."""
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigurationError, match="file"):
        stages.prepare(Run(recipe(), str(tmp_path / "file" / "store")))


def test_what_there_is_to_know_of_the_examples_is_one_warning():
    """A folder of photographs filled the first screen of its report with boxes, six of a kind."""
    none = stages.with_notes(CheckReport.of([]), [])
    one = stages.with_notes(CheckReport.of([]), ["Two are the same."], ready=True)
    more = stages.with_notes(CheckReport.of([]), ["Two are the same.", "One was left out."])

    assert none.sentences() == []
    assert one.sentences() == [
        "examples: Two are the same. If this was not meant, change the arguments of the problem, "
        "or its files."
    ]
    assert more.sentences() == [
        "examples: Two are the same. One was left out. If any of this was not meant, change what "
        "the problem returns."
    ]
