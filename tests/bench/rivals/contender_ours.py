"""Our engine, as a notebook calls it; and its float64 reference.

``options["metagradient"]`` are the keyword arguments of ``engine.metagradient``, in which "sqrt"
and "2 log2" stand for numbers that depend on T; ``options["routine"]`` are the routine's fields.
With ``options["files"]`` the states are in a folder that is made anew for each metagradient.
"""

import math
import tempfile
from dataclasses import replace
from itertools import takewhile
from typing import Any

import numpy as np
import torch

import engine
from engine.numerics.determinism import deterministic
from engine.preflight.oracle import central_difference
from engine.recipes.replay import ReplaySettings, StepPath
from engine.replay.interpreter import Sweep, replay
from engine.replay.plain_training import train_unchecked
from engine.schedules.by_name import schedule_maker
from engine.schedules.simulator import measure
from engine.schedules.trees import Seed, Tier, whole_run
from engine.storage.states import MemoryStates
from tests.bench.rivals.models import per_example_loss
from tests.bench.rivals.protocol import Task, Unable, serve
from tests.bench.rivals.torch_task import TorchProblem, versions


class Ours:
    """One mode of the engine, or with ``options["reference"]`` the float64 reference."""

    def prepare(self, task: Task) -> dict[str, Any]:
        """See ``Contender.prepare``."""
        self.reference = bool(task.options.get("reference"))
        self.problem = TorchProblem(task, torch.float64 if self.reference else torch.float32)
        if self.problem.tf32:
            raise Unable(
                "a call in a notebook, which is what is measured here, turns TF32 off; a recipe "
                "has it with training.tf32"
            )
        self.routine, self.places = lay_out(self.problem)
        chosen = dict(task.options.get("routine", {}))
        if "path" in chosen:
            chosen["path"] = StepPath(chosen["path"])
        self.routine = replace(self.routine, **chosen)
        self.in_files = bool(task.options.get("files"))
        self.settings = _resolved(task.options["metagradient"], self.routine.num_steps)
        computes = "exact metagradient, every replayed state bit for bit"
        return {**versions(), "engine": self.settings, "computes": computes}

    def warm(self) -> None:
        """See ``Contender.warm``."""
        if not self.reference:
            # As many steps as graphs are kept, so that what is allocated later is there already.
            steps = max(2, min(self.settings.get("unroll", 2), self.routine.num_steps))
            short = replace(self.routine, num_steps=steps)
            self._differentiate(short)

    def plain(self) -> None:
        """See ``Contender.plain``."""
        train_unchecked(self.routine)

    def forward(self) -> None:
        """See ``Contender.forward``."""
        actions = takewhile(lambda action: not isinstance(action, Seed), self._actions())
        with deterministic():
            sweep = Sweep(state=self.routine.initial_state())
            tiers = {Tier.MEMORY: MemoryStates()}
            replay(actions, self.routine, self.routine.point(), tiers, sweep)

    def whole(self) -> tuple[float, np.ndarray]:
        """See ``Contender.whole``."""
        found = self._differentiate(self.routine)
        if self.reference:
            self._check(found)
        return found.output, found["weights"][self.places].cpu().numpy()

    def _differentiate(self, routine: engine.Routine) -> engine.Metagradient:
        if not self.in_files:
            return engine.metagradient(routine, self.problem.output, **self.settings)
        with tempfile.TemporaryDirectory() as folder:
            return engine.metagradient(routine, self.problem.output, store=folder, **self.settings)

    def stored_bytes(self) -> int:
        """See ``Contender.stored_bytes``."""
        state = self.routine.initial_state()
        size = sum(row.numel() * row.element_size() for row in state.values())
        return sum(measure(self._actions()).peak_saved.values()) * size

    def _actions(self) -> Any:
        names = ("schedule", "arity", "num_slots", "unroll")
        asked = {name: self.settings[name] for name in names if name in self.settings}
        maker = schedule_maker(ReplaySettings.model_validate(asked))
        return whole_run(self.routine.num_steps, maker, first_step=self.routine.first_step)

    def _check(self, found: engine.Metagradient) -> None:
        """Refuse a reference that two trainings contradict: it shares no product with them."""
        drawn = torch.Generator().manual_seed(0)
        weights = found["weights"]
        direction = torch.randn(len(weights), generator=drawn, dtype=weights.dtype)
        direction = direction.to(weights.device)
        expected = central_difference(
            self.routine, self.problem.output, {"weights": direction}, step_size=1e-6
        )
        error = abs(float(weights @ direction) - expected)
        # For 4 steps of the GPT the two differ by 1e-8 of the norm at this h, and by 100 times more
        # for an h ten times longer, as truncation does; the rest is room for longer runs.
        if error > 1e-5 * float(weights.norm()):
            raise ValueError(f"the float64 reference is off its central difference by {error:.1e}")


def _resolved(settings: dict[str, Any], num_steps: int) -> dict[str, Any]:
    numbers = {
        "sqrt": math.ceil(math.sqrt(num_steps)),
        "2 log2": math.ceil(2 * math.log2(num_steps)),
        "half": math.ceil(num_steps / 2),
        "all": num_steps,
    }
    return {
        name: numbers.get(value, value) if name != "schedule" else value
        for name, value in settings.items()
    }


def lay_out(problem: TorchProblem) -> tuple[engine.Routine, torch.Tensor]:
    """Return the run, and where the examples of the files stand in its weights.

    The engine draws examples in an order of its own. They are laid out so that what it draws for
    step t is what the files give that step.
    """
    settings = dict(problem.optimizer)
    rate = settings.pop("learning_rate")
    if settings.pop("name") == "sgd":
        optimizer = engine.sgd(settings["momentum"], weight_decay=settings["weight_decay"])
    else:
        betas = (settings.pop("beta1"), settings.pop("beta2"))
        optimizer = engine.adamw(betas, **settings)

    def routine(examples: Any, weights: torch.Tensor) -> engine.Routine:
        return engine.Routine(
            model=problem.model,
            loss=per_example_loss,
            examples=examples,
            optimizer=optimizer,
            learning_rate=rate,
            num_steps=problem.num_steps,
            batch_size=problem.batch_size,
            metaparameters={"weights": engine.ExampleWeights(weights)},
        )

    order = routine(problem.examples, problem.weights).order
    places = torch.cat([order.batch(step) for step in range(problem.num_steps)])
    laid_out = [torch.empty_like(column) for column in (*problem.examples, problem.weights)]
    for column, given in zip(laid_out, (*problem.examples, problem.weights), strict=True):
        column[places] = given
    return routine((laid_out[0], laid_out[1]), laid_out[2]), places


if __name__ == "__main__":
    serve(Ours())
