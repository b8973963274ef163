"""Double Q-learning from a buffer, with a target network that is copied every fourth step."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, smooth_l1_loss

TRANSITIONS, BATCH, STEPS, COPIED, DISCOUNT = 30, 10, 14, 4, 0.9


class Transition(NamedTuple):
    state: Tensor
    action: Tensor
    reward: Tensor
    following: Tensor
    done: Tensor


def transitions(number, seed):
    drawn = torch.Generator().manual_seed(seed)
    state = torch.randn(number, 4, generator=drawn)
    return Transition(
        state,
        torch.randint(0, 3, (number,), generator=drawn),
        torch.randn(number, generator=drawn) + state[:, 0],
        state + 0.3 * torch.randn(number, 4, generator=drawn),
        torch.rand(number, generator=drawn) < 0.1,
    )


class Dueling(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 10), nn.Tanh())
        self.value, self.advantage = nn.Linear(10, 1), nn.Linear(10, 3)

    def forward(self, state):
        hidden = self.body(state)
        advantage = self.advantage(hidden)
        return self.value(hidden) + advantage - advantage.mean(dim=1, keepdim=True)


def make_network():
    torch.manual_seed(21)
    return Dueling()


def chosen(values, action):
    return values.gather(1, action[:, None]).squeeze(1)


def losses_of(network, target, batch):
    with torch.no_grad():
        best = network(batch.following).argmax(dim=1)
        later = chosen(target(batch.following), best)
        wanted = batch.reward + DISCOUNT * later * ~batch.done
    return smooth_l1_loss(chosen(network(batch.state), batch.action), wanted, reduction="none")


def order():
    drawn = torch.Generator().manual_seed(17)
    return torch.stack(
        [torch.randint(0, TRANSITIONS, (BATCH,), generator=drawn) for _ in range(STEPS)]
    )


def start():
    return torch.ones(TRANSITIONS)


def train(weights):
    """Train with a weight for each transition; return the error of others' rewards."""
    buffer, network = transitions(TRANSITIONS, 0), make_network()
    target = copy.deepcopy(network)
    optimizer = torch.optim.RMSprop(network.parameters(), lr=5e-3, alpha=0.95, eps=1e-2)
    for step, drawn in enumerate(order()):
        batch = Transition(*(column[drawn] for column in buffer))
        optimizer.zero_grad()
        (losses_of(network, target, batch) * weights[drawn]).mean().backward()
        nn.utils.clip_grad_value_(network.parameters(), 10.0)
        optimizer.step()
        if (step + 1) % COPIED == 0:
            target.load_state_dict(network.state_dict())
    others = transitions(20, 3)
    with torch.no_grad():
        return float(mse_loss(chosen(network(others.state), others.action), others.reward))
