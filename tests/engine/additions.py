"""One addition of each kind that ``engine/README.md`` tells how to add, as text that is written."""

from dataclasses import dataclass

from tests.engine.added_application import FLOW, FOLDER, USE

COMMON = """
import json
import torch
import engine
from engine.problems.built import build_problem
from engine.recipes.descent import DescentRecipe

def built(**settings):
    content = {
        "name": "addition", "problem": "digits", "outer": {"update": "sign"},
        "arguments": {"num_train": 20, "num_objective": 20, "num_validation": 20, "num_test": 20,
                      "model": {"width": 4, "depth": 1}},
        "training": {"num_steps": 6, "batch_size": 5, "dtype": "float64", "threads": 1},
        "metaparameters": {"name": "weights"},
    }
    for group, values in settings.items():
        both = isinstance(values, dict) and group != "arguments"
        content[group] = {**content.get(group, {}), **values} if both else values
    return build_problem(DescentRecipe.model_validate(content))

def slope(problem, **options):
    found = engine.metagradient(problem.routine, problem.output, **options)
    found = found[next(iter(problem.routine.metaparameters))]
    assert torch.isfinite(found).all() and found.any()
    return found

def refused(message, **settings):
    try:
        built(**settings)
    except ValueError as error:
        assert message in str(error), error
    else:
        raise AssertionError(f"{settings} were not refused")

def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-9, atol=0)
"""


@dataclass(frozen=True)
class Addition:
    """What an addition writes, and how it is used.

    Attributes:
        entry: File that gets an entry, and text that is put behind other texts in it; or a folder
            that is new, with its files.
        member: File that is new, with its content, or that gets an entry too.
        use: Python that uses it from a recipe and judges the metagradient.
    """

    entry: tuple[str, dict[str, str | None]]
    member: tuple[str, str | dict[str, str | None]]
    use: str


