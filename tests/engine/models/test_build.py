"""Shipped models: initial parameters, settings, and proof that they differentiate twice."""

import pytest
import torch
from torch.func import functional_call

from engine import ExampleWeights, Routine, adamw, metagradient, whole_run_gradient
from engine.errors import ConfigurationError
from engine.models.build import build_model
from engine.models.losses import per_example_cross_entropy
from engine.models.parts import POOLINGS, GlobalPool
from engine.recipes.arguments.model import ModelName, ModelSettings, Norm, NormPosition, Pooling

IMAGE = (1, 8, 8)
MENU = {
    "logistic": {"name": "logistic"},
    "mlp": {"name": "mlp", "activation": "tanh"},
    "mlp with layer norm": {"name": "mlp", "norm": "layer"},
    "mlp with batch norm after": {"name": "mlp", "norm": "batch", "norm_position": "after"},
    "resnet": {"name": "resnet", "activation": "tanh"},
    "resnet with group norm": {"name": "resnet", "norm": "group"},
    "resnet with log-sum-exp": {"name": "resnet", "norm": "layer", "pooling": "log-sum-exp"},
    "resnet9 as usual": {
        "name": "resnet9",
        "norm": "batch",
        "norm_position": "after",
        "activation": "relu",
        "pooling": "max",
    },
    "resnet9 as the paper's": {"name": "resnet9", "norm": "batch", "output_scale": 0.125},
    "resnet9 with log-sum-exp": {"name": "resnet9", "norm": "batch", "pooling": "log-sum-exp"},
    "resnet9 with group norm": {"name": "resnet9", "norm": "group", "pooling": "max"},
    "vit": {"name": "vit", "norm": "layer"},
    "vit with post-norm and max": {
        "name": "vit",
        "norm": "layer",
        "norm_position": "after",
        "pooling": "max",
    },
}
"""Every model, and every entry of the menu in one of them; a GPT reads tokens, see below."""

EVERY_MODEL = [
    pytest.param(ModelSettings.model_validate({"width": 4, "depth": 2, **settings}), id=name)
    for name, settings in MENU.items()
]
GPT = ModelSettings(name=ModelName.GPT, width=8, depth=2, heads=2, norm=Norm.LAYER)


def build(settings, input_shape=IMAGE, *, seed=0, dtype=torch.float64):
    return build_model(settings, input_shape, 10, seed=seed, dtype=dtype)


def random_batch(input_shape=IMAGE, *, num=5):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(num, *input_shape, dtype=torch.float64, generator=generator)
    return inputs, torch.arange(num) % 10


def random_direction(tensors, *, seed):
    """A direction of length 1, so that a nudge along it is as small as it says."""
    generator = torch.Generator().manual_seed(seed)
    direction = {
        name: torch.randn(value.shape, dtype=value.dtype, generator=generator)
        for name, value in tensors.items()
    }
    length = torch.stack([part.norm() for part in direction.values()]).norm()
    return {name: part / length for name, part in direction.items()}


def gradient(model, parameters, batch, *, create_graph=False):
    """Gradient of the mean loss at ``parameters``, which the model itself need not hold."""
    losses = per_example_cross_entropy(lambda x: functional_call(model, parameters, (x,)), batch)
    grads = torch.autograd.grad(losses.mean(), list(parameters.values()), create_graph=create_graph)
    return dict(zip(parameters, grads, strict=True))


def moved(parameters, direction, length):
    return {
        name: (value + length * direction[name]).detach().requires_grad_()
        for name, value in parameters.items()
    }


@pytest.mark.parametrize("settings", EVERY_MODEL)
@pytest.mark.parametrize("side", [8, 28])
def test_a_model_maps_images_to_one_logit_per_class(settings, side):
    """The same settings serve digits (8x8) and Fashion-MNIST (28x28)."""
    model = build(settings, (1, side, side))

    logits = model(random_batch((1, side, side))[0])

    assert logits.shape == (5, 10)
    assert logits.dtype == torch.float64


