"""Losses of runs that are trained together, against torch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import vmap

from engine.models.losses import IGNORED, per_example_cross_entropy


@pytest.mark.parametrize("classes", [5, 10, 15, 16, 40])
def test_cross_entropy_under_vmap_is_torchs_own(classes):
    """Three runs, whose second has other labels, one of them ignored; gradients too.

    Few classes go by columns, many by rows.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (3, 7, classes)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(classes, (3, 7), generator=generator)
    labels[1, 4] = IGNORED
    weights = torch.rand(3, 7, generator=generator, dtype=torch.float64)

    def batched(logits, labels):
        return per_example_cross_entropy(lambda inputs: inputs, (logits, labels))

    found = vmap(batched)(logits, labels)
    expected = torch.stack(
        [
            F.cross_entropy(one, other, reduction="none")
            for one, other in zip(logits, labels, strict=True)
        ]
    )

    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-15)
    of_found, of_expected = (
        torch.autograd.grad((weights * losses).sum(), logits, create_graph=True)[0]
        for losses in (found, expected)
    )
    torch.testing.assert_close(of_found, of_expected, rtol=1e-13, atol=1e-15)
    twice = [torch.autograd.grad((g**3).sum(), logits)[0] for g in (of_found, of_expected)]
    torch.testing.assert_close(*twice, rtol=1e-13, atol=1e-15)
