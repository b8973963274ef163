"""Start of a ``Trainer``'s training: the model that ``train()`` makes, and its tokens."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from engine.problems.adapters.drawn_orders import generators_kept


@contextmanager
def as_train_begins(trainer: Any) -> Iterator[nn.Module]:  # noqa: ANN401 (of a library)
    """Give the model that ``train()`` begins with; generators stand as they do there.

    With ``model_init`` it is made again under the Trainer's seed, and is the Trainer's in the
    block.
    """
    if trainer.model_init is None:
        yield trainer.accelerator.unwrap_model(trainer.model)
        return
    import transformers

    before = trainer.model
    with generators_kept():
        transformers.set_seed(trainer.args.seed)
        trainer.model = trainer.call_model_init().to(trainer.args.device)
        try:
            yield trainer.model
        finally:
            trainer.model = before


def align_tokens(trainer: Any, model: nn.Module) -> None:  # noqa: ANN401 (of a library)
    """Give a model's settings the special tokens of the Trainer's tokenizer, as ``train()`` does.

    A model may read them: a classifier finds the last token of a sentence by that of padding.
    """
    import transformers
    from transformers import trainer as loop

    known = (transformers.PreTrainedTokenizerBase, transformers.ProcessorMixin)
    align = getattr(loop, "align_special_tokens", None)  # since transformers 5
    if align and isinstance(trainer.processing_class, known) and hasattr(model, "config"):
        align(model, trainer.processing_class)
