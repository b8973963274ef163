"""The time that each stage of a run is expected to take, from which the time left is estimated.

Weights are the seconds of the plan that is kept with the run, or plain steps where there is none.
What no plan has measured is given in plain steps, as a guess.
"""

from collections.abc import Sequence
from dataclasses import replace

from engine.planning.forecast import Forecast
from engine.planning.pace import python_pace
from engine.planning.searches import num_trials, together
from engine.problems.segments import first_step, segments
from engine.progress.counted import pull_of, sweep_work
from engine.progress.time_left import PULL, REPORT, UPDATE, Work
from engine.recipes.comparisons import BaselineName, is_initial
from engine.recipes.descent import DescentRecipe
from engine.recipes.replay import ScheduleName
from engine.schedules.by_name import NamedScheduleMaker, schedule_maker
from engine.schedules.segments import Segment

_PREFLIGHT_STEPS = 900.0
"""Plain steps that the checks of a preflight take on short twins, those in float64 too: about 500
of a small net, whose twins are trained together, and 1,300 of a small ResNet."""

INJECTED_EXAMPLES, INJECTED_STEPS, LONGEST_INJECTED = 256, 9, 1000
"""Of counts, the preflight compares the injection step with others: so many examples at so many
steps, of runs that are no longer (``engine.preflight.injection``)."""

_BASELINE_STEPS = {
    BaselineName.LOW_LOSS: (5.0, 0.3),
    BaselineName.GRADIENT_SIMILARITY: (30.0, 2.0),
    BaselineName.GRADIENT_CANCELLING: (2200.0, 0.0),
}
"""Plain steps of baselines that look at each candidate: some at once, and some for each batch of
them. Losses are a forward pass; cosines a pass forward and backward with a gradient for each, which
took 1.9 to 2.8 plain steps a batch with a small ResNet and 8.6 with an MLP, whose batches are few;
changes are chosen step by step."""

_EPOCHS = 4.0
"""Times that a training sees an example, where the recipe does not say how many there are."""

_FEW_STEPS = 2.0
"""Plain steps of a stage that hardly computes."""

_SCORING_STEPS = 10.0
"""Plain steps of scoring a model, and of seeding an adjoint."""

_REPORT_SECONDS = 1.7
"""Seconds of a record and a report, most of them for loading what draws figures, where
``python_pace`` is 1."""


class Expected:
    """The stages of a run as works.

    Args:
        recipe: The set-up.
        plan: What was predicted; None if nothing was.
        outputs: K, of the reverse sweep.
    """

    def __init__(self, recipe: DescentRecipe, plan: Forecast | None, outputs: int = 1) -> None:
        self.recipe, self.plan, self._outputs = recipe, plan, outputs
        self.parts = segments(recipe)
        self.reversed_parts = [part for part in self.parts if part.start >= first_step(recipe)]

    @property
    def in_seconds(self) -> bool:
        """Whether weights are seconds."""
        return self.plan is not None

    @property
    def batches(self) -> float:
        """Batches that all candidates fill."""
        training, number = self.recipe.training, self.recipe.arguments.get("num_train")
        if isinstance(number, int):
            return number / training.batch_size
        return self._num_steps(self.parts) / _EPOCHS

    def train(self, kind: str = "train") -> list[Work]:
        """Return the stages of one training."""
        whole = self.plan.seconds.train if self.plan else float(self._num_steps(self.parts))
        return [
            Work(kind, whole * steps / self._num_steps(self.parts), forward=steps)
            for steps in map(_length, self.parts)
        ]

    def score(self) -> Work:
        """Return the stage that scores a trained model."""
        return Work("evaluate", self.plan.seconds.evaluate if self.plan else _SCORING_STEPS)

    def sweep(self) -> list[Work]:
        """Return the stages of one reverse sweep, in their order, without its seed."""
        pull, parts = self._pull(), list(reversed(self.reversed_parts))
        works = [self._reverse(part, pull) for part in parts]
        if once := self._once():
            works[-1] = replace(works[-1], weight=works[-1].weight + once, once=once)
        if self.plan is None:
            return works
        # The plan has measured the sweep of one output.
        planned = works if self._outputs == 1 else [self._reverse(p, self._one()) for p in parts]
        whole = self.plan.seconds.reverse / sum(work.weight for work in planned)
        return [replace(each, kind="reverse", weight=whole * each.weight) for each in works]

    def outer_step(self) -> list[Work]:
        """Return the work of an outer step besides its training: seed, sweep and update."""
        seconds = self.plan.seconds if self.plan else None
        return [
            Work("seed", seconds.seed if seconds else _SCORING_STEPS),
            *self.sweep(),
            Work(UPDATE, seconds.update if seconds else _FEW_STEPS),
        ]

    def preflight(self) -> Work:
        """Return the checks before a run."""
        steps = _PREFLIGHT_STEPS
        if self.recipe.metaparameters.about.is_injected:
            steps += self._injected()
        return self.guess("preflight", steps)

    def _injected(self) -> float:
        """Return the plain steps of the run that counts have to be compared on, to its first k.

        They are not those of the run's own sweep, which injects every candidate at its k: that is
        most of it where there are many.
        """
        steps = self._num_steps(self.parts)
        if steps > LONGEST_INJECTED:
            return 0.0
        number = self.recipe.arguments.get("num_train")
        examples = min(INJECTED_EXAMPLES, number) if isinstance(number, int) else INJECTED_EXAMPLES
        batches = INJECTED_STEPS * examples / self.recipe.training.batch_size
        return steps + PULL * (steps - first_step(self.recipe) + batches)

    def guess(self, kind: str, steps: float = _FEW_STEPS) -> Work:
        """Return a stage that takes about so many plain steps."""
        return Work(kind, steps * (self.plan.seconds.step if self.plan else 1.0), rough=True)

    def trainings(self, kind: str, number: int, *, scored: bool = False) -> Work:
        """Return a stage of trainings, perhaps as one, that may score queries after each."""
        return self._trainings(kind, number, together(number, scored=scored))

    def trials(self, kind: str, number: int) -> Work:
        """Return a stage that carries out so many trainings, each of which waits for the last."""
        return self._trainings(kind, number, float(number))

    def _trainings(self, kind: str, number: int, weight: float) -> Work:
        steps = self._num_steps(self.parts)
        one = self.plan.seconds.train if self.plan else float(steps)
        return Work(kind, weight * one, forward=number * steps, rough=True)

    def descent_step(self, kind: str) -> Work:
        """Return a stage that trains, reverses the run and moves the metaparameters."""
        works = [*self.train(), *self.outer_step()]
        return Work(
            kind,
            sum(work.weight for work in works),
            sum(work.forward for work in works),
            sum(work.reverse for work in works),
            self._pull(),
            rough=True,
        )

    def report(self) -> Work:
        """Return the end of a run."""
        weight = python_pace() * _REPORT_SECONDS if self.plan else 10 * _SCORING_STEPS
        return Work(REPORT, weight, rough=True)

    def _reverse(self, part: Segment, pull: float) -> Work:
        """Return the reverse stage of a segment, with its replays, in plain steps."""
        steps, replay = _length(part), self.recipe.replay
        if replay.schedule is ScheduleName.AUTO:
            if self.plan is None:
                return Work("reverse", steps * (1 + pull), steps, steps, pull)
            replay = self.plan.resolved(replay)
        return sweep_work(schedule_maker(replay), steps, pull)

    def _pull(self) -> float:
        """Return the plain steps that a reverse step costs."""
        if self.plan is None:
            return pull_of(self._outputs)
        return self._one() * pull_of(self._outputs) / PULL

    def _one(self) -> float:
        """Return the plain steps that a reverse step of one output costs, by the plan."""
        return PULL if self._injects_once else self._planned()

    @property
    def _injects_once(self) -> bool:
        """Whether all candidates enter at one step, at which the sweep ends."""
        return (
            self.recipe.metaparameters.about.is_injected and len(self.recipe.injection_steps) == 1
        )

    def _once(self) -> float:
        """Return the plain steps of the candidates that enter at one step; 0 if none do."""
        if not self._injects_once:
            return 0.0
        if self.plan is None:
            return PULL * self.batches
        return max(self._planned() - PULL, 0.0) * self.plan.reverse_steps

    def _planned(self) -> float:
        """Return the plain steps of a reversed step, what enters at it included, by the plan."""
        assert self.plan is not None
        seconds, steps = self.plan.seconds, self._num_steps(self.parts)
        replayed = (self.plan.forward_steps - steps) * seconds.step
        each = (seconds.reverse - replayed) / max(self.plan.reverse_steps, 1)
        return max(each / seconds.step, 1.0) if seconds.step else PULL

    @staticmethod
    def _num_steps(parts: list[Segment]) -> int:
        return sum(map(_length, parts))


