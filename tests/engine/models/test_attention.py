"""The fused attention beside torch's math kernel, which keeps the whole matrix."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import engine
from engine.models import attention as module
from engine.models import attention_blocks as blocks
from engine.models.attention import attention, why_not
from engine.numerics.determinism import deterministic
from tests.helpers.trainings.attending import Causal, run_of

SHAPES = {
    "plain": {},
    "causal": {"is_causal": True},
    "scaled": {"scale": 0.3},
    "more columns": {"columns": 29},
    "more columns, causal": {"columns": 29, "is_causal": True},
    "more rows, causal": {"columns": 11, "is_causal": True},
    "padding": {"mask": lambda g: torch.rand(3, 1, 1, 18, generator=g) > 0.3},
    "mask for all": {"mask": lambda g: torch.rand(18, 18, generator=g) > 0.3},
    "mask for each head": {"mask": lambda g: torch.rand(3, 4, 18, 18, generator=g) > 0.3},
    "rows that read nothing": {"mask": lambda g: torch.arange(18)[:, None] > torch.arange(18)},
    "added numbers": {"mask": lambda g: torch.randn(1, 4, 18, 18, generator=g)},
    "heads that share keys": {"shared": 2, "enable_gqa": True},
    "further axes": {"batch": (2, 3)},
    "no heads": {"heads": ()},
    "neither examples nor heads": {"batch": (), "heads": ()},
    "heads without examples": {"batch": ()},
    "one key for all heads": {"shared": 4},
    "one key for all heads, which says so": {"shared": 4, "enable_gqa": True},
    "values of another size": {"value_size": 9},
    "values of another size, causal": {"value_size": 2, "is_causal": True},
    "further axes, padding": {
        "batch": (2, 3),
        "mask": lambda g: torch.rand(3, 1, 1, 18, generator=g) > 0.3,
    },
    "dropout": {"dropout_p": 0.3},
    "dropout, causal": {"dropout_p": 0.1, "columns": 29, "is_causal": True},
    "dropout, padding": {
        "dropout_p": 0.6,
        "mask": lambda g: torch.rand(3, 1, 1, 18, generator=g) > 0.3,
    },
    "dropout, heads that share keys": {"dropout_p": 0.1, "shared": 2, "enable_gqa": True},
    "dropout, further axes": {"dropout_p": 0.1, "batch": (2, 3)},
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks of several groups, of matrices that a test can afford."""
    monkeypatch.setattr(module, "LEAST_PAIRS", 1)
    monkeypatch.setattr(blocks, "_HEIGHTS", {"causal": 5, "whole": 7})
    monkeypatch.setattr(blocks, "_LEAST", 3)