@pytest.mark.parametrize("settings", EVERY_MODEL)
def test_double_backward_agrees_with_central_differences_of_the_gradient(settings):
    """A kernel whose double backward is missing or wrong would poison every metagradient."""
    nudge = 1e-5  # truncation O(nudge^2) is near 1e-10, rounding O(eps / nudge) near 1e-11
    model, batch = build(settings), random_batch()
    parameters = {name: p.detach().requires_grad_() for name, p in model.named_parameters()}
    direction = random_direction(parameters, seed=2)
    ahead, behind = (
        gradient(model, moved(parameters, direction, length), batch) for length in (nudge, -nudge)
    )

    grads = gradient(model, parameters, batch, create_graph=True)
    slope = sum((grads[name] * direction[name]).sum() for name in grads)
    product = torch.autograd.grad(slope, list(parameters.values()))

    for name, value in zip(parameters, product, strict=True):
        expected = (ahead[name] - behind[name]) / (2 * nudge)
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("settings", EVERY_MODEL)
def test_double_backward_reaches_the_inputs(settings):
    """Poisoned pixels are metaparameters: d/dx of (gradient . direction), by differences too."""
    nudge = 1e-5  # as above
    model, (inputs, labels) = build(settings), random_batch()
    parameters = {name: p.detach().requires_grad_() for name, p in model.named_parameters()}
    direction = random_direction(parameters, seed=2)
    shift = random_direction({"inputs": inputs}, seed=3)["inputs"]

    def slope(x):
        grads = gradient(model, parameters, (x, labels), create_graph=True)
        return torch.stack([(grads[name] * direction[name]).sum() for name in grads]).sum()

    expected = (slope(inputs + nudge * shift) - slope(inputs - nudge * shift)) / (2 * nudge)

    inputs.requires_grad_()
    (grad_inputs,) = torch.autograd.grad(slope(inputs), inputs)

    torch.testing.assert_close((grad_inputs * shift).sum(), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("settings", EVERY_MODEL)
def test_parameters_are_a_pure_function_of_the_seed(settings):
    """s_0 is never stored for its own sake: a retry builds it again, bit for bit."""
    first, second, other = (build(settings, seed=seed).state_dict() for seed in (3, 3, 4))

    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("settings", EVERY_MODEL)
def test_building_leaves_the_global_generator_alone_and_ignores_it(settings):
    """A notebook's own random numbers neither shift nor enter the run."""
    expected = build(settings).state_dict()
    torch.rand(7)
    before = torch.get_rng_state()

    model = build(settings).state_dict()

    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(model[name], expected[name]) for name in expected)


def test_a_float64_twin_starts_from_the_float32_parameters():
    """An oracle in float64 must answer for the same run, whatever torch's default type is."""
    settings = ModelSettings(name=ModelName.RESNET, width=4)
    single = build(settings, dtype=torch.float32).state_dict()
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)

    try:
        double = build(settings, dtype=torch.float64).state_dict()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(default)

    assert all(torch.equal(single[name].double(), double[name]) for name in single)


@pytest.mark.parametrize("settings", EVERY_MODEL)
def test_models_hold_float_parameters_and_no_buffers_but_running_statistics(settings):
    """Whatever else is not a parameter would be missing from the state and its adjoint."""
    model = build(settings)
    statistics = {"running_mean", "running_var", "num_batches_tracked"}

    assert {name.rpartition(".")[2] for name, _ in model.named_buffers()} <= statistics
    assert all(p.dtype == torch.float64 and p.requires_grad for p in model.parameters())


def test_output_scale_multiplies_the_logits():
    """The design menu's simplest entry, and nothing else about the model changes."""
    inputs, _ = random_batch()

    plain, scaled = (build(ModelSettings(output_scale=scale)) for scale in (1.0, 0.125))

    torch.testing.assert_close(scaled(inputs), plain(inputs) / 8, rtol=0, atol=0)


