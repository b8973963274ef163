"""Runs whose forward pass moves buffers by rules of its own: those that are right."""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import engine
from tests.strangers.plain import Variant, mlp
from tests.strangers.wrong_parts import Kept, Teacher, by_copy, by_data, by_lerp, by_one

WIDTH = 10


class Moves(nn.Module):
    """A net that does something with buffers between two layers."""

    def __init__(self, does: Callable, buffers: dict[str, Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.does = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 3), does
        for name, value in buffers.items():
            self.register_buffer(name, value.clone())

    def forward(self, inputs: Tensor) -> Tensor:
        """Call what does something."""
        hidden = torch.tanh(self.first(inputs))
        found = self.does(self, hidden)
        return self.last(hidden if found is None else found)


def moves(does: Callable, momentum: float = 0.0, **buffers: Tensor) -> Variant:
    """Return a run of such a net in float64; whole numbers stay what they are."""
    return Variant(lambda: Moves(does, buffers).double(), momentum=momentum)


def _drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


ZEROS, ONE, COUNT = torch.zeros(WIDTH), torch.ones(()), torch.zeros((), dtype=torch.int64)


def centre(net, hidden):
    if net.training:
        with torch.no_grad():
            net.kept.mul_(0.8).add_(hidden.mean(0), alpha=0.2)
    return hidden - net.kept


def _read_before(net, hidden):
    found = hidden - net.kept
    if net.training:
        net.kept = 0.8 * net.kept + 0.2 * hidden.detach().mean(0)
    return found


def _by_data(net, hidden):
    if net.training:
        net.kept.data.lerp_(hidden.data.mean(0), 0.3)
    return hidden * (1 + net.kept)


@torch.no_grad()
def _set(net, hidden):
    net.kept.data = 0.9 * net.kept + 0.1 * hidden.mean(0)


def _by_a_decorated_function(net, hidden):
    if net.training:
        _set(net, hidden)
    return hidden - net.kept


def _into(net, hidden):
    if net.training:
        with torch.no_grad():
            torch.add(0.9 * net.kept, hidden.mean(0), alpha=0.1, out=net.kept)
    return hidden - net.kept


def _in_blocks(net, hidden):
    if net.training:
        with torch.no_grad():
            with torch.no_grad():
                mean = hidden.mean(0)
            outside = hidden.std(0)  # still without a graph
            with torch.enable_grad():
                variance = hidden.var(0)
            net.kept.lerp_(mean + variance.detach() + outside, 0.1)
    return hidden - net.kept


def _twice(net, hidden):
    for _ in range(2):
        if net.training:
            with torch.no_grad():
                net.kept.lerp_(hidden.mean(0), 0.1)
        hidden = torch.tanh(hidden - net.kept)
    return hidden


def _read_then_written(net, hidden):
    square = (net.kept + 1) * (net.kept + 1)
    if net.training:
        with torch.no_grad():
            net.kept.lerp_(hidden.mean(0), 0.1)
    return hidden - square


def _whitened(net, hidden):
    if net.training:
        with torch.no_grad():
            centred = hidden - hidden.mean(0)
            net.kept.mul_(0.9).add_(centred.T @ centred / len(centred), alpha=0.1)
    root = torch.linalg.cholesky(net.kept + 0.1 * torch.eye(WIDTH).to(hidden))
    return torch.linalg.solve_triangular(root, hidden.T, upper=False).T


def _found_from_the_first_batch(net, hidden):
    if net.training and not net.is_known:
        with torch.no_grad():
            net.kept.copy_(-hidden.mean(0))
            net.scale.copy_(1 / (hidden.std(0) + 1e-6))
            net.is_known.fill_(True)
    return net.scale * (hidden + net.kept)


def _codebook(net, hidden):
    codes = torch.cdist(hidden, net.kept).argmin(1)
    quantized = net.kept[codes]
    if net.training:
        with torch.no_grad():
            chosen = F.one_hot(codes, 4).to(hidden.dtype)
            net.size.data.mul_(0.9).add_(chosen.sum(0), alpha=0.1)
            net.average.data.mul_(0.9).add_(chosen.T @ hidden, alpha=0.1)
            net.kept.data.copy_(net.average / (net.size.unsqueeze(1) + 1e-3))
    return hidden + engine.stop_gradient(quantized - hidden)


def _queue(net, hidden):
    keys, at = hidden.detach(), int(net.pointer)
    held = net.kept.clone()
    if net.training:
        net.kept[at : at + len(keys)] = keys
        net.pointer[0] = (at + len(keys)) % 16
    return hidden + torch.softmax(hidden @ held.T, 1) @ held


def _hidden_state(net, hidden):
    net.kept = torch.tanh(hidden.mean(0) + 0.5 * net.kept.detach())
    return hidden + net.kept


def _usage(net, hidden):
    if net.training:
        net.kept += torch.bincount(hidden.detach().argmax(1), minlength=WIDTH)
    return hidden * (1 + net.kept / net.kept.sum().clamp(min=1))


def _annealed_by_item(net, hidden):
    if net.training:
        net.kept += 1
    return hidden * min(1.0, net.kept.item() / 4)


def _counted_from_one(net, hidden):
    if net.training:
        net.kept += 0.25
        return hidden
    return hidden * float(net.kept)


def _annealed(net, hidden):
    if net.training:
        net.kept += 1
    return hidden * torch.clamp(net.kept / 4, max=1)


def _after_a_while(net, hidden):
    if net.training:
        net.kept += 1
    return hidden * 2 if net.kept > 3 else hidden


def _statistics_of_its_own(net, hidden):
    return F.batch_norm(hidden, net.kept, net.scale, training=net.training)


def _detached_in_evaluation(net, hidden):
    if net.training:
        net.kept.lerp_(hidden.detach().mean(0), 0.2)
        return hidden
    return hidden * (1 + net.kept.detach())


def _asserts(net, hidden):
    """Asks what torch would answer: what is held in a step seems to be out of its graph."""
    if net.training:
        with torch.no_grad():
            target = 2 * hidden
        leaf = hidden.detach()
        assert not target.requires_grad
        assert leaf.is_leaf
        assert leaf.grad_fn is None
        assert hidden.requires_grad
        assert (hidden * target).requires_grad
        assert not net.kept.requires_grad
        target.requires_grad_(False)
        net.kept.lerp_(target.mean(0) + leaf.mean(0), 0.1)
    return hidden - net.kept


def _slope_of_what_was_detached(net, hidden):
    if net.training:
        leaf = hidden.detach().requires_grad_()
        assert leaf.requires_grad
        (slope,) = torch.autograd.grad(net.last(leaf).logsumexp(1).sum(), leaf, create_graph=True)
        net.kept.lerp_(slope.detach().mean(0), 0.3)
    return hidden - net.kept


def _by_copies(net, hidden):
    if net.training:
        net.shown = copy.deepcopy(hidden.detach())
        mean = torch.tensor([hidden.detach()[:, i].mean() for i in range(WIDTH)]).to(hidden)
        net.kept.lerp_(mean + hidden.new_tensor(hidden.detach().std(0)), 0.2)
    return hidden - net.kept


def _into_others(net, hidden):
    if net.training:
        with torch.no_grad():
            mean = torch.mean(hidden, 0, out=torch.empty_like(net.kept))
            both = torch.add(mean, 0.1, out=hidden.new_empty(0))
        net.kept.lerp_(both, 0.3)
    return hidden - net.kept


class _Beside(nn.Module):
    """A centre beside batch normalization, which a call without a graph moves as well."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(6, WIDTH), nn.BatchNorm1d(WIDTH)
        self.last = nn.Linear(WIDTH, 3)
        self.register_buffer("kept", torch.zeros(WIDTH))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.norm(self.first(inputs)))
        if self.training:
            with torch.no_grad():
                self.kept.lerp_(self.norm(self.first(0.5 * inputs)).mean(0), 0.1)
        return self.last(hidden - self.kept)


def _instance_norm() -> nn.Module:
    norm = nn.InstanceNorm1d(3, affine=True, track_running_stats=True)
    layers = (nn.Linear(6, 12), nn.Tanh(), nn.Unflatten(1, (3, 4)), norm)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(12, 3)).double()


def _bounded(wrapped: Callable) -> nn.Module:
    return nn.Sequential(nn.Linear(6, WIDTH), nn.Tanh(), wrapped(nn.Linear(WIDTH, 3))).double()


class Checkpointed(nn.Module):
    """Torch recomputes as far as it needs to: with a sine at the end, the centre moves twice."""

    def __init__(self, last: Callable = torch.clone) -> None:
        super().__init__()
        self.then = last
        self.first, self.last = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 3)
        self.register_buffer("kept", torch.zeros(WIDTH))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(checkpoint(self._middle, inputs, use_reentrant=False))

    def _middle(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(inputs))
        if self.training:
            with torch.no_grad():
                self.kept.lerp_(hidden.mean(0), 0.1)
        return self.then(hidden - self.kept)


SOUND: dict[str, Variant] = {
    "carried: a centre": moves(centre, kept=ZEROS),
    "carried: read before it moves": moves(_read_before, kept=ZEROS),
    "carried: by .data, with momentum": moves(_by_data, 0.9, kept=ZEROS),
    "carried: .data that is set": moves(_by_a_decorated_function, kept=ZEROS),
    "carried: out=": moves(_into, kept=ZEROS),
    "carried: blocks in blocks": moves(_in_blocks, kept=ZEROS),
    "carried: twice in a call": moves(_twice, kept=ZEROS),
    "carried: read, then written": moves(_read_then_written, kept=ZEROS),
    "carried: whitening": moves(_whitened, kept=torch.eye(WIDTH)),
    "carried: found from the first batch": moves(
        _found_from_the_first_batch,
        kept=ZEROS,
        scale=torch.ones(WIDTH),
        is_known=torch.tensor(False),
    ),
    "carried: a codebook": moves(
        _codebook, kept=_drawn(4, WIDTH), average=_drawn(4, WIDTH), size=torch.ones(4)
    ),
    "carried: a queue": moves(
        _queue, kept=_drawn(16, WIDTH), pointer=torch.zeros(1, dtype=torch.int64)
    ),
    "carried: a hidden state": moves(_hidden_state, kept=ZEROS),
    "carried: how often": moves(_usage, kept=torch.zeros(WIDTH, dtype=torch.int64)),
    "carried: annealed by a number": moves(_annealed_by_item, kept=COUNT),
    "carried: annealed by a real number": moves(_annealed_by_item, kept=COUNT.float()),
    "carried: annealed by a tensor": moves(_annealed, kept=COUNT),
    "carried: a real number that begins at one": moves(_counted_from_one, kept=ONE),
    "carried: another branch after a while": moves(_after_a_while, kept=COUNT),
    "carried: statistics of its own": moves(
        _statistics_of_its_own, kept=ZEROS, scale=torch.ones(WIDTH)
    ),
    "carried: detached in evaluation": moves(_detached_in_evaluation, kept=ZEROS),
    "carried: what asks about the graph": moves(_asserts, kept=ZEROS),
    "carried: a slope of what was detached": moves(_slope_of_what_was_detached, kept=ZEROS),
    "carried: written by copies": moves(_by_copies, kept=ZEROS),
    "carried: out= of something else": moves(_into_others, kept=ZEROS),
    "carried: beside batch norm": Variant(lambda: _Beside().double(), momentum=0.9),
    "carried: instance norm": Variant(_instance_norm),
    "carried: batch norm of several devices": Variant(
        lambda: mlp(nn.SyncBatchNorm(WIDTH), nn.Tanh())
    ),
    "carried: in a checkpoint": Variant(lambda: Checkpointed().double()),
    "carried: spectral norm": Variant(lambda: _bounded(parametrizations.spectral_norm)),
    "carried: spectral norm by a hook": Variant(lambda: _bounded(nn.utils.spectral_norm)),
    **{
        f"carried: teacher by {name}": Variant(lambda f=follow: Teacher(f).double())
        for name, follow in {
            "lerp": by_lerp,
            "data": by_data,
            "copy": by_copy,
            "a bias": by_one,
        }.items()
    },
    **{
        f"carried: buffer that moves: {name}": Variant(
            lambda s=start, m=move: Kept(s.clone(), m).double()
        )
        for name, (start, move) in {
            "counter": (COUNT, lambda m, _: m.kept.add_(1)),
            "running mean": (torch.zeros(8), lambda m, h: m.kept.lerp_(h.mean(0), 0.1)),
            "last batch": (torch.zeros(8), lambda m, h: m.kept.copy_(h.mean(0))),
            "maximum": (torch.zeros(8), lambda m, h: m.kept.clamp_(min=h.amax(0))),
            "new tensor": (
                torch.zeros(8),
                lambda m, h: m.register_buffer("kept", 0.9 * m.kept + 0.1 * h.mean(0)),
            ),
        }.items()
    },
}
