"""What the engine makes of a problem that an adapter has made, and what moves its start."""

import torch

import engine
from engine.metaparameters.initial_parameters import InitialParameters
from engine.step.step import plain_step


def states_of(problem, **changes):
    """Return the parameters after each step of the engine; ``changes`` are of its routine."""
    weights = engine.ExampleWeights(torch.ones(len(problem.train)))
    routine = problem.routine({"weights": weights}, **changes)
    state, found = routine.initial_state(), []
    for step in range(routine.num_steps):
        state, _ = plain_step(routine, state, routine.point(), step)
        found.append(routine.layout.views(state["params"]))
    return found


def by_the_start(problem):
    """Return slopes of the output by the initial parameters, and their directions by name."""
    weights = engine.ExampleWeights(torch.ones(len(problem.train)))
    start = problem.routine({"weights": weights}).initial_state()["params"]
    routine = problem.routine({"start": InitialParameters(start)})
    found = engine.metagradient(routine, problem.phi)["start"]
    drawn = torch.Generator().manual_seed(2)
    directions = [torch.randn(start.shape, generator=drawn, dtype=start.dtype) for _ in range(3)]
    directions = [each / each.norm() for each in directions]
    slopes = [float(found @ each) for each in directions]
    return slopes, [routine.layout.views(each) for each in directions]


def moved(model, shift):
    """Return a model whose parameters are shifted, by name."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in shift:
                parameter.add_(shift[name])
    return model


def difference(loop, direction, step=2e-3):
    """Return the slope of a loop along a direction: central differences of the fourth order."""
    slopes = []
    for far in (step, step / 2):
        one, other = (loop({n: s * far * v for n, v in direction.items()}) for s in (1, -1))
        slopes.append((one - other) / (2 * far))
    return (4 * slopes[1] - slopes[0]) / 3
