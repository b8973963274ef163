"""The planner: what it counts is what a run does, and what it chooses fits and is the fastest."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import ConfigurationError
from engine.planning import plan as planning
from engine.planning.choice import MeasuredRun, check_caps, choose, forecast, segment_lengths
from engine.planning.forecast import read_forecast
from engine.problems.built import build_problem
from engine.problems.segments import first_step
from engine.recipes.names import run_name
from engine.recipes.replay import ReplaySettings, ScheduleName, VjpMode
from engine.replay import interpreter
from engine.replay.step_costs import StepCosts
from engine.replay.sweep_costs import Memory
from engine.runs.overview import overview
from engine.runs.predicted import compare
from engine.runs.run import begin_run
from engine.stages import training as stages
from engine.stages.run import Run
from tests.helpers.runs.tiny_stages import kind, recipe, reverse_all, train_all

STATE = 12 * (64 * 5 + 5 + 5 * 10 + 10)
COSTS = StepCosts(
    plain=1.0,
    product=3.0,
    traced=1.0,
    pulled=2.0,
    injected=0.0,
    seed=0.0,
    copied=0.0,
    moved=0.0,
    saved=0.0,
    loaded=0.0,
    state_bytes=STATE,
    graph_bytes=10 * STATE,
    paths_agree=True,
)
"""A machine on which one plain step takes a second, for a state of the tiny recipe."""

PLENTY = Memory(device=10**12, host=10**12)


def measured(*changes, costs=COSTS, memory=PLENTY):
    tiny = recipe(*changes)
    return MeasuredRun(tiny, build_problem(tiny), costs, memory, evaluation=0.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "replay",
    [
        {"schedule": "k-ary", "arity": 2},
        {"schedule": "sqrt"},
        {"schedule": "binomial", "num_slots": 2},
        {"schedule": "two-level", "num_slots": 1, "slow_slots": 1},
        {"schedule": "store-all"},
        {"schedule": "store-all", "unroll": 3},
    ],
    ids=lambda replay: " ".join(map(str, replay.values())),
)
def test_steps_are_those_that_the_stages_run(tmp_path, monkeypatch, replay):
    """A count that leaves out a replayed step makes every prediction too low."""
    changes = [("replay", name, value) for name, value in replay.items()]
    tiny, store = recipe(*kind("weights"), *changes), str(tmp_path)
    counts = {"forward": 0, "reverse": 0}

    def counted(module, name, what):
        function = getattr(module, name)

        def call(*arguments, **named):
            counts[what] += 1
            return function(*arguments, **named)

        monkeypatch.setattr(module, name, call)

    counted(interpreter, "plain_step", "forward")
    counted(interpreter, "open_step", "forward")
    counted(interpreter, "reverse_step", "reverse")
    # A plain step that the graph's path is compared with, once for each segment, is not counted.
    monkeypatch.setattr(interpreter, "path_difference", lambda *_: "")
    value = stages.initial_value(Run(tiny, store))
    reverse_all(tiny, store, value, train_all(tiny, store, value))

    found = forecast(measured(*kind("weights"), *changes), tiny.replay)

    assert counts == {"forward": found.forward_steps, "reverse": found.reverse_steps}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "update"),
    [
        ("weights", "sign"),
        ("counts", "Adam"),
        ("learning-rate", "SGD"),
        ("initial-parameters", "Adam"),
    ],
)
def test_bytes_are_those_that_the_stages_write(tmp_path, name, update):
    """They are counted, not measured, so nothing but equality will do."""
    changes = [*kind(name), ("outer", "update", update), ("outer", "num_steps", 2)]
    if name == "counts":
        changes = [("outer", "num_steps", 2)]
    tiny, store = recipe(*changes), str(tmp_path)
    begin_run(tiny, store)
    planning.keep_plan(tiny, store)
    value = stages.initial_value(Run(tiny, store))
    for outer_step in range(3):
        trained = train_all(tiny, store, value)
        if outer_step < 2:
            gradient = reverse_all(tiny, store, value, trained)
            value = stages.update(Run(tiny, store), outer_step, value, gradient)

    kept = read_forecast(store, run_name(tiny))
    written = sum(
        json.loads(path.read_text())["bytes"] for path in Path(store).glob("stages/*/*/record.json")
    )

    assert kept is not None
    assert kept.written_bytes == written > 0


@pytest.mark.slow
def test_the_fastest_that_fits_is_chosen_and_less_memory_is_never_faster():
    """The one promise of a planner."""
    wide = measured(*kind("weights"), ("training", "num_steps", 60))
    lengths = segment_lengths(wide.recipe)
    seconds = []

    for states in (6, 10, 20, 40, 100, 2000):
        found = choose(replace(wide, memory=Memory(states * 4 * STATE, 10**12)), lengths)
        assert all(
            each.peak_bytes["graphs"] + each.peak_bytes["device"] <= states * 4 * STATE
            for each in found
        )
        assert found[0].seconds.run == min(each.seconds.run for each in found)
        seconds.append(found[0].seconds.run)

    assert seconds == sorted(seconds, reverse=True)
    assert seconds[0] > seconds[-1]


def test_graphs_are_kept_only_where_they_make_the_same_bits():
    """A replay with other kernels than the training's would leave the trajectory."""
    apart = measured(*kind("weights"), costs=replace(COSTS, paths_agree=False))

    assert {each.unroll for each in choose(apart, [12])} == {1}
    assert choose(measured(*kind("weights")), [12])[0].unroll > 1


