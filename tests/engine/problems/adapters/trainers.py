"""Trainers as their users write them; importing this imports the Trainer, for seconds."""

import functools

import transformers


class Path(transformers.TrainerCallback):
    """Keeps the parameters after every step."""

    def __init__(self):
        self.states, self.rates = [], []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.states.append({n: p.detach().clone() for n, p in model.named_parameters()})


class OwnLoss(transformers.Trainer):
    def compute_loss(self, model, inputs, *given, **named):
        return super().compute_loss(model, inputs, *given, **named) * 2


class Odd(transformers.BertForSequenceClassification):
    """Its loss is not that of its class."""

    @functools.wraps(transformers.BertForSequenceClassification.forward)
    def forward(self, *given, **named):
        found = super().forward(*given, **named)
        if found.loss is not None:
            found["loss"] = found.loss + 1.0
        return found
