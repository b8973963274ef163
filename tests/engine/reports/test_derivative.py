"""The figure of a metagradient in a notebook."""

import re

import pytest
import torch

import engine
from engine.reports.derivative import derivative_figure
from tests.helpers.trainings import routines


def texts(figure):
    """Return what is written in a drawing."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", figure.image.decode())


def test_metagradient_draws_itself_with_its_steps():
    """Two panels for each metaparameter, and what both sweeps recorded."""
    routine = routines.routine(num_steps=8)
    figure = engine.metagradient(routine, routines.output).plot()

    assert figure.media_type == "image/svg+xml"
    assert figure.alt
    (name,) = routine.metaparameters
    said = texts(figure)
    assert said.count(f"derivative by {name}") == 2
    assert {"batch loss", "norm of the adjoint", "rank, the lowest first"} <= set(said)
    assert figure._repr_html_().startswith("<figure><img")


@pytest.mark.parametrize(
    ("number", "first"),
    [
        pytest.param(4000, "place among the entries", marks=pytest.mark.slow),
        (4001, "entries"),
    ],
)
def test_many_entries_are_counted(number, first):
    """Millions of pixels as a line each would be megabytes in a notebook."""
    entries = torch.linspace(-1, 2, number).tolist()

    figure = derivative_figure({"pixels": entries}, [1.0, 0.5], {1: 2.0})

    assert first in texts(figure)
    assert len(figure.image) < 900_000
