"""What every torch contender does with a problem's files; known in the rivals' environments too."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from tests.bench.rivals.models import build, per_example_loss
from tests.bench.rivals.protocol import Task, Unable


class TorchProblem:
    """A problem as tensors on its device, after the threads and the precision are set.

    Attributes:
        model: The module with the initial values, in training mode.
        weights: One for each example.
        batches: Inputs, labels and weights' indices of step t, as slices.
    """

    def __init__(self, task: Task, dtype: torch.dtype = torch.float32) -> None:
        """See ``Contender.__init__``."""
        content, data = task.content, task.data()
        torch.set_num_threads(task.options["threads"])
        self.device = torch.device(task.options["device"])
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise Unable(f"torch {torch.__version__} of this environment finds no CUDA device")
        self.tf32 = task.options["precision"] == "tf32"
        torch.set_float32_matmul_precision("high" if self.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = self.tf32
        self.num_steps, self.batch_size = content["num_steps"], content["batch_size"]
        self.optimizer = content["optimizer"]
        self.model: nn.Module = build(content["model"])
        initial = {name: torch.from_numpy(array) for name, array in task.initial().items()}
        self.model.load_state_dict(initial, strict=False)
        self.model.to(self.device, dtype)

        def place(name: str) -> Tensor:
            tensor = torch.from_numpy(data[name]).to(self.device)
            return tensor.to(dtype) if tensor.is_floating_point() else tensor

        self.examples = (place("inputs"), place("labels"))
        self.held_out = (place("held_out_inputs"), place("held_out_labels"))
        self.weights = place("weights")

    def batch(self, step: int) -> tuple[tuple[Tensor, Tensor], slice]:
        """Return the examples of a step, and which they are."""
        rows = slice(step * self.batch_size, (step + 1) * self.batch_size)
        return (self.examples[0][rows], self.examples[1][rows]), rows

    def steps(self) -> Iterator[tuple[tuple[Tensor, Tensor], slice]]:
        """Yield the examples of every step."""
        return (self.batch(step) for step in range(self.num_steps))

    def output(self, model: nn.Module) -> Tensor:
        """Return the mean loss of the held-out examples."""
        return per_example_loss(model, self.held_out).mean()


def versions() -> dict[str, str]:
    """Name the torch that a contender ran on."""
    return {"torch": torch.__version__}
