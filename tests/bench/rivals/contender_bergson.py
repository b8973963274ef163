"""bergson's ``Trainer``, called as its own command ``bergson magic`` calls it.

``options["save_mode"]`` is its schedule. Checkpoints go to memory (``/dev/shm``) if there is such a
folder, which spares it the disk. The data stream is ours, with the interface of its ``DataStream``,
because that one knows text only; the model returns a scalar loss, which its trainer accepts.
"""

import importlib.metadata
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bergson.magic.trainer import BackwardState, Trainer, TrainerState
from torch import Tensor, nn
from torchopt.pytree import tree_iter

from tests.bench.rivals.contender_torchopt import make_optimizer
from tests.bench.rivals.models import per_example_loss
from tests.bench.rivals.protocol import Task, serve
from tests.bench.rivals.torch_task import TorchProblem, versions


class WeightedLoss(nn.Module):
    """The scalar loss of a batch, which bergson's trainer takes as a model's answer."""

    def __init__(self, model: nn.Module) -> None:
        """See ``Contender.__init__``."""
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, labels: Tensor, example_weight: Tensor, **_: Any) -> Tensor:
        """Return the weighted mean loss."""
        return (example_weight * per_example_loss(self.model, (inputs, labels))).mean()


class Stream:
    """What bergson's trainer asks of a data stream."""

    def __init__(self, problem: TorchProblem) -> None:
        """See ``Contender.__init__``."""
        self.problem, self.device = problem, problem.device
        self.weights = nn.Parameter(problem.weights.clone())
        # Its loss is divided by the number of marked tokens; one a row gives the batch size.
        self.mask = torch.ones(problem.batch_size, 1, device=self.device)

    @property
    def requires_grad(self) -> bool:
        """Whether the weights are differentiated."""
        return self.weights.requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.weights.requires_grad = value

    def __len__(self) -> int:
        return self.problem.num_steps

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        (inputs, labels), rows = self.problem.batch(step)
        return {
            "inputs": inputs,
            "labels": labels,
            "example_weight": self.weights[rows],
            "shift_loss_mask": self.mask,
        }


class Bergson:
    """Trains with checkpoints, then pulls the output's gradient back; weights are per example."""

    def prepare(self, task: Task) -> dict[str, Any]:
        """See ``Contender.prepare``."""
        self.problem = TorchProblem(task)
        self.save_mode = task.options["save_mode"]
        self.model = WeightedLoss(self.problem.model)
        optimizer = make_optimizer(self.problem.optimizer)
        self.trainer, self.initial = Trainer.initialize(self.model, optimizer)
        self.stored = 0
        return {
            **versions(),
            "bergson": importlib.metadata.version("bergson"),
            "computes": f"exact metagradient, save_mode={self.save_mode}",
        }

    def warm(self) -> None:
        """See ``Contender.warm``."""
        num_steps, self.problem.num_steps = self.problem.num_steps, 2
        self.whole()
        self.problem.num_steps = num_steps

    def plain(self) -> None:
        """See ``Contender.plain``."""
        self._train(None, "final")

    def forward(self) -> None:
        """Return the weighted mean loss."""
        with _folder() as folder:
            self._train(folder, self.save_mode)

    def whole(self) -> tuple[float, np.ndarray]:
        """See ``Contender.whole``."""
        with _folder() as folder:
            state, stream = self._train(folder, self.save_mode)
            self.stored = sum(path.stat().st_size for path in Path(folder).rglob("*"))
            with state.activate(self.model) as params:
                output = self.problem.output(self.problem.model)
                found = torch.autograd.grad(output, list(params.values()))
            state.detach_()
            stream.requires_grad = True
            moments = [
                torch.zeros_like(moment)
                for moment in tree_iter(state.opt_state)
                if isinstance(moment, Tensor) and moment.is_floating_point()
            ]
            seed = BackwardState(
                dict(zip(params, found, strict=True)), moments, torch.zeros_like(stream.weights)
            )
            pulled = self.trainer.backward(
                folder, stream, seed, state, inplace=True, save_mode=self.save_mode
            )
        return float(output.detach()), pulled.weight_grads.detach().cpu().numpy()

    def stored_bytes(self) -> int:
        """Return the bytes of its checkpoints when the forward sweep has ended."""
        return self.stored

    def _train(self, folder: str | None, save_mode: str) -> tuple[TrainerState, Stream]:
        stream = Stream(self.problem)
        stream.requires_grad = False
        state = self.initial.to(self.problem.device).detach_()
        state = self.trainer.train(
            state, stream, inplace=True, save_dir=folder, save_mode=save_mode
        )
        return state, stream


def _folder() -> Any:
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 4e9
    return tempfile.TemporaryDirectory(dir=memory if roomy else None)


if __name__ == "__main__":
    serve(Bergson())
