"""What a metaparameter does to the gradient of a loss stands against a finite difference."""

from dataclasses import dataclass

import pytest
import torch

import engine
from engine.errors import WitnessError
from engine.metaparameters.inputs import Inputs
from engine.metaparameters.scalars import Scalars
from tests.strangers.plain import NUM_EXAMPLES, data, loss, mlp
from tests.strangers.witnessed import output, routine


def _inputs():
    return {"pixels": Inputs(data()[0][18:24].clone(), torch.arange(18, 24), NUM_EXAMPLES)}


def _smoothed():
    return {"scalars": Scalars.of(label_smoothing=0.1)}


def _normalized(stop):
    return lambda net, batch: loss(
        net, (batch[0] / stop(batch[0].norm(dim=1, keepdim=True)), batch[1])
    )


def _standardized(net, batch):
    with torch.no_grad():
        mean = batch[0].mean(1, keepdim=True)
    return loss(net, (batch[0] - mean, batch[1]))


def _rounded(net, batch):
    return loss(net, (batch[0] + ((4 * batch[0]).round() / 4 - batch[0]).detach(), batch[1]))


def _smoothing(as_share):
    def smooth(net, batch, label_smoothing):
        even = -net(batch[0]).log_softmax(1).mean(1)
        return (1 - label_smoothing) * loss(net, batch) + as_share(label_smoothing) * even

    return smooth


def _augmented(stop):
    return lambda batch, _: (batch[0] / stop(batch[0].abs().amax(1, keepdim=True)), batch[1])


@dataclass(frozen=True, eq=False, repr=False)
class _Brightness(engine.Metaparameter):
    """Scales each example, by code of its own."""

    is_cut: bool = True

    def batch(self, z, batch, indices):
        rows = z[indices][:, None]
        return batch[0] * rows.sqrt() * (rows.detach() if self.is_cut else rows).sqrt(), batch[1]


@dataclass(frozen=True, eq=False, repr=False)
class _Start(engine.Metaparameter):
    """Scales all initial parameters."""

    is_cut: bool = True

    @property
    def shapes_start(self):
        return True

    def enters(self, step):
        return False

    def initial(self, z, params):
        return params * z[0].sqrt() * (z[0].detach() if self.is_cut else z[0]).sqrt()


def _own(kind, number, *, is_cut):
    return {"own": kind(torch.full((number,), 1.2, dtype=torch.float64), is_cut=is_cut)}


CUT = {
    "a detached norm": (
        {"loss": _normalized(torch.Tensor.detach), "metaparameters": _inputs()},
        r"'pixels' .* by detach\(\) at \S*test_entries\.py:\d+\.",
    ),
    "a mean without a graph": (
        {"loss": _standardized, "metaparameters": _inputs()},
        r"'pixels' .* by no_grad\(\) at \S*test_entries\.py:\d+\.",
    ),
    "a rounding that lets gradients through": (
        {"loss": _rounded, "metaparameters": _inputs()},
        r"'pixels' .* by detach\(\) at",
    ),
    "an augmentation": (
        {"augment": _augmented(torch.Tensor.detach), "metaparameters": _inputs()},
        r"'pixels' .* by detach\(\) at",
    ),
    "a number": (
        {"loss": _smoothing(float), "metaparameters": _smoothed()},
        r"'scalars' .* by float\(\) at",
    ),
    "a kind of one's own": (
        {"metaparameters": _own(_Brightness, NUM_EXAMPLES, is_cut=True)},
        r"'own' .* by detach\(\) at",
    ),
    "a start of one's own": (
        {"metaparameters": _own(_Start, 1, is_cut=True)},
        "initial parameters that metaparameter 'own' makes",
    ),
}

SOUND = {
    "a held norm": {"loss": _normalized(engine.stop_gradient), "metaparameters": _inputs()},
    "an augmentation": {
        "augment": _augmented(engine.stop_gradient),
        "metaparameters": _inputs(),
    },
    "a number": {"loss": _smoothing(lambda share: share), "metaparameters": _smoothed()},
    "a kind of one's own": {"metaparameters": _own(_Brightness, NUM_EXAMPLES, is_cut=False)},
    "a start of one's own": {"metaparameters": _own(_Start, 1, is_cut=False)},
    "inputs of a kinked net": {"metaparameters": _inputs(), "model": mlp(torch.nn.ReLU())},
}


@pytest.mark.parametrize("name", CUT)
def test_a_way_that_is_cut_is_refused_by_name(name):
    """The gradient of each step, and its derivative by the parameters, are right in all of them."""
    changes, words = CUT[name]

    with pytest.raises(WitnessError, match=words):
        engine.metagradient(routine(**changes), output)


def test_in_float32_too():
    """It is compared in float64, whatever the format of the run."""
    x, y = (column[:NUM_EXAMPLES] for column in data())
    run = routine(
        mlp().float(),
        examples=(x.float(), y),
        loss=_normalized(torch.Tensor.detach),
        metaparameters={"pixels": Inputs(x[:4].float(), torch.arange(4), NUM_EXAMPLES)},
    )
    held = data()[0][NUM_EXAMPLES:].float(), data()[1][NUM_EXAMPLES:]

    with pytest.raises(WitnessError, match=r"'pixels' .* by detach\(\)"):
        engine.metagradient(run, lambda net: loss(net, held).mean())


@pytest.mark.parametrize("name", SOUND)
def test_a_way_that_is_whole_is_right(name):
    """Two plain trainings share no derivative with it."""
    run = routine(**SOUND[name])
    ((kind, found),) = engine.metagradient(run, output).gradient.items()
    drawn = torch.Generator().manual_seed(1)
    direction = torch.randn(found.shape, generator=drawn, dtype=found.dtype)

    wanted = engine.central_difference(run, output, {kind: direction})

    assert float((found * direction).sum()) == pytest.approx(wanted, rel=1e-5)


def test_what_cannot_be_called_in_float64_is_said():
    """A loss that insists on float32 is compared in no other format."""

    def single(net, batch):
        if batch[0].dtype != torch.float32:
            raise TypeError("only float32")
        return loss(net, batch)

    columns = [c.float() if c.is_floating_point() else c for c in data()]
    run = routine(
        mlp().float(),
        loss=single,
        examples=tuple(c[:NUM_EXAMPLES] for c in columns),
        metaparameters={
            "pixels": Inputs(columns[0][18:24].clone(), torch.arange(18, 24), NUM_EXAMPLES)
        },
    )

    found = engine.metagradient(run, lambda net: loss(net, [c[24:] for c in columns]).mean())

    assert (
        "'pixels' into the gradient of the loss was not compared: only float32"
        in found.witness.note
    )
