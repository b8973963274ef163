"""A recurrent language model: hidden states carried from piece to piece, without their graph."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

LANES, LENGTH, PIECE, PASSES, WIDTH, LETTERS = 6, 24, 4, 2, 7, 5


def text(lanes, seed):
    """Lanes of letters; each letter depends on the two before it."""
    drawn = torch.Generator().manual_seed(seed)
    rows = torch.randint(0, LETTERS, (lanes, LENGTH + 1), generator=drawn)
    surprise = torch.rand(lanes, LENGTH + 1, generator=drawn) < 0.3
    for place in range(2, LENGTH + 1):
        follows = (rows[:, place - 1] + rows[:, place - 2]) % LETTERS
        rows[:, place] = torch.where(surprise[:, place], rows[:, place], follows)
    return rows


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.letters, self.rnn = nn.Embedding(LETTERS, 4), nn.LSTM(4, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, LETTERS)

    def forward(self, ids, hidden):
        found, hidden = self.rnn(self.letters(ids), hidden)
        return self.head(found), hidden


def make_model():
    torch.manual_seed(9)
    return Recurrent()


def zero(lanes):
    return torch.zeros(1, lanes, WIDTH), torch.zeros(1, lanes, WIDTH)


def piece_losses(logits, targets):
    return cross_entropy(logits.transpose(1, 2), targets, reduction="none").mean(dim=1)


def start():
    """A weight for each piece of each lane, piece by piece."""
    return torch.ones(LANES * LENGTH // PIECE)


def train(weights):
    """Train with a weight for each piece; return the mean loss on other lanes, read as a whole."""
    rows = text(LANES, 0)
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model.train()
    for _ in range(PASSES):
        hidden = zero(LANES)
        for number, begin in enumerate(range(0, LENGTH, PIECE)):
            hidden = tuple(part.detach() for part in hidden)
            piece = rows[:, begin : begin + PIECE + 1]
            logits, hidden = model(piece[:, :-1], hidden)
            losses = piece_losses(logits, piece[:, 1:])
            optimizer.zero_grad()
            (losses * weights[number * LANES : (number + 1) * LANES]).mean().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.25)
            optimizer.step()
    held_out = text(8, 1)
    with torch.no_grad():
        logits, _ = model(held_out[:, :-1], zero(8))
        return float(piece_losses(logits, held_out[:, 1:]).mean())
