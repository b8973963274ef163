"""The symmetric contrastive loss of a batch of pairs, for each pair.

Pair i has the loss l_i = -s_ii + (log sum_j w_j exp s_ij + log sum_j w_j exp s_ji) / 2, where s_ij
is the scaled cosine of image i and caption j, and w_j says how often pair j stands in the batch:
the mean of the cross-entropies of finding its caption by its image and its image by its caption.

References:
    Radford et al. 2021, arXiv:2103.00020 (CLIP), section 2.3; van den Oord et al. 2018,
    arXiv:1807.03748 (InfoNCE).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from engine.types import Batch

Similarities = Float[Tensor, "rows columns"]
Embeddings = Float[Tensor, "batch 2 features"]


class ContrastiveLoss:
    """A ``CoupledLoss`` of models that map (images, tokens) to two unit vectors for each pair.

    The model has ``scale()``, the factor on the cosines: the inverse of its temperature.
    """

    def __call__(
        self, model: nn.Module, batch: Batch, *, multiplicity: Tensor | None = None
    ) -> Float[Tensor, " batch"]:
        """Return the loss of each pair of a batch; see ``couple``."""
        return self.couple(model, self.embed(model, batch), multiplicity)

    def embed(self, model: nn.Module, batch: Batch) -> Embeddings:
        """Return the embeddings of image and caption."""
        return model(batch)

    def couple(
        self, model: nn.Module, embeddings: Embeddings, multiplicity: Tensor | None = None
    ) -> Float[Tensor, " batch"]:
        """Return the loss of each pair; the other pairs are its negatives."""
        images, texts = embeddings.unbind(1)
        similar = _scale(model) * images @ texts.T
        both = _log_sum(similar, multiplicity) + _log_sum(similar.T, multiplicity)
        return both / 2 - similar.diagonal()

    def join(
        self,
        model: nn.Module,
        embeddings: Embeddings,
        joining: Float[Tensor, "joining 2 features"],
        multiplicity: Tensor | None = None,
    ) -> Float[Tensor, " joining"]:
        """Return the summed losses' term for one copy of each joining pair, shape (joining,).

        That is its own loss, with itself among the negatives, and what it adds to the losses of the
        batch as one more negative: log(Z_a + exp s_ai) - log Z_a for each a.
        """
        scale = _scale(model)
        images, texts = embeddings.unbind(1)
        new_images, new_texts = joining.unbind(1)
        own = scale * (new_images * new_texts).sum(dim=1)
        inside = scale * images @ texts.T
        rises = -own
        for found, known in (
            (scale * new_images @ texts.T, inside.T),  # its image, and the captions' losses
            (scale * new_texts @ images.T, inside),  # its caption, and the images' losses
        ):
            # (joining, batch): s of pair i with a, less log Z_a of who sees i as a negative.
            raised = found - _log_sum(known, multiplicity)
            added = torch.logaddexp(raised, torch.zeros_like(raised))
            counted = added if multiplicity is None else added * multiplicity
            rises = rises + counted.sum(dim=1) / 2
            rises = rises + torch.logaddexp(own, _log_sum(found, multiplicity)) / 2
        return rises


def _scale(model: nn.Module) -> Float[Tensor, ""]:
    return model.scale()  # pyright: ignore[reportCallIssue] (a method, not a module or a tensor)


def _log_sum(
    similar: Similarities, multiplicity: Float[Tensor, " columns"] | None
) -> Float[Tensor, " rows"]:
    """Return log sum_j w_j exp s_ij; differentiable in w also where w is 0."""
    if multiplicity is None:
        return similar.logsumexp(dim=1)
    shift = similar.detach().logsumexp(dim=1)  # any number: it cancels
    return ((similar - shift[:, None]).exp() @ multiplicity).log() + shift