def tensors(
    *,
    batch=(3,),
    heads=(4,),
    columns=18,
    shared=1,
    value_size=6,
    mask=None,
    dtype=torch.float64,
    **options,
):
    """Return query, key, value and the options of a call."""
    drawn = torch.Generator().manual_seed(0)
    of_keys = [each // shared for each in heads]
    shapes = (
        (*batch, *heads, 18, 6),
        (*batch, *of_keys, columns, 6),
        (*batch, *of_keys, columns, value_size),
    )
    found = [torch.randn(*s, generator=drawn, dtype=dtype).requires_grad_() for s in shapes]
    if mask is not None:
        options["attn_mask"] = mask(drawn)
    return found, options


def derivatives(function, given, options):
    """Return a value, its gradient, the derivative of a function of that gradient, and a draw.

    The draw is one after the call, so that a call which draws otherwise is seen.
    """
    torch.manual_seed(0)
    out, drawn = function(*given, **options), torch.rand(3)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    first = torch.autograd.grad((torch.tanh(out) * weights).sum(), given, create_graph=True)
    second = torch.autograd.grad(sum((g * g.cos()).sum() for g in first), given)
    return [out, *first, *second, drawn]


def by_math(*given, **options):
    """Return torch's own attention, by the kernel that has a second derivative."""
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(*given, **options)


NUMBERS = {"few rows of a head": 1, "some heads": 18 * 7 * 5, "all heads": 1 << 20}


@pytest.mark.parametrize("numbers", NUMBERS.values(), ids=NUMBERS)
@pytest.mark.parametrize("options", SHAPES.values(), ids=SHAPES)
def test_value_and_both_derivatives_are_those_of_the_math_kernel(options, numbers, monkeypatch):
    """The kernel of torch and the blocked formula share nothing but the inputs."""
    monkeypatch.setattr(blocks, "BLOCK_NUMBERS", {"cpu": numbers})
    given, rest = tensors(**options)
    mask, rate = rest.get("attn_mask"), rest.get("dropout_p", 0.0)
    assert not why_not(*given, mask, rate, enable_gqa=rest.get("enable_gqa", False))

    found, expected = derivatives(attention, given, rest), derivatives(by_math, given, rest)

    for ours, theirs in zip(found, expected, strict=True):
        assert torch.isfinite(ours).all()
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("is_causal", "dropout"),
    [
        (False, 0.4),
        pytest.param(True, 0.4, marks=pytest.mark.slow),
        pytest.param(False, 0.0, marks=pytest.mark.slow),
        (True, 0.0),
    ],
)
def test_finite_differences_agree_with_both_derivatives(is_causal, dropout):
    """No kernel of torch is asked: differences of the value, and of its derivative."""
    given, _ = tensors(batch=(1,))
    cut = [each[:, :1, :9].detach().requires_grad_() for each in given]

    def call(*given):
        torch.manual_seed(0)
        return attention(*given, is_causal=is_causal, dropout_p=dropout)

    assert torch.autograd.gradcheck(call, cut)
    assert torch.autograd.gradgradcheck(call, cut)


@pytest.mark.parametrize("is_causal", [False, True])
def test_passes_without_a_fused_kernel_are_the_same(is_causal):
    """They serve devices and formats for which torch has none."""
    given, _ = tensors()
    query, key, value = (each.detach() for each in given)
    cotangent = query.cos()

    options = blocks.AttentionOptions(None, None, is_causal, 0.4)

    out, sums = blocks._blocked(query, key, value, options)
    fused, fused_sums = blocks.forward_pass(query, key, value, options)
    passed = blocks.Passed(query, key, value, out, sums, options)
    pulled, expected = blocks._blocked_pull(cotangent, passed), blocks.pull(cotangent, passed)

    torch.testing.assert_close((out, sums), (fused, fused_sums))
    torch.testing.assert_close(pulled, expected)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dropout": 1.0}, "drops all"),
        ({"scale": -1.0}, "not positive"),
        ({"mask": torch.zeros(18, 18).requires_grad_()}, "trained"),
        ({"mask": torch.zeros(18, 18), "is_causal": True}, "beside is_causal"),
    ],
)
def test_what_it_cannot_do_goes_to_the_math_kernel(change, reason):
    """It says why, and the numbers are torch's own."""
    given, _ = tensors()

    assert reason in why_not(*given, **change)

    names = {"dropout": "dropout_p", "mask": "attn_mask"}
    options = {names.get(name, name): value for name, value in change.items()}
    torch.manual_seed(0)
    found = attention(*given, **options) if not options.get("is_causal") else None
    torch.manual_seed(0)
    if found is not None:
        assert torch.equal(found, by_math(*given, **options))


def test_batched_calls_take_the_math_kernel():
    """The blocks write in place, which vmap cannot carry."""
    given, _ = tensors(batch=(3, 2))

    found = torch.func.vmap(attention)(*given)

    torch.testing.assert_close(found, by_math(*given))


def test_derivatives_of_torch_func_go_through():
    """A step may be differentiated by ``torch.func.grad``, several levels deep."""
    given, _ = tensors()

    def second(function):
        inner = torch.func.grad(lambda *g: function(*g, is_causal=True).tanh().sum(), (0, 1, 2))
        return torch.func.grad(lambda *g: sum(x.sin().sum() for x in inner(*g)), (0, 1, 2))(*given)

    torch.testing.assert_close(second(attention), second(by_math))


