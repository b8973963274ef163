"""A GRU that reads packed sequences of words: padding, smoothed labels, accumulated gradients."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

SENTENCES, BATCH, PARTS, STEPS, WORDS = 24, 8, 2, 9, 12


def sentences(number, seed):
    """Sentences of 2 to 7 words, word 0 being none; a class says which words are frequent."""
    drawn = torch.Generator().manual_seed(seed)
    found = []
    for place in range(number):
        length = int(torch.randint(2, 8, (), generator=drawn))
        words = torch.randint(1, WORDS, (length,), generator=drawn)
        label = place % 3
        words[::2] = (words[::2] + 4 * label) % 4 + 1 + 3 * label
        found.append((words.clamp(max=WORDS - 1), label))
    return found


def collate(rows):
    words = pad_sequence([each for each, _ in rows], batch_first=True)
    lengths = torch.tensor([len(each) for each, _ in rows])
    return {
        "words": words,
        "lengths": lengths,
        "labels": torch.tensor([label for _, label in rows]),
    }


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(WORDS, 5, padding_idx=0)
        self.rnn = nn.GRU(5, 6, batch_first=True, bidirectional=True)
        self.head = nn.Linear(12, 3)

    def forward(self, words, lengths):
        packed = pack_padded_sequence(
            self.words(words), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        _, hidden = self.rnn(packed)
        return self.head(torch.cat([hidden[0], hidden[1]], dim=1))


def make_model():
    torch.manual_seed(8)
    return Reader()


def losses_of(model, batch, smoothing=0.0):
    logits = model(batch["words"], batch["lengths"])
    return cross_entropy(logits, batch["labels"], reduction="none", label_smoothing=smoothing)


def order():
    drawn = torch.Generator().manual_seed(2)
    return torch.stack([torch.randperm(SENTENCES, generator=drawn)[:BATCH] for _ in range(STEPS)])


def start():
    return torch.ones(SENTENCES)


def train(weights):
    """Train with a weight for each sentence; return the mean loss on others."""
    rows = sentences(SENTENCES, 0)
    model = make_model().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.8)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=4, gamma=0.5)
    for batch in order():
        optimizer.zero_grad()
        for part in batch.chunk(PARTS):
            losses = losses_of(model, collate([rows[place] for place in part]), 0.1)
            ((losses * weights[part]).mean() / PARTS).backward()
        optimizer.step()
        scheduler.step()
    model.eval()
    with torch.no_grad():
        return float(losses_of(model, collate(sentences(15, 1))).mean())
