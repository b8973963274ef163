"""Flat vectors and their named parts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ConfigurationError
from engine.routine.layout import Layout

SHAPES = st.lists(st.lists(st.integers(1, 4), max_size=3).map(tuple), min_size=1, max_size=5)


def numbered(shapes):
    """Tensors of the given shapes that hold 0, 1, 2, ... one after another."""
    sizes = [torch.Size(shape).numel() for shape in shapes]
    parts = torch.arange(sum(sizes), dtype=torch.float64).split(sizes)
    return {f"t{i}": part.view(shapes[i]) for i, part in enumerate(parts)}


def test_layout_of_a_small_layer_is_this():
    """Read this to learn the vocabulary: two tensors, six numbers, one vector."""
    tensors = {"weight": torch.tensor([[0.0, 1.0], [2.0, 3.0]]), "bias": torch.tensor([4.0, 5.0])}

    layout = Layout.of(tensors)

    assert layout == Layout({"weight": (2, 2), "bias": (2,)}, torch.float32)
    assert layout.size == 6
    assert layout.flatten(tensors).tolist() == [0, 1, 2, 3, 4, 5]
    assert layout.locate(2) == "weight[1, 0]"


@given(shapes=SHAPES)
def test_views_undo_flatten(shapes):
    """Training reads the model through the views, so every number must be where it came from."""
    tensors = numbered(shapes)
    layout = Layout.of(tensors)

    views = layout.views(layout.flatten(tensors))

    assert list(views) == list(tensors)
    assert all(torch.equal(views[name], tensors[name]) for name in tensors)


@given(shapes=SHAPES, data=st.data())
def test_locate_names_the_element_that_stands_there(shapes, data):
    """An error about element 4711 of a vector is of no use until it says whose it is."""
    tensors = numbered(shapes)
    layout = Layout.of(tensors)
    index = data.draw(st.integers(0, layout.size - 1))

    name, _, position = layout.locate(index).removesuffix("]").partition("[")

    axes = tuple(int(axis) for axis in position.split(", ") if axis)
    assert float(tensors[name][axes]) == index


def test_locate_beyond_the_end_is_an_error():
    """An index of another layout must not be given the name of an innocent parameter."""
    with pytest.raises(IndexError, match="1 elements beyond"):
        Layout.of({"a": torch.zeros(3)}).locate(4)


def test_flatten_follows_the_layout_and_not_the_mapping():
    """A state from a store may list its tensors in another order."""
    layout = Layout.of({"a": torch.tensor([0.0]), "b": torch.tensor([1.0])})

    flat = layout.flatten({"b": torch.tensor([1.0]), "a": torch.tensor([0.0])})

    assert flat.tolist() == [0, 1]


def test_views_share_memory_with_the_vector():
    """A copy of all parameters at every step would double the memory of a step."""
    flat = torch.zeros(6)

    views = Layout.of({"a": torch.zeros(2, 2), "b": torch.zeros(2)}).views(flat)

    assert views["a"].data_ptr() == flat.data_ptr()
    assert views["b"].data_ptr() == flat[4:].data_ptr()


def test_gradient_through_views_lies_as_the_vector():
    """The adjoint has the layout of the state, so each part's gradient must land in its slice."""
    flat = torch.zeros(6, requires_grad=True)
    views = Layout.of({"a": torch.zeros(2, 2), "b": torch.zeros(2)}).views(flat)

    (gradient,) = torch.autograd.grad(views["a"].sum() + 10 * views["b"].sum(), flat)

    assert gradient.tolist() == [1, 1, 1, 1, 10, 10]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, r"no trainable parameters.*requires_grad"),
        ({"count": torch.zeros(2, dtype=torch.int64)}, r"'count' has dtype torch.int64.*Derive it"),
        (
            {"a": torch.zeros(2), "b": torch.zeros(2, dtype=torch.float64)},
            r"'b' has dtype torch.float64.*float32.*model\.to",
        ),
    ],
    ids=["nothing", "integer", "mixed"],
)
def test_tensors_that_make_no_differentiable_vector_are_refused(tensors, message):
    """An integer has no derivative, and a silent conversion would change the bits of a run."""
    with pytest.raises(ConfigurationError, match=message):
        Layout.of(tensors)
