"""Same inputs, same bits: seeds from (seed, step), and torch's deterministic switches.

Every random draw comes from a generator that is seeded by what the draw is for, so no generator
state has to be saved or restored between steps.
"""

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

from engine.errors import ConfigurationError, DeterminismError

PROCESS = threading.RLock()
"""Held by whoever trains: switches and random generators belong to the process, not to a thread."""


def seed_for(seed: int, *purpose: str | int) -> int:
    """Derive a 63-bit seed from a run's seed and what the draw is for, e.g. ("dropout", t)."""
    content = ":".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a fresh CPU generator for one purpose."""
    return torch.Generator("cpu").manual_seed(seed_for(seed, *purpose))


class seeded:
    """Seed torch's global generators inside the block, and give them back as they were.

    For code that draws from the global generators, such as ``nn.Dropout``.

    Args:
        seed: The run's.
        *purpose: What is drawn for, e.g. ("step", t).
        device: Device whose generator is seeded too.
    """

    def __init__(self, seed: int, *purpose: str | int, device: torch.device | None = None) -> None:
        self._value = seed_for(seed, *purpose)
        self._device = device if device is not None and device.type == "cuda" else None

    def __enter__(self) -> None:
        PROCESS.acquire()
        try:
            self._before = torch.default_generator.get_state()
            if self._device is not None:
                self._before_there = torch.cuda.get_rng_state(self._device)
            _seed_generators(self._device, self._value)
        except BaseException:
            PROCESS.release()
            raise

    def __exit__(self, *_: object) -> None:
        try:
            torch.default_generator.set_state(self._before)
            if self._device is not None:
                torch.cuda.set_rng_state(self._before_there, self._device)
        finally:
            PROCESS.release()


def seed_generators(device: torch.device, seed: int, *purpose: str | int) -> None:
    """Seed torch's global generators as ``seeded`` does, without its lock and for good.

    For whoever holds them already, in a thread of its own perhaps.
    """
    _seed_generators(device, seed_for(seed, *purpose))


def _seed_generators(device: torch.device | None, value: int) -> None:
    torch.default_generator.manual_seed(value)
    if device is not None and device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(value)


@contextmanager
def deterministic(threads: int | None = None, *, tf32: bool = False) -> Iterator[None]:
    """Switch torch to deterministic algorithms and full precision inside the block.

    TF32 is off by default, because the last digits of a metagradient depend on it; cuBLAS gets the
    workspace setting that its deterministic algorithms need (it must be set before CUDA starts).
    Attention takes the math kernel, because the fused ones have no second derivative; and torch's
    fast path for encoders is off, because it is taken only where no graph is wanted, and computes
    another function of padded tokens.

    Blocks of several threads run one after the other, since the switches are those of the process.

    Args:
        threads: CPU threads inside the block; those that torch has by default.
        tf32: Leave TF32 on, for speed on a GPU.

    Raises:
        ConfigurationError: If the process is set up so that bits cannot repeat.
        DeterminismError: If something in the block has moved a switch, which is seen at the end;
            names it.
    """
    with PROCESS:
        os.environ.setdefault(_CUBLAS, _CUBLAS_SAFE[0])
        _refuse_hopeless()
        before = switches()
        speed: dict[str, Any] = {"matrix precision": "high", "cuDNN TF32": True} if tf32 else {}
        speed[_FILL] = _FILLING.get()
        _set(before | SAFE | speed | {"threads": threads or before["threads"]})
        wanted = switches()
        try:
            with torch.inference_mode(False):  # a graph is wanted, whatever the caller wants
                yield
            _refuse_moved(wanted)
        finally:
            _set(before)


_FILL = "filling of fresh memory"
_FILLING: ContextVar[bool] = ContextVar("_FILLING", default=False)


@contextmanager
def filling() -> Iterator[None]:
    """Let fresh memory hold NaN inside of the blocks of ``deterministic`` that begin inside.

    So a model that reads numbers which nobody has written is seen before a run. In a run itself
    it would cost a pass over the memory of many results, up to a twentieth of a step.
    """
    before = _FILLING.set(True)
    try:
        yield
    finally:
        _FILLING.reset(before)


_CUBLAS, _CUBLAS_SAFE = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")

SAFE: dict[str, Any] = {
    "deterministic algorithms": 2,  # an error where there is none
    "cuDNN benchmark": False,
    "matrix precision": "highest",
    "cuDNN TF32": False,
    "flash attention": False,
    "memory-efficient attention": False,
    "cuDNN attention": False,
    "math attention": True,
    "fast path of encoders": False,
}
"""Switches by the words for them, as they have to be."""


def switches() -> dict[str, Any]:
    """Return how the switches stand, by the words for them."""
    return {
        "deterministic algorithms": torch.get_deterministic_debug_mode(),
        "cuDNN benchmark": torch.backends.cudnn.benchmark,
        "matrix precision": torch.get_float32_matmul_precision(),
        "cuDNN TF32": torch.backends.cudnn.allow_tf32,
        "flash attention": torch.backends.cuda.flash_sdp_enabled(),
        "memory-efficient attention": torch.backends.cuda.mem_efficient_sdp_enabled(),
        "cuDNN attention": torch.backends.cuda.cudnn_sdp_enabled(),
        "math attention": torch.backends.cuda.math_sdp_enabled(),
        "fast path of encoders": torch.backends.mha.get_fastpath_enabled(),
        _FILL: torch.utils.deterministic.fill_uninitialized_memory,  # pyright: ignore[reportAttributeAccessIssue] (likewise)
        "threads": torch.get_num_threads(),
    }


def _set(wanted: dict[str, Any]) -> None:
    # Not use_deterministic_algorithms, which imports the compiler: three seconds.
    torch.set_deterministic_debug_mode(wanted["deterministic algorithms"])
    torch.backends.cudnn.benchmark = wanted["cuDNN benchmark"]
    torch.set_float32_matmul_precision(wanted["matrix precision"])
    torch.backends.cudnn.allow_tf32 = wanted["cuDNN TF32"]
    torch.backends.cuda.enable_flash_sdp(wanted["flash attention"])
    torch.backends.cuda.enable_mem_efficient_sdp(wanted["memory-efficient attention"])
    torch.backends.cuda.enable_cudnn_sdp(wanted["cuDNN attention"])
    torch.backends.cuda.enable_math_sdp(wanted["math attention"])
    torch.backends.mha.set_fastpath_enabled(wanted["fast path of encoders"])
    torch.utils.deterministic.fill_uninitialized_memory = wanted[_FILL]  # pyright: ignore[reportAttributeAccessIssue] (set by a class in the place of the module)
    if torch.get_num_threads() != wanted["threads"]:
        torch.set_num_threads(wanted["threads"])


def refuse_meta() -> None:
    """Refuse a default device on which tensors have no values.

    Raises:
        ConfigurationError: Says how to leave it.
    """
    if torch.get_default_device().type == "meta":
        raise ConfigurationError(
            "torch's default device is 'meta', whose tensors hold no numbers. Call the engine "
            "outside of torch.device('meta')."
        )


def _refuse_hopeless() -> None:
    refuse_meta()
    value = os.environ[_CUBLAS]
    if value not in _CUBLAS_SAFE:
        raise ConfigurationError(
            f"{_CUBLAS} is {value!r}, with which cuBLAS does not repeat its bits. Unset it, or set "
            f"it to {_CUBLAS_SAFE[0]}."
        )
    for device in ("cpu", "cuda"):
        if torch.is_autocast_enabled(device):
            raise ConfigurationError(
                f"autocast is on for {device}, so a step would compute in half precision, whose "
                "metagradient is noise. Call the engine outside of torch.autocast."
            )


def _refuse_moved(wanted: dict[str, Any]) -> None:
    for name, value in switches().items():
        if value != wanted[name]:
            raise DeterminismError(
                f"The switch for {name} was {wanted[name]!r} when the run began and is {value!r} "
                "at its end, so some steps ran under other rules and a replay may differ. Look "
                "for code in the model, the loss, the examples or the output that sets it."
            )
