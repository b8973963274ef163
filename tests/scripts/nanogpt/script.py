"""A small GPT: tied embeddings, decay by groups, clipping, accumulation, warm-up and cosine."""

import math

import torch
from torch import nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention

SOURCES = ("abcabdabcaacbd" * 3, "ddaccaddabccad" * 2, "fefefgefgefeabg" * 2)
LETTERS = sorted(set("".join(SOURCES)))
BLOCK, WIDTH, STEPS, MICRO, ACCUMULATED = 6, 8, 9, 4, 2


def windows():
    """All windows of the sources: inputs, targets, and the source of each."""
    rows, of = [], []
    for number, text in enumerate(SOURCES):
        ids = [LETTERS.index(letter) for letter in text]
        for begin in range(0, len(ids) - BLOCK, 2):
            rows.append(ids[begin : begin + BLOCK + 1])
            of.append(number)
    rows = torch.tensor(rows)
    return rows[:, :-1], rows[:, 1:], torch.tensor(of)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.c_attn = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.c_proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, 2 * WIDTH, bias=False)
        self.down = nn.Linear(2 * WIDTH, WIDTH, bias=False)

    def forward(self, x):
        batch, length, _ = x.shape
        q, k, v = (
            part.view(batch, length, 2, WIDTH // 2).transpose(1, 2)
            for part in self.c_attn(self.ln_1(x)).split(WIDTH, dim=2)
        )
        y = scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).reshape(batch, length, WIDTH))
        return x + self.down(gelu(self.up(self.ln_2(x))))


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(len(LETTERS), WIDTH), nn.Embedding(BLOCK, WIDTH)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.ln_f = nn.LayerNorm(WIDTH)
        self.lm_head = nn.Linear(WIDTH, len(LETTERS), bias=False)
        self.lm_head.weight = self.wte.weight
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.3)

    def forward(self, ids):
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.lm_head(self.ln_f(x))


def make_model():
    torch.manual_seed(1337)
    return GPT()


def get_lr(step):
    if step < 3:
        return 0.02 * (step + 1) / 4
    ratio = (step - 3) / (STEPS - 3)
    return 0.002 + 0.5 * (1 + math.cos(math.pi * ratio)) * 0.018


def get_batches(number):
    """As nanoGPT: windows drawn with replacement."""
    drawn = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        yield torch.randint(number, (MICRO * ACCUMULATED,), generator=drawn)


def token_losses(model, inputs, targets):
    logits = model(inputs)
    return cross_entropy(logits.transpose(1, 2), targets, reduction="none")


def held_out():
    inputs, targets, of = windows()
    return inputs[of == 2][::2], targets[of == 2][::2]


def start():
    """Logits of the sources' shares, proportional to their sizes."""
    _, _, of = windows()
    return torch.log(torch.bincount(of) / len(of))


def train(logits):
    """Train on a mixture of the sources; return the mean loss on windows of the last one."""
    inputs, targets, of = windows()
    share = torch.softmax(logits, dim=0)
    weights = share[of] * len(of) / torch.bincount(of)[of]
    model = make_model()
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.02, betas=(0.9, 0.95), eps=1e-3)
    for step, drawn in enumerate(get_batches(len(of))):
        for group in optimizer.param_groups:
            group["lr"] = get_lr(step)
        for micro in drawn.split(MICRO):
            losses = token_losses(model, inputs[micro], targets[micro]).mean(dim=1)
            ((weights[micro] * losses).mean() / ACCUMULATED).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.4)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        return float(token_losses(model, *held_out()).mean())