def works_of_parts(
    parts: Sequence[tuple[int, bool]],
    maker: NamedScheduleMaker,
    num_outer: int,
    *,
    with_preflight: bool,
) -> list[Work]:
    """Return the works of a descent without a recipe, weighed in plain steps.

    Args:
        parts: Steps of each segment, and whether it is reversed.
        maker: Makes the schedule inside a segment.
        num_outer: Outer steps.
        with_preflight: Whether the checks are made first.
    """
    once = [Work("preflight", _PREFLIGHT_STEPS, rough=True)] if with_preflight else []
    train = [Work("train", float(steps), forward=steps) for steps, _ in parts]
    sweep = [sweep_work(maker, steps) for steps, is_reversed in reversed(parts) if is_reversed]
    score, seed = Work("evaluate", _SCORING_STEPS), Work("seed", _SCORING_STEPS)
    outer_step = [*train, score, seed, *sweep, Work(UPDATE, _FEW_STEPS)]
    return [*once, *outer_step * num_outer, *train, score]


def works_of_descent(_recipe: DescentRecipe, expected: Expected) -> list[Work]:
    """Return all stages of a descent, as those of other kinds are asked for."""
    return descent_works(expected)


def descent_works(expected: Expected) -> list[Work]:
    """Return all stages of a descent, its comparisons included, in their order."""
    num_outer = expected.recipe.outer.num_steps
    works = [expected.preflight(), expected.guess("initial")]
    for number in range(num_outer + 1):
        works += [*expected.train(), expected.score()]
        works += expected.outer_step() if number < num_outer else []
    return [*works, *comparison_works(expected), expected.report()]


def comparison_works(expected: Expected) -> list[Work]:
    """Return the stages of what a descent is compared with."""
    recipe = expected.recipe
    works: list[Work] = []
    for name in recipe.baselines:
        if name is BaselineName.LABEL_FLIP:
            works.append(expected.trainings("retrain", 1))
        elif not is_initial(name, recipe.metaparameters.kept):
            once, each = _BASELINE_STEPS.get(name, (_FEW_STEPS, 0.0))
            steps = once + each * expected.batches
            works += [expected.guess("baseline", steps), *expected.train(), expected.score()]
    works += [
        expected.trainings("schedules", number) for number in map(len, recipe.schedules.chunks)
    ]
    if trials := num_trials(recipe):
        works.append(expected.trials("optuna", trials))
    return works + [expected.trainings("retrain", 1) for _ in range(2 * len(recipe.reruns))]


def _length(part: Segment) -> int:
    return part.stop - part.start