class Reader(nn.Module):
    """A layer of torch's own over numbers as tokens."""

    def __init__(self, layer):
        super().__init__()
        self.enter, self.layer, self.leave = nn.Linear(1, 8), layer, nn.Linear(8, 2)

    def forward(self, inputs):
        """Return two logits."""
        tokens = self.enter(inputs[..., None])
        padding = inputs.abs() > 1.5
        if isinstance(self.layer, nn.MultiheadAttention):
            read, _ = self.layer(tokens, tokens, tokens, padding, need_weights=False)
        else:
            read = self.layer(tokens, src_key_padding_mask=padding)
        return self.leave(read.masked_fill(padding[..., None], 0).mean(1))


MODELS = {
    "encoder layer": lambda: Reader(
        nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    ),
    "multi-head attention": lambda: Reader(nn.MultiheadAttention(8, 2, batch_first=True)),
    "function": Causal,
    "encoder layer, its own dropout": lambda: Reader(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    ),
    "function with dropout": lambda: Causal(0.2),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_run_takes_it_without_a_change_of_the_model(name, monkeypatch):
    """The metagradient is that of the math kernel, and the fused passes have made it."""
    calls = []
    for passed in ("forward_pass", "pull", "second_pull"):
        own = getattr(module, passed)
        monkeypatch.setattr(
            module, passed, lambda *given, o=own, n=passed: (calls.append(n), o(*given))[1]
        )
    torch.manual_seed(0)
    model = MODELS[name]()

    found = engine.metagradient(*run_of(model))
    made = set(calls)
    monkeypatch.setattr(module, "LEAST_PAIRS", math.inf)
    expected = engine.metagradient(*run_of(model))

    assert made == {"forward_pass", "pull", "second_pull"}
    torch.testing.assert_close(found["weights"], expected["weights"], rtol=1e-9, atol=1e-13)


class Weighed(Reader):
    """Layers that ask for the whole matrix, or for one of their own."""

    def __init__(self, kind):
        super().__init__(nn.MultiheadAttention(8, 2, batch_first=True))
        self.kind, self.bias = kind, nn.Parameter(torch.zeros(20, 20))

    def forward(self, inputs):
        """Return two logits."""
        tokens = self.enter(inputs[..., None])
        if self.kind == "bias":
            read = F.scaled_dot_product_attention(tokens, tokens, tokens, attn_mask=self.bias)
        else:
            asked = self.kind == "weights"
            read, _ = self.layer(tokens, tokens, tokens, need_weights=asked)
        return self.leave(read.mean(1))


@pytest.mark.parametrize(
    ("kind", "said"), [("bias", "its mask is trained"), ("weights", "need_weights"), ("none", "")]
)
def test_a_whole_matrix_is_said(kind, said):
    """People read it beside the witness, whose step has the attentions of the run."""
    torch.manual_seed(0)

    note = engine.metagradient(*run_of(Weighed(kind))).witness.note

    assert said in note
    assert ("20 x 20 tokens keeps its whole matrix" in note) == bool(said)


def test_numbers_that_are_none_stay_so():
    """A row that may read nothing reads zeros, and one whose scores are NaN reads NaN."""
    (query, key, value), _ = tensors()
    query = query.detach().clone()
    query[0, 0, 3] = math.nan
    mask = torch.ones(18, 18, dtype=torch.bool)
    mask[5] = False

    out = attention(query, key, value, mask)

    assert out[0, 0, 3].isnan().all()
    assert (out[:, :, 5] == 0).all()
    assert out[1:, :, :5].isfinite().all()


def test_same_bits_at_every_call():
    """A replayed step repeats what a step of the forward sweep made."""
    given, rest = tensors(dtype=torch.float32, is_causal=True)
    with deterministic():
        one, other = (derivatives(attention, given, rest) for _ in range(2))

    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