def test_what_cannot_fit_is_refused_with_the_cap_and_what_the_leanest_needs():
    """Out of memory after an hour is a poor way to say it."""
    small = measured(memory=Memory(device=STATE, host=STATE))

    with pytest.raises(ConfigurationError, match=r"No schedule fits.*bytes are needed and max_"):
        choose(small, [12])


def test_a_named_schedule_that_exceeds_a_given_cap_is_refused():
    """A cap is a promise to whoever shares the machine."""
    tiny = recipe(("replay", "schedule", "store-all"), ("replay", "max_device_bytes", 12 * STATE))
    given = MeasuredRun(
        tiny, build_problem(tiny), COSTS, Memory.of(tiny.replay, build_device(tiny)), 0.0
    )

    with pytest.raises(ConfigurationError, match=r"schedule is store-all.*max_device_bytes"):
        check_caps(given, tiny.replay)
    check_caps(given, tiny.replay.model_copy(update={"max_device_bytes": None}))


def build_device(tiny):
    return build_problem(tiny).routine.device


@pytest.mark.slow
def test_auto_is_resolved_once_and_kept_with_the_run(tmp_path):
    """A clock chooses, so a retry on another machine must not choose again."""
    tiny, store = recipe(*kind("weights"), ("replay", "schedule", "auto")), str(tmp_path)
    begin_run(tiny, store)
    planning.keep_plan(tiny, store)
    first = planning.followed(tiny, store)
    before = read_forecast(store, run_name(tiny))

    planning.keep_plan(tiny, store)
    again = planning.followed(tiny, store)
    value = stages.initial_value(Run(tiny, store))
    found = reverse_all(tiny, store, value, train_all(tiny, store, value))

    assert first == again
    assert first.schedule is not ScheduleName.AUTO
    assert read_forecast(store, run_name(tiny)) == before
    own = recipe(*kind("weights"))
    (other,) = {
        reverse_all(own, str(tmp_path / "own"), start, train_all(own, str(tmp_path / "own"), start))
        for start in [stages.initial_value(Run(own, str(tmp_path / "own")))]
    }
    assert found.content == other.content


@pytest.fixture
def forward_is_fast(monkeypatch):
    """A machine on which forward over reverse takes half of the reference's time."""

    def measured(tiny, store, problem, seconds):
        del store, seconds
        fast = tiny.replay.vjp is VjpMode.FORWARD_OVER_REVERSE
        costs = replace(COSTS, product=1.5 if fast else 3.0, paths_agree=False)
        return MeasuredRun(tiny, problem, costs, PLENTY, evaluation=0.0)

    fastest = VjpMode.FORWARD_OVER_REVERSE
    monkeypatch.setattr(planning, "_measured", measured)
    monkeypatch.setattr(planning, "fastest_product", lambda *_: fastest)
    return fastest


