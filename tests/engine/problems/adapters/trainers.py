"""Trainers as their users write them; importing this imports the Trainer, for seconds."""

import functools

import torch
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


class ByClass(transformers.BertForSequenceClassification):
    """Its loss is a mean with weights of the classes."""

    @functools.wraps(transformers.BertForSequenceClassification.forward)
    def forward(self, *given, labels=None, **named):
        found = super().forward(*given, **named)
        if labels is not None:
            weight = torch.tensor([1.0, 6.0, 11.0])
            found["loss"] = torch.nn.functional.cross_entropy(found.logits, labels, weight=weight)
        return found


class Shifted(transformers.Trainer):
    """Changes each batch on its way to the model."""

    def _prepare_inputs(self, inputs):
        found = super()._prepare_inputs(inputs)
        return {**found, "labels": (found["labels"] + 1) % 3}


class ByValue(transformers.Trainer):
    def _clip_grad_norm(self, model):
        torch.nn.utils.clip_grad_value_(model.parameters(), 0.01)
        return torch.zeros(())


class Mean(transformers.Trainer):
    """Says that its loss is one of a batch, to be divided by the number of batches."""

    loss_is_scaled_for_ga = False


class Groups(transformers.Trainer):
    """Two rates, neither of which is that of the optimizer's defaults."""

    def create_optimizer(self, model=None):
        biases = [p for n, p in self.model.named_parameters() if n.endswith("bias")]
        others = [p for n, p in self.model.named_parameters() if not n.endswith("bias")]
        groups = [{"params": biases, "lr": 0.2}, {"params": others, "lr": 0.05}]
        self.optimizer = self.optimizer or torch.optim.SGD(groups, lr=0.01, momentum=0.5)
        return self.optimizer


class OwnLoader(transformers.Trainer):
    """A loader of torch itself, which draws a number when each pass begins."""

    def get_train_dataloader(self):
        return torch.utils.data.DataLoader(
            self.train_dataset, 6, shuffle=True, collate_fn=self.data_collator,
            generator=torch.Generator().manual_seed(4),
        )  # fmt: skip


DRAWN = torch.Generator().manual_seed(4)


class OwnSampler(transformers.Trainer):
    """A sampler with a generator that lives as long as the process."""

    def _get_train_sampler(self, *given, **named):
        chances = torch.arange(1.0, len(self.train_dataset) + 1)
        return torch.utils.data.WeightedRandomSampler(chances, len(chances), generator=DRAWN)


Seq2Seq = transformers.Seq2SeqTrainer


class InBatch(transformers.Trainer):
    """Each sentence is told from the others of its batch, as in sentence-transformers."""

    def compute_loss(self, model, inputs, *given, **named):
        return told_apart(model, inputs).mean()


def told_apart(model, batch):
    """Return the loss of each sentence of a batch, whose other ones are the wrong answers."""

    def embedded(tokens):
        known = (tokens != 0).to(model.dtype).unsqueeze(-1)
        states = model(
            input_ids=tokens, attention_mask=(tokens != 0).long(), output_hidden_states=True
        ).hidden_states[-1]
        return torch.nn.functional.normalize((states * known).sum(1) / known.sum(1), dim=1)

    questions, answers = embedded(batch["input_ids"]), embedded(batch["labels"].clamp(min=0))
    right = torch.arange(len(questions))
    return torch.nn.functional.cross_entropy(8 * questions @ answers.T, right, reduction="none")


class Logs(transformers.Trainer):
    def log(self, *given, **named):
        return super().log(*given, **named)
