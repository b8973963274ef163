"""Operations without a second derivative: torch's errors about them in words, and what to do."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from engine.errors import UndifferentiableError

_IN_PLACE = ("in-place operation", "inplace operation", "modified inplace")
_NO_FORWARD = ("forward AD", "forward mode AD", "forward gradient", "functorch transforms")
"""Words of torch's where an operation has no forward derivative."""

_NO_SECOND = ("derivative for", "not implemented", "once_differentiable", "double backward")
"""Words of torch's where an operation has no derivative, or no second one."""


def cure_of_operations(names: Sequence[str]) -> str:
    """Say what to do about operations without a second derivative, by torch's names for them."""
    if any("attention" in name for name in names):
        return (
            "Call torch.nn.functional.scaled_dot_product_attention by that name, in the place of "
            "which the engine puts one with a second derivative."
        )
    if any("cudnn" in name.lower() for name in names):
        return "Use another kernel of it, e.g. inside torch.backends.cudnn.flags(enabled=False)."
    if any(part in name for name in names for part in ("standard_gamma", "dirichlet")):
        return (
            "Samples of Gamma, Beta, Dirichlet, Chi2, StudentT, FisherSnedecor, InverseGamma and "
            "Wishart are drawn by rejection: with the same seed they jump where the parameters "
            "move. Sample a distribution that is near: Weibull or LogNormal for Gamma, "
            "Kumaraswamy for Beta, LogisticNormal for Dirichlet. log_prob() and kl_divergence() "
            "of all of them can be differentiated twice."
        )
    if any("set_" in name for name in names):
        return "Write into a tensor instead of exchanging its memory: buffer.copy_(values)."
    if any("once_differentiable" in name for name in names):
        return (
            "Leave @once_differentiable out where the backward pass is made of differentiable "
            "operations, and write it with such where it is not."
        )
    return "Write that function with differentiable operations."


def _cure_of_bits(text: str) -> str:
    """Say what to do about an operation whose bits do not repeat, by torch's words for it."""
    if text.startswith("put_ "):
        return "Write x.view(-1)[index] = values in its place."
    return "Replace that operation."


@contextmanager
def named_refusals(step: int) -> Iterator[None]:
    """Turn torch's own words for a missing second derivative into ours."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        text = str(error)
        forward = any(word in text for word in _NO_FORWARD)
        if any(word in text for word in _IN_PLACE):
            raise UndifferentiableError(
                f"Step {step} changes a tensor in place that its derivative needs: "
                f"{text.splitlines()[0]} Return new tensors from the model, the loss and the "
                "optimizer's update instead."
            ) from error
        if "deterministic implementation" in text:
            raise UndifferentiableError(
                f"Step {step} uses an operation whose bits do not repeat: {text.split(',')[0]}. "
                f"A replayed step has to make the bits of the first one. {_cure_of_bits(text)}"
            ) from error
        if not forward and not any(word in text for word in _NO_SECOND):
            raise
        if forward:
            raise UndifferentiableError(
                f"Step {step} cannot be reversed by forward-over-reverse: {text.splitlines()[0]} "
                "Use vjp=reverse-over-reverse, with a micro_batch if its graph does not fit."
            ) from error
        raise UndifferentiableError(
            f"Step {step} cannot be differentiated twice: {text.splitlines()[0].rstrip('.')}. "
            "A metagradient needs the second derivative of every operation of the model and the "
            f"loss. {cure_of_operations([text])}"
        ) from error