def reversed_with(store, mode, keep=True):
    """Carry out a tiny run whose product of a step is of some mode."""
    tiny = recipe(*kind("weights"), ("replay", "vjp", mode))
    begin_run(tiny, store)
    if keep:
        planning.keep_plan(tiny, store)
    value = stages.initial_value(Run(tiny, store))
    return tiny, reverse_all(tiny, store, value, train_all(tiny, store, value))


@pytest.mark.slow
def test_product_is_chosen_once_and_its_stages_are_those_of_the_named_one(
    tmp_path, monkeypatch, forward_is_fast
):
    """A key names the product that a plan has chosen, so no clock decides the bits of a key."""
    store = str(tmp_path / "auto")

    tiny, found = reversed_with(store, "auto")
    monkeypatch.setattr(planning, "fastest_product", lambda *_: VjpMode.REVERSE_OVER_REVERSE)
    planning.keep_plan(tiny, store)

    assert planning.settled(tiny, store).replay.vjp is forward_is_fast
    assert planning.followed(tiny, store).vjp is forward_is_fast
    _, named = reversed_with(str(tmp_path / "named"), forward_is_fast.value)
    assert (found.key, found.content) == (named.key, named.content)
    _, reference = reversed_with(str(tmp_path / "reference"), "reverse-over-reverse")
    assert found.key != reference.key
    _, unplanned = reversed_with(str(tmp_path / "unplanned"), "auto", keep=False)
    assert unplanned == reference  # where nobody has measured, no clock is asked


def test_product_that_does_not_pay_is_not_chosen(monkeypatch, forward_is_fast):
    """Whole plans are compared: the reference may keep graphs, and another product may not."""
    del forward_is_fast
    tiny = recipe(*kind("weights"), ("replay", "vjp", "auto"), ("replay", "schedule", "auto"))

    def measured(tiny, store, problem, seconds):
        del store, seconds
        return MeasuredRun(tiny, problem, replace(COSTS, product=2.9), PLENTY, evaluation=0.0)

    monkeypatch.setattr(planning, "_measured", measured)

    found = planning.plan(tiny, "memory://nowhere")

    assert found.product is VjpMode.REVERSE_OVER_REVERSE
    assert found.unroll > 1


@pytest.mark.slow
def test_measured_plan_holds_what_the_command_prints(tmp_path):
    """Real measurements of the tiny recipe, and nothing left in the store."""
    tiny = recipe(*kind("weights"))

    found = planning.plan(tiny, str(tmp_path), price=3600.0)

    content = found.content()
    assert content.keys() == {
        *("schedule", "segments", "unroll", "forward_steps", "reverse_steps", "peak_bytes"),
        *("written_bytes", "seconds", "alternatives", "price"),
    }
    assert content["peak_bytes"].keys() == {"graphs", "device", "host", "store"}
    assert content["price"] == pytest.approx(content["seconds"]["run"])
    assert first_step(tiny) == 0
    assert content["reverse_steps"] == 12
    assert {each["schedule"] for each in content["alternatives"]} >= {"sqrt", "binomial"}
    assert list(tmp_path.iterdir()) == []


def test_comparison_of_a_run_without_a_plan_is_empty(tmp_path):
    """Runs of other kinds have none, and mgd show must not fail for them."""
    assert compare(str(tmp_path), overview(str(tmp_path), "unknown-run")) == []


def test_settings_that_a_schedule_does_not_read_are_refused():
    """A setting without effect is a misunderstanding."""
    with pytest.raises(ValueError, match=r"num_slots is 3.*k-ary.*binomial or two-level"):
        ReplaySettings(schedule=ScheduleName.KARY, num_slots=3)
