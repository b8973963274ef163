"""BERT on padded batches in dicts, decay by names, linear warm-up, clipping."""

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    get_linear_schedule_with_warmup,
)

TEXTS, BATCH, STEPS, PAD, WORDS = 20, 5, 8, 0, 14
NO_DECAY = ["bias", "LayerNorm.weight"]


def texts(number, seed):
    """Tokenized texts of three to eight words, with a label."""
    drawn = torch.Generator().manual_seed(seed)
    rows = []
    for place in range(number):
        length = int(torch.randint(3, 9, (1,), generator=drawn))
        ids = torch.randint(1, WORDS, (length,), generator=drawn)
        label = int(ids.float().mean() > WORDS / 2)
        rows.append({"place": place, "input_ids": ids.tolist(), "label": label})
    return rows


def collate(rows):
    """Pad to the longest text of the batch, as a tokenizer does."""
    longest = max(len(row["input_ids"]) for row in rows)
    ids = [row["input_ids"] + [PAD] * (longest - len(row["input_ids"])) for row in rows]
    mask = [[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in rows]
    return {
        "place": torch.tensor([row["place"] for row in rows]),
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor(mask),
        "labels": torch.tensor([row["label"] for row in rows]),
    }


def make_model():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=8,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.3,
        num_labels=2,
    )
    return BertForSequenceClassification(config)


def losses_of(model, batch):
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return cross_entropy(logits, batch["labels"], reduction="none")


def make_scheduler(optimizer):
    return get_linear_schedule_with_warmup(optimizer, 2, STEPS + 1)


def start():
    return torch.ones(TEXTS)


def train(weights):
    """Train with a weight for each text; return the mean loss on other texts."""
    model = make_model().train()
    named = list(model.named_parameters())
    groups = [
        {
            "params": [p for n, p in named if not any(word in n for word in NO_DECAY)],
            "weight_decay": 0.1,
        },
        {"params": [p for n, p in named if any(word in n for word in NO_DECAY)], "weight_decay": 0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.02, eps=1e-3)
    scheduler = make_scheduler(optimizer)
    drawn = torch.Generator().manual_seed(0)
    loader = DataLoader(
        texts(TEXTS, 0),
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        generator=drawn,
        collate_fn=collate,
    )
    done = 0
    while done < STEPS:
        for batch in loader:
            losses = losses_of(model, batch)
            (losses * weights[batch["place"]]).mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            done += 1
    model.eval()
    with torch.no_grad():
        return float(losses_of(model, collate(texts(16, 1))).mean())