ADDITIONS = {
    "a metaparameter": Addition(
        entry=(
            "recipes/metaparameters.py",
            {
                '    OWN = "own"\n': ('    START_SCALE = "start-scale"\n'),
                '    """Kind: what of the set-up is differentiated by, and moved."""\n': (
                    "\n    first_scale: float = 1.0\n"
                    '    """Scale that start-scale begins with."""\n'
                ),
                "KINDS: dict[MetaparameterName, About] = {\n": (
                    "    MetaparameterName.START_SCALE: About(\n"
                    '        title="Scale of the start",\n'
                    '        caption="Factor on the initial parameters.",\n'
                    '        reads=frozenset({"first_scale"}),\n'
                    "    ),\n"
                ),
            },
        ),
        member=(
            "metaparameters/start_scale.py",
            '''
"""A factor on the initial parameters as metaparameter."""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.metaparameters.base import Metaparameter
from engine.metaparameters.setup import Setup


@dataclass(frozen=True, eq=False)
class StartScale(Metaparameter):
    """One factor on all initial parameters."""

    @classmethod
    def start(cls, setup: Setup) -> "StartScale":
        """Return the factor that the recipe names."""
        return cls(torch.full((1,), setup.settings.first_scale, dtype=setup.dtype))

    def enters(self, step: int) -> bool:
        """Say that no step reads z."""
        del step
        return False

    @property
    def shapes_start(self) -> bool:
        """Say that s_0 depends on z."""
        return True

    def initial(self, z: Tensor, params: Tensor) -> Tensor:
        """Return the scaled parameters."""
        return z.to(params.device) * params


KIND = StartScale
''',
        ),
        use="""
scaled = built(metaparameters={"name": "start-scale", "first_scale": 0.5})
half = scaled.routine.initial_state()["params"]
whole = built().routine.initial_state()["params"]
close(half, whole / 2)
free = built(metaparameters={"name": "initial-parameters"})
free = free.routine.with_metaparameters({"initial_parameters": half})
by_each = engine.metagradient(free, scaled.output)["initial_parameters"]
close(slope(scaled), (by_each @ whole)[None])
refused("first_scale is 0.5, but metaparameters.name is weights",
        metaparameters={"name": "weights", "first_scale": 0.5})
refused("moves counts by whole", metaparameters={"name": "start-scale"},
        outer={"update": "masked-sign"})

from engine.applications.descent.charts import draw_chart
from engine.metaparameters.by_name import kind_of
recipe = DescentRecipe(name="x", metaparameters={"name": "start-scale"}, outer={"update": "sign"})
chart = kind_of(recipe.metaparameters.name).chart(recipe, torch.ones(1), torch.ones(1) * 2)
draw_chart(chart, [("one", "black"), ("other", "blue")], torch.zeros(1, dtype=torch.bool))
""",
    ),
    "an optimizer": Addition(
        entry=(
            "recipes/optimizer.py",
            {
                '    MUON = "muon"\n': '    HEAVY_BALL = "heavy-ball"\n',
                "READS: dict[OptimizerName, frozenset[str]] = {\n": (
                    '    OptimizerName.HEAVY_BALL: frozenset({"momentum"}),\n'
                ),
            },
        ),
        member=(
            "routine/optimizers.py",
            {
                "def _any(number": None,  # before it
                "OPTIMIZERS: dict[OptimizerName, Callable[[OptimizerSettings], Optimizer]] = {\n": (
                    "    OptimizerName.HEAVY_BALL: lambda read: heavy_ball(read.momentum),\n"
                ),
            },
        ),
        use="""
plain = built(optimizer={"name": "sgd", "momentum": 0.6})
ball = built(optimizer={"name": "heavy-ball", "momentum": 0.6})
assert ball.routine.optimizer.name == "heavy-ball"
close(slope(ball), slope(plain))
refused("optimizer.beta1 is 0.5, but optimizer.name is heavy-ball, which does not read it",
        optimizer={"name": "heavy-ball", "beta1": 0.5})
""",
    ),
    "a learning-rate shape": Addition(
        entry=(
            "recipes/training.py",
            {
                '    """The same in all steps."""\n': (
                    '\n    SAWTOOTH = "sawtooth"\n    """Down in teeth."""\n'
                ),
                '    """Shape of the learning rate over the run."""\n': (
                    '\n    teeth: Annotated[int, Field(ge=1)] = 2\n    """Teeth of a sawtooth."""\n'
                ),
                "READS: dict[RateSchedule, frozenset[str]] = {\n": (
                    '    RateSchedule.SAWTOOTH: frozenset({"teeth"}),\n'
                ),
            },
        ),
        member=(
            "routine/rates.py",
            {
                "SHAPES: dict[RateSchedule, Shape] = {\n": (
                    "    RateSchedule.SAWTOOTH: lambda settings, step, warmup: (\n"
                    "        1 - (step * settings.teeth / settings.num_steps) % 1\n"
                    "    ),\n"
                ),
            },
        ),
        use="""
sawtooth = {"rate_schedule": "sawtooth", "teeth": 2, "learning_rate": 0.3}
shaped = built(training={**TRAINING, **sawtooth})
expected = [0.3, 0.2, 0.1, 0.3, 0.2, 0.1]
close(torch.tensor(shaped.routine.learning_rate).double(), torch.tensor(expected).double())
from dataclasses import replace
by_hand = replace(shaped.routine, learning_rate=expected)
close(slope(shaped), engine.metagradient(by_hand, shaped.output)["weights"])
refused("teeth is 3, but training.rate_schedule is flat", training={**TRAINING, "teeth": 3})
refused("warmup_steps is 2", training={**TRAINING, **sawtooth, "warmup_steps": 2})
""".replace("TRAINING", '{"num_steps": 6, "batch_size": 5, "dtype": "float64"}'),
    ),
    "a reverse schedule": Addition(
        entry=(
            "recipes/replay.py",
            {
                '    """The cheapest with states in a fast and in a slow tier."""\n': (
                    '\n    FROM_START = "from-start"\n'
                ),
                "READS: dict[ScheduleName, frozenset[str]] = {\n": (
                    '    ScheduleName.FROM_START: _ALWAYS | {"hops"},\n'
                ),
                '    """Schedule inside a segment."""\n': (
                    "\n    hops: Annotated[int, Field(ge=1)] = 1\n"
                    '    """Steps of a hop, for from-start."""\n'
                ),
            },
        ),
        member=(
            "schedules/from_start.py",
            '''
"""Nothing kept: every step is reached from the start again, in hops."""

from collections.abc import Iterator, Mapping

from engine.schedules.base import Room, Schedule, ScheduleRequest
from engine.schedules.trees import Action, Forward, Load, Reverse


def _make(request: ScheduleRequest, num_steps: int, start: int) -> Iterator[Action]:
    for step in range(start + num_steps - 1, start - 1, -1):
        yield Load(start, request.tier)
        for place in range(start, step, request.replay.hops):
            yield Forward(place, min(place + request.replay.hops, step))
        yield Reverse(step)


def _worth_a_try(room: Room) -> Iterator[Mapping[str, object]]:
    if room.slots < 2:
        yield {"hops": 2}


SCHEDULE = Schedule(_make, _worth_a_try)
''',
        ),
        use="""
problem = built()
assert torch.equal(slope(problem, schedule="from-start", hops=3), slope(problem))

from engine.errors import ConfigurationError
from engine.planning.choice import forecast
from engine.recipes.replay import ReplaySettings
from engine.schedules.base import Room
from engine.schedules.by_name import candidates, schedule_maker
from engine.schedules.simulator import measure
cost = measure(schedule_maker(ReplaySettings(schedule="from-start"))(4, 0), start=0)
assert (cost.forward_steps, cost.peak_states) == (6, 2)
tried = [{**each} for each in candidates(Room(9, 1, 1, None, 1.0))]
assert {"schedule": "from-start", "hops": 2} in tried
refused("hops is 2, but schedule is k-ary", replay={"hops": 2})
""",
    ),
    "a model": Addition(
        entry=(
            "recipes/arguments/model.py",
            {
                '    MLP = "mlp"\n': '    LINEAR = "linear"\n',
                '    """Architecture, one of the models that ship."""\n': (
                    "\n    rank: Annotated[int, Field(ge=1)] = 2\n"
                    '    """Width of a linear model\'s bottleneck."""\n'
                ),
            },
        ),
        member=(
            "models/linear.py",
            '''
"""A linear model through a bottleneck."""

import math

from torch import nn

from engine.models.base import Model
from engine.recipes.arguments.model import ModelSettings, Norm


def _features(
    settings: ModelSettings, input_shape: tuple[int, ...], num_classes: int
) -> tuple[nn.Module, int]:
    del num_classes
    narrow = nn.Linear(math.prod(input_shape), settings.rank)
    return nn.Sequential(nn.Flatten(), narrow), settings.rank


MODEL = Model(_features, norms=frozenset({Norm.NONE}), reads=frozenset({"rank"}))
''',
        ),
        use="""
SIZES = {"num_train": 20, "num_objective": 20, "num_validation": 20, "num_test": 20}
problem = built(arguments={**SIZES, "model": {"name": "linear", "rank": 3}})
assert sum(p.numel() for p in problem.routine.model.parameters()) == 65 * 3 + 4 * 10
slope(problem)
refused("rank is 3, which a mlp model does not read. Leave it out, or set arguments.model.name to "
        "linear", arguments={**SIZES, "model": {"name": "mlp", "rank": 3}})
refused("norm is layer", arguments={**SIZES, "model": {"name": "linear", "norm": "layer"}})
refused("depth is 5", arguments={**SIZES, "model": {"name": "linear", "depth": 5}})
""",
    ),
    "a problem": Addition(
        entry=(
            "problems/shipped.py",
            {
                "__all__ = [\n": '    "two_clouds",\n',
                "def digits(\n": None,  # before it
            },
        ),
        member=(
            "problems/two_clouds.py",
            '''
"""Two clouds of points."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from engine.problems.base import Problem


def two_clouds_problem(number: int) -> Problem:
    """Return points of two clouds, and a linear model that tells them apart."""
    labels = torch.randint(0, 2, (number + 60,))
    points = torch.randn(number + 60, 3) + labels[:, None]
    return Problem(
        model=lambda seed: nn.Linear(3, 2),
        loss=lambda model, batch: cross_entropy(model(batch[0]), batch[1], reduction="none"),
        train=(points[:number], labels[:number]),
        objective=(points[number:], labels[number:]),
    )
''',
        ),
        use="""
problem = built(problem="two-clouds", arguments={"number": 30})
assert slope(problem).shape == (30,)
refused("number", problem="two-clouds", arguments={"number": 0})
""",
    ),
    "an application": Addition(
        entry=("applications/many_starts/", FOLDER),
        member=("../flows/many_starts.py", FLOW),
        use=USE,
    ),
    "a figure of a descent": Addition(
        entry=(
            "applications/descent/report.py",
            {
                "from engine.applications.descent.figures import (\n": "    how_far,\n",
                "ORDER = (\n": "    how_far.section,\n",
            },
        ),
        member=(
            "applications/descent/figures/how_far.py",
            '''
"""Section of a descent: how far z moved."""

from engine.applications.descent.material import Material
from engine.reports.sections import Section, Table


def section(run: Material) -> Section | None:
    """Return the distance from z_0 to the chosen z; none where nothing moved."""
    if not run.record.chosen:
        return None
    moved = float((run.curves.value - run.curves.initial_value).norm())
    return Section("How far z moved", tables=[Table([{"Distance": f"{moved:.3f}"}])])
''',
        ),
        use="""
from tests.helpers.runs.made_records import make_record, render
page = render(make_record())  # counts from (1, 1, 1, 1) to (0, 1, 2, 0)
assert "How far z moved" in page and "1.732" in page
assert "How far z moved" not in render(make_record([(0.1, 0.1, 0.1), (0.5, 0.5, 0.5)]))
""",
    ),
}

HEAVY_BALL = '''def heavy_ball(momentum: float) -> Optimizer:
    """Polyak's heavy ball: p <- p - rate * g + momentum * (p - p_before), kept as a difference."""

    def init(params: Tensor) -> State:
        return {"moved": torch.zeros_like(params)}

    def update(state: State, gradient: Tensor, hyper: Hyperparameters, step: int | Tensor) -> State:
        del step
        moved = hyper["momentum"] * state["moved"] - hyper["learning_rate"] * gradient
        return {"params": state["params"] + moved, "moved": moved}

    return Optimizer("heavy-ball", {"momentum": momentum}, init, update)


'''

TWO_CLOUDS = '''def two_clouds(number: Number = 40) -> "Problem":
    """Points of two clouds, in two classes.

    Args:
        number: Training candidates.
    """
    from engine.problems.two_clouds import two_clouds_problem

    return two_clouds_problem(number)


'''

BEFORE = {
    "def _any(number": HEAVY_BALL,
    "def digits(\n": TWO_CLOUDS,
}
"""Texts that are put before others, where a docstring or a value stands behind them."""
