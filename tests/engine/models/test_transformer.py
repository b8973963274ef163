"""How a transformer starts."""

import re

import pytest
import torch

from engine.models.build import build_model
from engine.recipes.arguments.model import ModelSettings


def test_what_is_added_to_the_residual_sum_starts_smaller_by_the_root_of_the_additions():
    """As in GPT-2: after 8 blocks with 2 additions each, the sum's variance is that of one."""
    settings = ModelSettings.model_validate(
        {"name": "gpt", "width": 64, "depth": 8, "heads": 2, "norm": "layer"}
    )
    model = build_model(settings, (12,), 50, seed=0, dtype=torch.float64)
    matrices = {n: p for n, p in model.named_parameters() if p.ndim > 1 and "attention" in n}
    matrices |= {n: p for n, p in model.named_parameters() if p.ndim > 1 and "mlp" in n}

    found = {name: float(values.detach().std()) for name, values in matrices.items()}

    added = [std for name, std in found.items() if re.search(r"output|mlp\.2", name)]
    others = [std for name, std in found.items() if not re.search(r"output|mlp\.2", name)]
    assert (len(added), len(others)) == (16, 16)
    assert added == pytest.approx([0.02 / 16**0.5] * 16, rel=0.05)
    assert others == pytest.approx([0.02] * 16, rel=0.05)
