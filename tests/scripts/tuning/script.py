"""Fine-tuning of a causal language model on instructions, as a trainer does it.

Embeddings are frozen, prompts are masked, gradients of two micro-batches are accumulated.
"""

import torch
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel, get_cosine_schedule_with_warmup

WORDS, ROWS, MICRO, ACCUMULATED, STEPS, IGNORED = 16, 16, 3, 2, 6, -100


def instructions(number, seed):
    """Prompt and completion of several lengths, as token ids; only completions are learned."""
    drawn = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(number):
        prompt, answer = (int(torch.randint(2, 5, (1,), generator=drawn)) for _ in range(2))
        first = int(torch.randint(3, WORDS - 4, (1,), generator=drawn))
        ids = [first] * prompt + [first + 1 + each % 3 for each in range(answer)] + [2]
        labels = [IGNORED] * prompt + ids[prompt:]
        rows.append({"input_ids": ids, "labels": labels})
    return rows


def collate(rows):
    longest = max(len(row["input_ids"]) for row in rows)

    def padded(name, filler):
        return torch.tensor([r[name] + [filler] * (longest - len(r[name])) for r in rows])

    ids = padded("input_ids", 0)
    return {
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
        "labels": padded("labels", IGNORED),
    }


def make_model():
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=WORDS,
        n_embd=8,
        n_layer=1,
        n_head=2,
        n_positions=16,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=0.3,
        use_cache=False,
    )
    model = GPT2LMHeadModel(config)
    model.transformer.wte.requires_grad_(False)  # the head too, which is the same
    model.transformer.wpe.requires_grad_(False)
    return model


def losses_of(model, batch):
    """Mean over the learned tokens of each row."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    labels = batch["labels"][:, 1:]
    each = cross_entropy(
        logits[:, :-1].transpose(1, 2), labels, reduction="none", ignore_index=IGNORED
    )
    learned = labels != IGNORED
    return (each * learned).sum(dim=1) / learned.sum(dim=1)


def order():
    drawn = torch.Generator().manual_seed(42)
    rows = torch.cat([torch.randperm(ROWS, generator=drawn) for _ in range(3)])
    return rows[: STEPS * MICRO * ACCUMULATED].view(STEPS, MICRO * ACCUMULATED)


def make_scheduler(optimizer):
    return get_cosine_schedule_with_warmup(optimizer, 1, STEPS)


def start():
    return torch.ones(ROWS)


def train(weights):
    """Train with a weight for each row; return the mean loss on other rows."""
    data = instructions(ROWS, 0)
    model = make_model().train()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    groups = [
        {"params": [p for n, p in trained.items() if ".ln_" not in n], "weight_decay": 0.05},
        {"params": [p for n, p in trained.items() if ".ln_" in n], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.02, eps=1e-3)
    scheduler = make_scheduler(optimizer)
    for rows in order():
        for micro in rows.split(MICRO):
            losses = losses_of(model, collate([data[row] for row in micro]))
            ((losses * weights[micro]).mean() / ACCUMULATED).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        return float(losses_of(model, collate(instructions(12, 1))).mean())
