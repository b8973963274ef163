"""Plain training as anybody writes it: ``torch.optim``, ``loss.backward()``; the unit of cost."""

from typing import Any

import numpy as np
import torch

from tests.bench.rivals.models import per_example_loss
from tests.bench.rivals.protocol import Task, Unable, serve
from tests.bench.rivals.torch_task import TorchProblem, versions


class Plain:
    """Trains with the fused optimizers, and compiled if ``options["compile"]`` says so."""

    def prepare(self, task: Task) -> dict[str, Any]:
        """See ``Contender.prepare``."""
        self.problem = TorchProblem(task)
        model = self.problem.model
        self.initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}

        def loss(batch: Any, weights: torch.Tensor) -> torch.Tensor:
            return (weights * per_example_loss(model, batch)).mean()

        self.loss = torch.compile(loss) if task.options.get("compile") else loss
        return {**versions(), "computes": "plain training, no metagradient"}

    def warm(self) -> None:
        """See ``Contender.warm``."""
        self.plain()

    def plain(self) -> None:
        """See ``Contender.plain``."""
        problem = self.problem
        problem.model.load_state_dict(self.initial)
        optimizer = self._optimizer()
        for batch, rows in problem.steps():
            loss = self.loss(batch, problem.weights[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def forward(self) -> None:
        """See ``Contender.forward``."""
        raise Unable("plain training keeps no states")

    def whole(self) -> tuple[float, np.ndarray]:
        """See ``Contender.whole``."""
        raise Unable("plain training has no metagradient")

    def stored_bytes(self) -> int:
        """See ``Contender.stored_bytes``."""
        return 0

    def _optimizer(self) -> torch.optim.Optimizer:
        settings, params = self.problem.optimizer, list(self.problem.model.parameters())
        if settings["name"] == "sgd":
            return torch.optim.SGD(
                params, settings["learning_rate"], settings["momentum"], fused=True
            )
        # torch.optim has no eps_root; the cost is the same without.
        betas = (settings["beta1"], settings["beta2"])
        return torch.optim.AdamW(
            params,
            settings["learning_rate"],
            betas,
            settings["eps"],
            settings["weight_decay"],
            fused=True,
        )


if __name__ == "__main__":
    serve(Plain())
