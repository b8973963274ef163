"""TorchOpt as its users unroll: functional updates with ``create_graph``, every graph kept."""

from typing import Any

import numpy as np
import torch
import torchopt
from torch.func import functional_call

from tests.bench.rivals.models import per_example_loss
from tests.bench.rivals.protocol import Task, Unable, free_memory, resident, serve
from tests.bench.rivals.torch_task import TorchProblem, versions

PROBED_STEPS = 3


class TorchOpt:
    """Unrolls the whole run in autograd's graph; declines when that does not fit in memory."""

    def prepare(self, task: Task) -> dict[str, Any]:
        """See ``Contender.prepare``."""
        self.problem = TorchProblem(task)
        self.optimizer = make_optimizer(self.problem.optimizer)
        if self.problem.device.type == "cpu":
            self._check_memory()
        return {
            **versions(),
            "torchopt": torchopt.__version__,
            "computes": "exact metagradient by autograd through the whole run",
        }

    def warm(self) -> None:
        """See ``Contender.warm``."""
        self._train(self.problem.weights.detach().requires_grad_(), PROBED_STEPS, trace=True)

    def plain(self) -> None:
        """See ``Contender.plain``."""
        self._train(self.problem.weights, self.problem.num_steps, trace=False)

    def forward(self) -> None:
        """See ``Contender.forward``."""
        weights = self.problem.weights.detach().requires_grad_()
        self._train(weights, self.problem.num_steps, trace=True)

    def whole(self) -> tuple[float, np.ndarray]:
        """See ``Contender.whole``."""
        weights = self.problem.weights.detach().requires_grad_()
        params = self._train(weights, self.problem.num_steps, trace=True)
        call = _bound(self.problem.model, params)
        output = self.problem.output(call)
        (gradient,) = torch.autograd.grad(output, weights)
        return float(output), gradient.cpu().numpy()

    def stored_bytes(self) -> None:
        """See ``Contender.stored_bytes``: its graphs are no states."""

    def _train(self, weights: torch.Tensor, num_steps: int, *, trace: bool) -> Any:
        problem = self.problem
        params = {
            name: parameter.detach().clone().requires_grad_()
            for name, parameter in problem.model.named_parameters()
        }
        state = self.optimizer.init(params)
        for step in range(num_steps):
            batch, rows = problem.batch(step)
            losses = per_example_loss(_bound(problem.model, params), batch)
            loss = (weights[rows] * losses).mean()
            found = torch.autograd.grad(loss, list(params.values()), create_graph=trace)
            gradients = dict(zip(params, found, strict=True))
            with torch.set_grad_enabled(trace):
                updates, state = self.optimizer.update(
                    gradients, state, params=params, inplace=not trace
                )
                params = torchopt.apply_updates(params, updates, inplace=not trace)
        return params

    def _check_memory(self) -> None:
        before = resident()[0]
        weights = self.problem.weights.detach().requires_grad_()
        kept = self._train(weights, min(PROBED_STEPS, self.problem.num_steps), trace=True)
        a_step = (resident()[0] - before) / PROBED_STEPS
        del kept
        needed, free = a_step * self.problem.num_steps, free_memory()
        if needed > 0.8 * free:
            raise Unable(
                f"would keep {needed / 1e9:.0f} GB of graphs ({a_step / 1e6:.0f} MB a step), "
                f"and {free / 1e9:.0f} GB are free"
            )


def make_optimizer(settings: dict[str, Any]) -> Any:
    """Return the functional optimizer, with the same update equations as everybody's."""
    if settings["name"] == "sgd":
        return torchopt.sgd(
            settings["learning_rate"],
            momentum=settings["momentum"],
            weight_decay=settings["weight_decay"],
        )
    return torchopt.adamw(
        settings["learning_rate"],
        betas=(settings["beta1"], settings["beta2"]),
        eps=settings["eps"],
        eps_root=settings["eps_root"],
        weight_decay=settings["weight_decay"],
    )


def _bound(model: torch.nn.Module, params: Any) -> Any:
    return lambda inputs: functional_call(model, params, (inputs,))


if __name__ == "__main__":
    serve(TorchOpt())
