"""What the engine makes of a problem that an adapter has made, step by step."""

import torch

import engine
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