def test_layer_norm_comes_before_the_activation():
    """The paper's menu asks for it: after the activation, runs are less smooth."""
    names = [type(layer).__name__ for layer in build(ModelSettings(norm=Norm.LAYER)).features]

    assert names == ["Flatten"] + ["Linear", "LayerNorm", "GELU"] * 2


def test_an_mlp_without_hidden_layers_is_logistic_regression():
    """depth=0 is the natural end of a sweep over depths."""
    inputs, _ = random_batch()

    mlp = build(ModelSettings(name=ModelName.MLP, depth=0))

    torch.testing.assert_close(mlp(inputs), build(ModelSettings(name=ModelName.LOGISTIC))(inputs))


@pytest.mark.parametrize("name", [ModelName.MLP, ModelName.RESNET])
def test_dropout_follows_the_global_generator_and_evaluation_drops_nothing(name):
    """Who seeds the generator per step gets the same units dropped when the step is replayed."""
    settings = ModelSettings(name=name, width=8, dropout=0.5)
    model, (inputs, _) = build(settings), random_batch()

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        first, other = model(inputs), model(inputs)
        torch.manual_seed(5)
        again = model(inputs)
    model.eval()

    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(model(inputs), model(inputs))


def test_per_example_losses_are_not_averaged():
    """Example weights multiply these, so each example keeps its own loss: -log softmax."""
    inputs, labels = random_batch()
    model = build(ModelSettings())

    losses = per_example_cross_entropy(model, (inputs, labels))

    expected = -model(inputs).softmax(dim=1)[torch.arange(5), labels].log()
    torch.testing.assert_close(losses, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"name": "gpt", "norm": "group"},
            r"norm is group.*gpt.*Set arguments\.model\.norm to layer or none",
        ),
        ({"name": "logistic", "norm": "layer"}, r"logistic.*Set arguments\.model\.norm to none"),
        (
            {"name": "logistic", "dropout": 0.5},
            r"dropout is 0\.5.*Set arguments\.model\.dropout to 0",
        ),
        ({"name": "resnet", "depth": 4}, r"depth is 4.*8 x 8.*only 3 times.*at most 3"),
    ],
    ids=["gpt group", "logistic layer", "logistic dropout", "resnet too deep"],
)
def test_settings_that_do_not_fit_the_model_are_refused(settings, message):
    """Each refusal names the setting and a value that works; silence would ignore the setting."""
    with pytest.raises(ConfigurationError, match=message):
        build(ModelSettings(**settings))


def test_a_resnet_refuses_examples_that_are_not_images():
    """Flat features have no neighbours to convolve over."""
    with pytest.raises(
        ConfigurationError, match=r"shape \(64,\).*Set arguments\.model\.name to mlp"
    ):
        build(ModelSettings(name=ModelName.RESNET), (64,))


def test_a_resnet_may_halve_images_down_to_one_pixel():
    """The deepest model that fits is not refused by one."""
    model = build(ModelSettings(name=ModelName.RESNET, width=2, depth=3, norm=Norm.GROUP))

    assert model(random_batch()[0]).shape == (5, 10)


def token_batch(*, num=4, length=5, num_tokens=6):
    """Sequences, and for each token the one that follows it."""
    drawn = torch.randint(
        0, num_tokens, (num, length + 1), generator=torch.Generator().manual_seed(4)
    )
    return drawn[:, :-1], drawn[:, 1:]


@pytest.mark.parametrize("position", list(NormPosition))
def test_a_gpt_reads_no_later_token(position):
    """Otherwise it would learn to copy its own targets."""
    settings = GPT.model_copy(update={"norm_position": position})
    model = build_model(settings, (5,), 6, seed=0, dtype=torch.float64)
    tokens, _ = token_batch()
    other = tokens.clone()
    other[:, 3] = (other[:, 3] + 1) % 6

    before, after = model(tokens), model(other)

    assert before.shape == (4, 5, 6)
    torch.testing.assert_close(before[:, :3], after[:, :3], rtol=0, atol=0)
    assert not torch.allclose(before[:, 3:], after[:, 3:])


