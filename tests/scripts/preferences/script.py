"""DPO: a recurrent language model tuned on preferences, beside its frozen reference."""

import copy

import torch
from torch import nn
from torch.nn.functional import logsigmoid
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence
from torch.utils.data import DataLoader, RandomSampler

LETTERS, PAIRS, BATCH, EPOCHS, BETA = 11, 20, 5, 3, 0.5


class LM(nn.Module):
    def __init__(self):
        super().__init__()
        self.letters = nn.Embedding(LETTERS, 6, padding_idx=0)
        self.gru = nn.GRU(6, 8, num_layers=2, batch_first=True)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, LETTERS)

    def forward(self, ids, lengths):
        packed = pack_padded_sequence(
            self.letters(ids), lengths, batch_first=True, enforce_sorted=False
        )
        hidden, _ = self.gru(packed)
        hidden, _ = pad_packed_sequence(hidden, batch_first=True, total_length=ids.shape[1])
        return self.head(self.norm(hidden))


def log_probability(model, ids, lengths):
    logs = model(ids[:, :-1], lengths - 1).log_softmax(dim=-1)
    found = logs.gather(2, ids[:, 1:, None])[..., 0]
    return (found * (torch.arange(1, ids.shape[1]) < lengths[:, None])).sum(dim=1)


def pairs(number, seed):
    """Two answers each, of which the sorted one is preferred."""
    drawn = torch.Generator().manual_seed(seed)

    def answer():
        length = int(torch.randint(4, 9, (), generator=drawn))
        return torch.randint(1, LETTERS, (length,), generator=drawn)

    return [(answer().sort().values, answer()) for _ in range(number)]


def collate(rows):
    found = {}
    for name, answers in zip(("chosen", "rejected"), zip(*rows, strict=True), strict=True):
        found[name] = pad_sequence(list(answers), batch_first=True)
        found[f"{name}_lengths"] = torch.tensor([len(answer) for answer in answers])
    return found


def make_models():
    """The policy, and the reference that it has moved away from a little."""
    torch.manual_seed(4)
    policy = LM()
    reference = copy.deepcopy(policy).requires_grad_(False).eval()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    return policy, reference


def losses_of(policy, reference, batch):
    margins = []
    for name in ("chosen", "rejected"):
        answers = batch[name], batch[f"{name}_lengths"]
        with torch.no_grad():
            theirs = log_probability(reference, *answers)
        margins.append(log_probability(policy, *answers) - theirs)
    return -logsigmoid(BETA * (margins[0] - margins[1]))


def make_scheduler(optimizer):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 4))


def sampler():
    return RandomSampler(range(PAIRS), generator=torch.Generator().manual_seed(5))


def start():
    return torch.ones(PAIRS)


def train(weights):
    """Tune with a weight for each pair; return the mean loss on others."""
    policy, reference = make_models()
    optimizer = torch.optim.RMSprop(policy.parameters(), lr=0.02, alpha=0.9, eps=1e-3)
    scheduler = make_scheduler(optimizer)
    loader = DataLoader(
        list(enumerate(pairs(PAIRS, 0))),
        sampler=sampler(),
        batch_size=BATCH,
        collate_fn=lambda rows: ([n for n, _ in rows], collate([pair for _, pair in rows])),
    )
    for _ in range(EPOCHS):
        for number, batch in loader:
            optimizer.zero_grad()
            (losses_of(policy, reference, batch) * weights[number]).mean().backward()
            nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
    with torch.no_grad():
        return float(losses_of(policy, reference, collate(pairs(16, 1))).mean())
