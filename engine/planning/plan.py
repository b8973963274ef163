"""Plans of recipes: measured before a run, kept with it, and followed by its reverse stages."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial

from engine.errors import ConfigurationError
from engine.numerics.determinism import deterministic
from engine.planning.choice import MeasuredRun, check_caps, choose, forecast, segment_lengths
from engine.planning.counted import counted_run, must_be_counted
from engine.planning.forecast import Alternative, Forecast, keep_forecast, read_forecast
from engine.problems.built import SPLITS, BuiltProblem, build_problem, make_step_vjp, num_uses
from engine.progress.meter import doing
from engine.recipes.descent import DescentRecipe
from engine.recipes.names import run_name
from engine.recipes.replay import ReplaySettings, ScheduleName, VjpMode
from engine.replay.interpreter import Sweep, replay
from engine.replay.seeding import seed_adjoint
from engine.replay.step_costs import measure_costs, median_seconds, plain_step_of
from engine.replay.sweep_costs import Memory, fits_at_once
from engine.routine.outputs import parts_of
from engine.schedules.trees import Forward
from engine.step.by_name import make_vjp
from engine.step.measured import fastest_of
from engine.step.products import join

_LONGEST = 0.5
"""Most seconds spent on measuring each quantity."""

_SHARE = 1e-3
"""Share of a run's own steps that measuring each quantity may take before it."""

_CHUNK = 1000
"""Examples scored at a time."""


def plan(
    recipe: DescentRecipe, store: str, price: float | None = None, num_outputs: int = 1
) -> Forecast:
    """Measure a recipe's step and choose how to reverse its run, segments included.

    Nothing is trained, and nothing is left in the store.

    Args:
        recipe: The set-up. Of its replay, the caps, the product and the segments are read; the
            schedule is one of the alternatives.
        store: fsspec URL of the store.
        price: Price of an hour of the device.
        num_outputs: K, outputs that one reverse sweep differentiates.

    Raises:
        ConfigurationError: If nothing fits into the memory allowed.
    """
    if must_be_counted(recipe):
        counted = _with_product(recipe, _resolved_mode(recipe.replay.vjp))
        measured, note = counted_run(counted, must_be_counted(recipe))
        return _chosen(measured, counted, price).model_copy(update={"note": note})
    problem = build_problem(recipe, store)
    return _with_fastest_product(
        recipe,
        problem,
        lambda each: _chosen(_measured(each, store, problem, _LONGEST), each, price),
        num_outputs,
    )


def _chosen(measured: MeasuredRun, recipe: DescentRecipe, price: float | None) -> Forecast:
    found = choose(measured, segment_lengths(recipe))
    own = [] if recipe.replay.schedule is ScheduleName.AUTO else [forecast(measured, recipe.replay)]
    return _forecast(found, own, price)


def keep_plan(recipe: DescentRecipe, store: str) -> None:
    """Predict what a run will cost, keep it with the run, and for the schedule auto, choose.

    A run that has a plan keeps it, also on another machine.

    Raises:
        ConfigurationError: If the schedule, or with auto every one, exceeds a cap.
    """
    if read_forecast(store, run_name(recipe)) is None:
        keep_forecast(recipe, store, plan_of_run(recipe, store))


def keep_predicted(
    recipe: DescentRecipe, store: str, of_kind: Callable[[Forecast], Forecast]
) -> None:
    """Predict the cost of a run that is not a descent, and keep it with the run.

    It changes no bit: the product of a step is the reference, as without a plan. If the recipe
    leaves the schedule to the planner, the run follows the one that is kept. If no plan can be
    made, none is kept, and the stages that reverse the run refuse it.

    Args:
        recipe: Recipe whose training is that of the run, under the run's name.
        store: fsspec URL of the store.
        of_kind: Turns the plan of a descent into that of the run.
    """
    if read_forecast(store, run_name(recipe)) is not None:
        return
    replay = recipe.replay
    changes: dict[str, object] = {"vjp": _resolved_mode(replay.vjp)}
    if replay.schedule is not ScheduleName.AUTO:  # these caps are of a descent's sweep
        changes |= dict.fromkeys(("max_device_bytes", "max_host_bytes", "max_store_bytes"))
    named = recipe.model_copy(update={"replay": replay.model_copy(update=changes)})
    with suppress(ConfigurationError):
        keep_forecast(recipe, store, of_kind(plan_of_run(named, store)))


def followed(recipe: DescentRecipe, store: str) -> ReplaySettings:
    """Return how a run is reversed, with what is auto resolved by the plan kept with it."""
    replay = settled(recipe, store).replay
    if replay.schedule is not ScheduleName.AUTO:
        return replay
    kept = read_forecast(store, run_name(recipe)) or plan_of_run(recipe, store)
    return kept.resolved(replay)


def settled(recipe: DescentRecipe, store: str) -> DescentRecipe:
    """Return a recipe whose product of a step is named: that of the plan kept with it, for auto.

    Without a plan, as in a check before a run, it is the reference, so that no measured time
    decides a bit.
    """
    if recipe.replay.vjp is not VjpMode.AUTO:
        return recipe
    kept = read_forecast(store, run_name(recipe))
    return _with_product(recipe, VjpMode.REVERSE_OVER_REVERSE if kept is None else kept.product)


def _with_product(recipe: DescentRecipe, vjp: VjpMode) -> DescentRecipe:
    replay = recipe.replay.model_copy(update={"vjp": vjp})
    return recipe.model_copy(update={"replay": replay})


