"""JAX with nested ``jax.checkpoint`` over ``jax.lax.scan``: sqrt(T) segments, one compiled program.

The models are those of ``models.py`` written for JAX, on the same initial values: images are NHWC,
which XLA prefers on a CPU. ``options["remat_steps"]`` also rematerializes each step of a segment;
without it a segment keeps the residuals of all its steps.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.bench.rivals.protocol import Task, Unable, serve

Params = dict[str, Any]


class Jax:
    """Differentiates one compiled function from the weights to the output."""

    def prepare(self, task: Task) -> dict[str, Any]:
        """See ``Contender.prepare``."""
        options, content = task.options, task.content
        if jax.default_backend() != ("gpu" if options["device"] == "cuda" else "cpu"):
            raise Unable(f"this environment's JAX runs on {jax.default_backend()}")
        precision = "tensorfloat32" if options["precision"] == "tf32" else "highest"
        jax.config.update("jax_default_matmul_precision", precision)
        data = task.data()
        self.num_steps, size = content["num_steps"], content["batch_size"]
        self.inner = _segment_length(self.num_steps)
        images = content["model"]["kind"] == "resnet"
        place = _channels_last if images else jnp.asarray
        self.batches = {
            "inputs": _batched(place(data["inputs"]), size),
            "labels": _batched(data["labels"], size),
        }
        self.weights = _batched(data["weights"], size)
        self.held_out = (place(data["held_out_inputs"]), jnp.asarray(data["held_out_labels"]))
        params = {name: _parameter(array) for name, array in task.initial().items()}
        self.logits = _resnet if images else _gpt(content["model"])
        self.update, moments = _optimizer(content["optimizer"])
        self.state = (params, *[jax.tree.map(jnp.zeros_like, params)] * moments)
        train = jax.jit(self._train)
        whole = jax.jit(jax.value_and_grad(self._output))
        # The arrays are arguments, or they would be folded into the program as constants.
        self.remat = bool(options.get("remat_steps"))
        self.compiled_train = train.lower(self.weights, self.batches).compile()
        self.compiled_whole = whole.lower(self.weights, self.batches).compile()
        return {
            "jax": jax.__version__,
            "computes": "exact metagradient, nested checkpoints in one XLA program",
            "segment": self.inner,
        }

    def warm(self) -> None:
        """Nothing to do: the program is compiled before it is run."""

    def plain(self) -> None:
        """See ``Contender.plain``."""
        jax.block_until_ready(self.compiled_train(self.weights, self.batches))

    def forward(self) -> None:
        """See ``Contender.forward``."""
        raise Unable("its forward sweep is inside the one compiled program")

    def whole(self) -> tuple[float, np.ndarray]:
        """See ``Contender.whole``."""
        output, gradient = self.compiled_whole(self.weights, self.batches)
        return float(output), np.asarray(gradient).reshape(-1)

    def stored_bytes(self) -> int:
        """See ``Contender.stored_bytes``."""
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self.state))
        inner = self.inner if self.remat else 0
        return (self.num_steps // self.inner + inner) * size

    def _losses(self, params: Params, inputs: Any, labels: Any) -> Any:
        logits = self.logits(params, inputs)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1)[..., 0]
        return -chosen.reshape(len(labels), -1).mean(axis=1)

    def _step(self, carry: Any, batch: Any) -> Any:
        (state, step), (weights, inputs, labels) = carry, batch

        def loss(params: Params) -> Any:
            return (weights * self._losses(params, inputs, labels)).mean()

        return (self.update(state, jax.grad(loss)(state[0]), step), step + 1), None

    def _train(self, weights: Any, batches: dict[str, Any]) -> Any:
        columns = (weights, batches["inputs"], batches["labels"])
        return lax.scan(self._step, (self.state, jnp.zeros(())), columns)[0][0][0]

    def _output(self, weights: Any, batches: dict[str, Any]) -> Any:
        step = jax.checkpoint(self._step) if self.remat else self._step

        @jax.checkpoint
        def segment(carry: Any, columns: Any) -> Any:
            return lax.scan(step, carry, columns)

        columns = (weights, batches["inputs"], batches["labels"])
        columns = jax.tree.map(lambda c: c.reshape(-1, self.inner, *c.shape[1:]), columns)
        (state, _), _ = lax.scan(segment, (self.state, jnp.zeros(())), columns)
        return self._losses(state[0], *self.held_out).mean()


def _segment_length(num_steps: int) -> int:
    """Return the divisor of T closest to sqrt(T)."""
    divisors = [n for n in range(1, num_steps + 1) if num_steps % n == 0]
    return min(divisors, key=lambda n: abs(math.log(n) - math.log(num_steps) / 2))


def _batched(array: Any, size: int) -> Any:
    return jnp.asarray(array).reshape(-1, size, *array.shape[1:])


def _channels_last(images: np.ndarray) -> Any:
    return jnp.asarray(images.transpose(0, 2, 3, 1))


def _parameter(array: np.ndarray) -> Any:
    return jnp.asarray(array.transpose(2, 3, 1, 0) if array.ndim == 4 else array)


def _optimizer(settings: dict[str, Any]) -> tuple[Any, int]:
    """Return the update of (params, moments ...), and how many moments there are."""
    rate, decay = settings["learning_rate"], settings["weight_decay"]
    if settings["name"] == "sgd":
        momentum = settings["momentum"]

        def sgd(state: Any, gradient: Params, step: Any) -> Any:
            del step
            params, velocity = state
            velocity = jax.tree.map(
                lambda b, g, p: momentum * b + g + decay * p, velocity, gradient, params
            )
            return jax.tree.map(lambda p, b: p - rate * b, params, velocity), velocity

        return sgd, 1
    beta1, beta2 = settings["beta1"], settings["beta2"]

    def adamw(state: Any, gradient: Params, step: Any) -> Any:
        params, first, second = state
        first = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, first, gradient)
        second = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, second, gradient)

        def moved(p: Any, m: Any, v: Any) -> Any:
            scale = jnp.sqrt(v / (1 - beta2 ** (step + 1)) + settings["eps_root"])
            direction = m / (1 - beta1 ** (step + 1)) / (scale + settings["eps"])
            return p - rate * decay * p - rate * direction

        return jax.tree.map(moved, params, first, second), first, second

    return adamw, 2


def _linear(params: Params, name: str, x: Any) -> Any:
    y = x @ params[f"{name}.weight"].T
    return y + params[f"{name}.bias"] if f"{name}.bias" in params else y


def _layer_norm(params: Params, name: str, x: Any) -> Any:
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    normal = (x - mean) * lax.rsqrt(variance + 1e-5)
    return normal * params[f"{name}.weight"] + params[f"{name}.bias"]


def _gpt(model: dict[str, Any]) -> Any:
    def block(params: Params, name: str, x: Any) -> Any:
        batch, length, width = x.shape
        heads = _linear(params, f"{name}.attend", _layer_norm(params, f"{name}.norm_1", x))
        heads = heads.reshape(batch, length, 3, model["num_heads"], -1)
        query, key, value = (heads[:, :, part].transpose(0, 2, 1, 3) for part in range(3))
        scores = query @ key.swapaxes(-1, -2) / math.sqrt(query.shape[-1])
        scores = jnp.where(jnp.tri(length, dtype=bool), scores, -jnp.inf)
        mixed = (jax.nn.softmax(scores) @ value).transpose(0, 2, 1, 3).reshape(x.shape)
        x = x + _linear(params, f"{name}.project", mixed)
        hidden = _linear(params, f"{name}.expand", _layer_norm(params, f"{name}.norm_2", x))
        return x + _linear(params, f"{name}.contract", jax.nn.gelu(hidden, approximate=False))

    def logits(params: Params, tokens: Any) -> Any:
        x = params["token.weight"][tokens] + params["position.weight"][: tokens.shape[1]]
        for depth in range(model["depth"]):
            x = block(params, f"blocks.{depth}", x)
        return _linear(params, "head", _layer_norm(params, "norm", x))

    return logits


def _convolution(params: Params, name: str, x: Any) -> Any:
    x = _convolved(x, params[f"{name}.0.weight"])
    grouped = x.reshape(*x.shape[:3], 4, -1)
    mean = grouped.mean((1, 2, 4), keepdims=True)
    variance = grouped.var((1, 2, 4), keepdims=True)
    normal = ((grouped - mean) * lax.rsqrt(variance + 1e-5)).reshape(x.shape)
    normal = normal * params[f"{name}.1.weight"] + params[f"{name}.1.bias"]
    return jax.nn.gelu(normal, approximate=False)


def _convolved(x: Any, kernel: Any) -> Any:
    """Convolve 3 x 3; on a CPU as a product of patches, where XLA's own is 50 times slower."""
    if jax.default_backend() != "cpu":
        return lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = [
        padded[:, row : row + height, column : column + width]
        for row in range(3)
        for column in range(3)
    ]
    return jnp.concatenate(patches, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def _halved(x: Any) -> Any:
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def _resnet(params: Params, images: Any) -> Any:
    x = _halved(_convolution(params, "down_1", _convolution(params, "stem", images)))
    x = x + _convolution(params, "pair_1.1", _convolution(params, "pair_1.0", x))
    x = _halved(_convolution(params, "down_2", x))
    x = _halved(_convolution(params, "down_3", x))
    x = x + _convolution(params, "pair_2.1", _convolution(params, "pair_2.0", x))
    return _linear(params, "head", x.mean((1, 2)))


if __name__ == "__main__":
    serve(Jax())