def test_the_loss_of_a_sequence_is_the_mean_over_its_tokens():
    """One loss for each example, as example weights need it."""
    model = build_model(GPT, (5,), 6, seed=0, dtype=torch.float64)
    tokens, following = token_batch()

    found = per_example_cross_entropy(model, (tokens, following))

    log_probabilities = model(tokens).log_softmax(dim=-1)
    expected = -log_probabilities.gather(2, following[..., None]).squeeze(2).mean(dim=1)
    torch.testing.assert_close(found, expected)


def run_of(settings, examples, *, shape, classes, steps=4):
    """A short run of a model on random examples, and the mean loss on others."""
    inputs, labels = examples
    model = build_model(settings, shape, classes, seed=0, dtype=torch.float64)
    generator = torch.Generator().manual_seed(6)
    routine = Routine(
        model,
        per_example_cross_entropy,
        (inputs[:-2], labels[:-2]),
        adamw(eps_root=1e-6),
        learning_rate=0.01,
        num_steps=steps,
        batch_size=4,
        metaparameters={
            "weights": ExampleWeights(
                0.5 + torch.rand(len(labels) - 2, generator=generator, dtype=torch.float64)
            )
        },
    )
    return routine, lambda net: per_example_cross_entropy(net, (inputs[-2:], labels[-2:])).mean()


@pytest.mark.parametrize("settings", EVERY_MODEL)
def test_metagradient_of_every_model_equals_that_of_the_whole_run(settings):
    """Every entry of the menu, through training and evaluation mode, against plain autograd."""
    routine, output = run_of(settings, random_batch(num=10), shape=IMAGE, classes=10)
    _, expected = whole_run_gradient(routine, output)

    found = metagradient(routine, output, arity=2)

    torch.testing.assert_close(found["weights"], expected["weights"], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("position", list(NormPosition))
def test_metagradient_of_a_gpt_equals_that_of_the_whole_run(position):
    """Attention and embeddings differentiate twice."""
    settings = GPT.model_copy(update={"norm_position": position, "dropout": 0.1})
    routine, output = run_of(settings, token_batch(num=10), shape=(5,), classes=6)
    _, expected = whole_run_gradient(routine, output)

    found = metagradient(routine, output, arity=2)

    torch.testing.assert_close(found["weights"], expected["weights"], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "mlp", "pooling": "max"}, "arguments.model.pooling is max, which a mlp.*resnet"),
        ({"name": "resnet9", "depth": 3}, "arguments.model.depth is 3, which a resnet9"),
        ({"name": "gpt"}, "a gpt reads sequences of token ids"),
        ({"name": "vit", "patch_size": 3}, "whole patches of arguments.model.patch_size 3"),
        (
            {"name": "vit", "width": 6},
            "arguments.model.heads is 4, which does not divide arguments.model.width 6",
        ),
        ({"name": "vit", "norm": "batch"}, "Set arguments.model.norm to layer or none"),
    ],
)
def test_settings_that_a_model_does_not_read_are_refused(settings, message):
    """A search over the menu would otherwise compare a model with itself."""
    with pytest.raises(ConfigurationError, match=message):
        build(ModelSettings.model_validate(settings))


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        (Pooling.AVERAGE, [[2.5]]),
        (Pooling.MAX, [[4.0]]),
        (Pooling.LOG_SUM_EXP, [[float(torch.tensor([1.0, 2, 3, 4]).exp().mean().log())]]),
    ],
)
def test_poolings_take_squares_and_leave_out_an_odd_row(pooling, expected):
    """Between the mean and the maximum lies the smooth maximum."""
    image = torch.tensor([[[[1.0, 2, 9], [3, 4, 9], [9, 9, 9]]]])

    pooled = POOLINGS[pooling]()(image)
    whole = GlobalPool(pooling, (-2, -1))(image[..., :2, :2])

    torch.testing.assert_close(pooled, torch.tensor(expected).view(1, 1, 1, 1))
    torch.testing.assert_close(whole, torch.tensor(expected))