def plan_of_run(recipe: DescentRecipe, store: str, num_outputs: int = 1) -> Forecast:
    """Return the plan that a run keeps: its own schedule, or with auto the fastest.

    Args:
        recipe: The set-up.
        store: fsspec URL of the store.
        num_outputs: K, outputs that one reverse sweep differentiates.
    """
    problem = build_problem(recipe, store)
    with doing("measuring what a step costs"):
        return _with_fastest_product(
            recipe, problem, lambda each: _measured_plan(each, store, problem), num_outputs
        )


def _with_fastest_product(
    recipe: DescentRecipe,
    problem: BuiltProblem,
    make: Callable[[DescentRecipe], Forecast],
    num_outputs: int,
) -> Forecast:
    """Return the better forecast where the recipe leaves the product of a step to the planner.

    The reference may keep graphs where a faster product may not, so whole plans are compared. Those
    are of one output: with several, whose products are most of a sweep, the faster product is
    taken.
    """
    if recipe.replay.vjp is not VjpMode.AUTO:
        return make(recipe)
    fastest = fastest_product(recipe, problem, num_outputs)
    if num_outputs > 1:
        return make(_with_product(recipe, fastest)).model_copy(update={"product": fastest})
    ways = {VjpMode.REVERSE_OVER_REVERSE, fastest}
    plans = {way: make(_with_product(recipe, way)) for way in sorted(ways)}
    chosen = min(plans, key=lambda way: plans[way].seconds.run)
    return plans[chosen].model_copy(update={"product": chosen})


def _resolved_mode(vjp: VjpMode) -> VjpMode:
    return VjpMode.REVERSE_OVER_REVERSE if vjp is VjpMode.AUTO else vjp


def _measured_plan(recipe: DescentRecipe, store: str, problem: BuiltProblem) -> Forecast:
    num_steps = recipe.training.num_steps * recipe.outer.num_steps
    seconds = min(_LONGEST, _SHARE * num_steps * _quick(problem))
    measured = _measured(recipe, store, problem, seconds)
    if recipe.replay.schedule is ScheduleName.AUTO:
        # The segments are those of the recipe: they shape the stages.
        return _forecast(choose(measured, [recipe.replay.steps_per_segment]), [], None)
    check_caps(measured, recipe.replay)
    return _forecast([forecast(measured, recipe.replay)], [], None)


def fastest_product(recipe: DescentRecipe, problem: BuiltProblem, num_outputs: int = 1) -> VjpMode:
    """Measure the ways to the product of a step, at s_0; compile where that may pay for itself.

    Of several outputs, whose own adjoints are not there before the training, the product is
    measured on as many multiples of one. The sweep compares its first products again.
    """
    routine = problem.routine
    whole = routine.statistics is None and routine.own is None and routine.piece is None
    if not whole or routine.shards > 1 or recipe.replay.micro_batch is not None:
        return VjpMode.REVERSE_OVER_REVERSE
    z, state, step = routine.point(), routine.initial_state(), plain_step_of(routine)
    output = problem.output
    part = next(parts_of(output))
    with deterministic(recipe.training.threads, tf32=recipe.training.tf32):
        _, cotangent = seed_adjoint(routine, state, part)
        if num_outputs > 1:
            multiples = [
                {n: (1 + k) * row for n, row in cotangent.items()} for k in range(num_outputs)
            ]
            cotangent = join(multiples)
        replay = recipe.replay
        vjp = make_vjp(
            replay.vjp, num_uses=num_uses(recipe, routine), fits=partial(fits_at_once, replay)
        )
        vjp(routine, state, z, step, cotangent)
    return routine.programs.get(fastest_of(num_outputs), VjpMode.REVERSE_OVER_REVERSE)


def _quick(problem: BuiltProblem) -> float:
    """Return a rough estimate of the seconds of a plain step."""
    routine = problem.routine
    z, state = routine.point(), routine.initial_state()
    with deterministic():
        return median_seconds(
            lambda: replay([Forward(0, 1)], routine, z, {}, Sweep(state=state)), routine.device
        )


def _measured(
    recipe: DescentRecipe, store: str, problem: BuiltProblem, seconds: float
) -> MeasuredRun:
    routine = problem.routine
    with deterministic(recipe.training.threads, tf32=recipe.training.tf32):
        vjp = make_step_vjp(recipe, routine)
        costs = measure_costs(routine, problem.output, vjp, store, seconds=seconds)
        evaluation = _evaluation_seconds(problem)
    return MeasuredRun(recipe, problem, costs, Memory.of(recipe.replay, routine.device), evaluation)


def _evaluation_seconds(problem: BuiltProblem) -> float:
    state = problem.routine.initial_state()
    examples = max((problem.held_out[name] for name in SPLITS), key=len)
    few = min(len(examples), _CHUNK)
    some = examples.first(few)

    def score() -> None:
        problem.scores(state, {"some": some})

    total = sum(len(problem.held_out[name]) for name in SPLITS)
    return median_seconds(score, problem.routine.device) * total / few


def _forecast(found: list[Alternative], own: list[Alternative], price: float | None) -> Forecast:
    """Keep the best of each schedule, and the recipe's own."""
    best: dict[ScheduleName, Alternative] = {}
    for each in found:
        best.setdefault(each.schedule, each)
    shown = [each for each in best.values() if each != found[0]]
    shown += [each for each in own if each not in [found[0], *shown]]
    return Forecast(
        **found[0].model_dump(),
        alternatives=sorted(shown, key=lambda each: each.seconds.run),
        price=None if price is None else price * found[0].seconds.run / 3600,
    )
