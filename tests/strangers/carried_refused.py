"""Runs whose forward pass moves buffers and loses a derivative: each is refused by name."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.strangers.carried import COUNT, ONE, WIDTH, ZEROS, Checkpointed, Moves, centre, moves
from tests.strangers.plain import Variant


def _read_as_a_number(net, hidden):
    found = hidden * (1 + net.kept.item())
    if net.training:
        net.kept.lerp_(hidden.detach().mean(), 0.2)
    return found


def _written_as_a_number(net, hidden):
    if net.training:
        net.kept.mul_(0.8).add_(hidden.mean().item(), alpha=0.2)
    return hidden * (1 + net.kept)


def _by_numpy(net, hidden):
    if net.training:
        moved = 0.8 * net.kept.numpy() + 0.2 * hidden.detach().numpy().mean(0)
        net.kept.copy_(torch.from_numpy(moved))
    return hidden * (1 + net.kept)


def _number_in_evaluation(net, hidden):
    if net.training:
        net.kept.lerp_(hidden.detach().mean(), 0.2)
        return hidden
    return hidden * (1 + float(net.kept))


def _in_inference_mode(net, hidden):
    if net.training:
        with torch.inference_mode():
            mean = hidden.mean(0)
        net.kept.lerp_(mean.clone(), 0.1)
    return hidden - net.kept


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, kept):
        kept.lerp_(hidden.mean(0), 0.1)
        return hidden.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def _by_a_function(net, hidden):
    found = _Function.apply(hidden, net.kept) if net.training else hidden
    return found - net.kept


def _late(net, hidden):
    if net.training:
        net.count += 1
        if net.count == 4:
            net.kept.copy_(hidden.detach().mean(0))
    return hidden * (1 + net.kept)


def _late_without_a_counter(net, hidden):
    if net.training and float(net.last.bias.detach().abs().max()) < _LATE:
        net.kept.lerp_(hidden.detach().mean(0), 0.5)
    return hidden * (1 + net.kept)


_LATE = 0.235


def _grows(net, hidden):
    if net.training:
        net.kept = torch.cat([net.kept, hidden.detach().mean(0)[:1]])
    return hidden + net.kept.mean()


def _counts_and_then_follows(net, hidden):
    if net.training:
        net.count += 1
        net.kept.copy_(hidden.detach().mean() if net.count > 3 else 0.1 * net.count)
        return hidden
    return hidden * (1 + net.kept)


def _counts_and_then_is_a_number(net, hidden):
    if net.training:
        net.count += 1
        net.kept.copy_(torch.tensor(hidden.mean().item()) if net.count > 3 else 0.1 * net.count)
        return hidden
    return hidden * (1 + net.kept)


def _a_number_later(net, hidden):
    if net.training:
        net.count += 1
        mean = hidden.detach().mean()
        net.kept.lerp_(mean.new_tensor(mean.item()) if net.count > 3 else mean, 0.2)
        return hidden
    return hidden * (1 + net.kept)


def _late_by_another(net, hidden):
    if net.training:
        net.count += 1
        if net.count > 3:
            net.kept = hidden.detach().mean(0)
    return hidden


def _late_in_what_is_frozen(net, hidden):
    if net.training:
        net.count += 1
        if net.count > 3:
            net.frozen.lerp_(hidden.detach().mean(0), 0.3)
    return hidden * (1 + net.frozen)


class Holds(Moves):
    """A net that holds more than its buffers: what ``adds`` gives it."""

    def __init__(self, does: Callable, adds: Callable, buffers: dict[str, Tensor]) -> None:
        super().__init__(does, buffers)
        self.double()
        adds(self)


def holds(does: Callable, adds: Callable, **buffers: Tensor) -> Variant:
    """Return a run of such a net."""
    return Variant(lambda: Holds(does, adds, buffers))


def _a_view(net):
    net.part = net.kept[: WIDTH // 2]


def _two_names(net):
    net.register_buffer("other", net.kept)


def _a_frozen_one(net):
    net.frozen = nn.Parameter(torch.zeros(WIDTH, dtype=torch.float64), requires_grad=False)


def _read_by_its_view(net, hidden):
    centre(net, hidden)
    return hidden if net.training else hidden * (1 + net.part.sum())


def _one_of_two_replaced(net, hidden):
    if net.training:
        net.kept = torch.lerp(net.kept, hidden.detach().mean(0), 0.2)
    return hidden * (1 + net.kept) - net.other


def _other_of_two_replaced(net, hidden):
    if net.training:
        net.other = torch.lerp(net.other, hidden.detach().mean(0), 0.2)
    return hidden * (1 + net.kept) - net.other


def _made_by_the_call(net, hidden):
    if not hasattr(net, "made"):
        net.register_buffer("made", hidden.detach().mean(0))
    return centre(net, hidden) - net.made


def _by_a_gradient(write: Callable) -> Callable:
    def does(net, hidden):
        if net.training:
            net.kept.lerp_(hidden.detach().mean(0), 0.2)
            hidden.register_hook(lambda gradient: write(net.kept, gradient.abs().mean(0)))
        return hidden - net.kept

    return does


def _in_place(kept, moved):
    kept.lerp_(moved, 0.3)


def _in_data(kept, moved):
    kept.data.lerp_(moved, 0.3)


_NUMBER = r"taken out of the graph"
REFUSED: dict[str, tuple[Variant, str]] = {
    "read as a number": (
        moves(_read_as_a_number, kept=ONE),
        f"reads the buffers 'kept'.*{_NUMBER}",
    ),
    "written as a number": (moves(_written_as_a_number, kept=ONE), _NUMBER),
    "numpy": (moves(_by_numpy, kept=ZEROS), _NUMBER),
    "a number in evaluation": (moves(_number_in_evaluation, kept=ONE), "output is off"),
    "inference mode": (moves(_in_inference_mode, kept=ZEROS), _NUMBER),
    "a function of its own": (moves(_by_a_function, kept=ZEROS), _NUMBER),
    "moves later": (moves(_late, kept=ZEROS, count=COUNT), "'kept'|detach"),
    "moves later, with what was learned": (
        moves(_late_without_a_counter, kept=ZEROS),
        "left alone in the first steps",
    ),
    "moves twice in a checkpoint": (
        Variant(lambda: Checkpointed(torch.sin).double()),
        "backward pass writes into the buffer 'kept'",
    ),
    "counts, and then follows": (
        moves(_counts_and_then_follows, kept=ONE, count=COUNT),
        "follows them now",
    ),
    "counts, and then is a number": (
        moves(_counts_and_then_is_a_number, kept=ONE, count=COUNT),
        "follows them now",
    ),
    "a number later": (moves(_a_number_later, kept=ONE, count=COUNT), f"{_NUMBER}.*begins with"),
    "another tensor later": (
        moves(_late_by_another, kept=ZEROS, count=COUNT),
        "'kept', which it left alone in the first steps",
    ),
    "what is frozen later": (
        holds(_late_in_what_is_frozen, _a_frozen_one, count=COUNT),
        "'frozen', which it left alone in the first steps",
    ),
    "read by its view": (
        holds(_read_by_its_view, _a_view, kept=ZEROS),
        "'part' lies in the memory of 'kept'",
    ),
    "one of two names replaced": (
        holds(_one_of_two_replaced, _two_names, kept=ZEROS),
        "'kept' in 2 places",
    ),
    "the other of two names replaced": (
        holds(_other_of_two_replaced, _two_names, kept=ZEROS),
        "'kept' in 2 places",
    ),
    "made by the call": (moves(_made_by_the_call, kept=ZEROS), "reads something besides"),
    "written with a gradient": (
        moves(_by_a_gradient(_in_place), kept=ZEROS),
        "backward pass writes into the buffer 'kept'",
    ),
    "written with a gradient, by .data": (
        moves(_by_a_gradient(_in_data), kept=ZEROS),
        "backward pass writes into the buffer 'kept'",
    ),
    "grows": (moves(_grows, kept=torch.zeros(1)), "'kept' changes during training"),
}
