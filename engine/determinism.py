"""Same inputs, same bits: seeds from (seed, step), and torch's deterministic switches.

Every random draw comes from a generator that is seeded by what the draw is for, so no generator
state has to be saved or restored between steps.
"""

import hashlib
import os
import platform
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

from engine.errors import ConfigurationError, DeterminismError

PROCESS = threading.RLock()
"""Held by whoever trains: switches and random generators belong to the process, not to a thread."""


def seed_for(seed: int, *purpose: str | int) -> int:
    """Derive a 63-bit seed from a run's seed and what the draw is for, e.g. ("dropout", t)."""
    content = ":".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a fresh CPU generator for one purpose."""
    return torch.Generator("cpu").manual_seed(seed_for(seed, *purpose))


@contextmanager
def seeded(seed: int, *purpose: str | int, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's global generators inside the block, and give them back as they were.

    For code that draws from the global generators, such as ``nn.Dropout``.
    """
    cuda = device is not None and device.type == "cuda"
    with PROCESS, torch.random.fork_rng(devices=[device] if cuda else []):
        value = seed_for(seed, *purpose)
        torch.default_generator.manual_seed(value)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(value)
        yield


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
        DeterminismError: At the end, if something in the block has moved a switch; names it.
    """
    with PROCESS:
        os.environ.setdefault(_CUBLAS, _CUBLAS_SAFE[0])
        _refuse_hopeless()
        before = _switches()
        speed = {"matrix precision": "high", "cuDNN TF32": True} if tf32 else {}
        _set(before | _SAFE | speed | {"threads": threads or before["threads"]})
        wanted = _switches()
        try:
            with torch.inference_mode(False):  # a graph is wanted, whatever the caller wants
                yield
            _refuse_moved(wanted)
        finally:
            _set(before)


_CUBLAS, _CUBLAS_SAFE = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")

_SAFE: dict[str, Any] = {
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


def _switches() -> dict[str, Any]:
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
        "threads": torch.get_num_threads(),
    }


def _set(switches: dict[str, Any]) -> None:
    # Not use_deterministic_algorithms, which imports the compiler: three seconds.
    torch.set_deterministic_debug_mode(switches["deterministic algorithms"])
    torch.backends.cudnn.benchmark = switches["cuDNN benchmark"]
    torch.set_float32_matmul_precision(switches["matrix precision"])
    torch.backends.cudnn.allow_tf32 = switches["cuDNN TF32"]
    torch.backends.cuda.enable_flash_sdp(switches["flash attention"])
    torch.backends.cuda.enable_mem_efficient_sdp(switches["memory-efficient attention"])
    torch.backends.cuda.enable_cudnn_sdp(switches["cuDNN attention"])
    torch.backends.cuda.enable_math_sdp(switches["math attention"])
    torch.backends.mha.set_fastpath_enabled(switches["fast path of encoders"])
    if torch.get_num_threads() != switches["threads"]:
        torch.set_num_threads(switches["threads"])


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
    for name, value in _switches().items():
        if value != wanted[name]:
            raise DeterminismError(
                f"The switch for {name} was {wanted[name]!r} when the run began and is {value!r} "
                "at its end, so some steps ran under other rules and a replay may differ. Look "
                "for code in the model, the loss, the examples or the output that sets it."
            )


def environment(device: str = "cpu", threads: int | None = None) -> dict[str, Any]:
    """Describe what the bits of a run depend on besides its inputs.

    Stages made in two environments are never mixed: this is part of their key.

    Args:
        device: Torch device.
        threads: CPU threads of the run; torch's own number by default.
    """
    kind = torch.device(device)
    cuda = kind.type == "cuda"
    return {
        "torch": torch.__version__,
        "build": hashlib.sha256(torch.__config__.show().encode()).hexdigest()[:12],
        "system": platform.system(),
        "device": torch.cuda.get_device_name(kind) if cuda else platform.machine(),
        "capability": None if cuda else torch.backends.cpu.get_cpu_capability(),
        "kernels": None if cuda else _kernels(),
        "threads": threads or torch.get_num_threads(),
        "cuda": torch.version.cuda if cuda else None,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
    }


@cache
def _kernels() -> str:
    """Name the kernels that this process has, by the bits of a few small operations.

    Libraries choose kernels by the processor's maker and by variables of their own (MKL_CBWR), so
    two machines of one capability may make other bits.
    """
    drawn = torch.Generator().manual_seed(0)
    a, b = (torch.randn(61, 67, generator=drawn, device="cpu") for _ in range(2))
    filters = torch.randn(5, 3, 3, 3, generator=drawn, device="cpu")
    images = torch.randn(2, 3, 11, 13, generator=drawn, device="cpu")
    with torch.no_grad():
        found = [
            a @ b.T,
            a.double() @ b.double().T,
            torch.nn.functional.conv2d(images, filters),
            torch.tanh(a).softmax(1).sum(0),
        ]
    digest = hashlib.sha256()
    for tensor in found:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def machine() -> dict[str, Any]:
    """Describe what the bits should not depend on, for the record and for guesses at a cause."""
    import numpy as np

    return {"numpy": np.__version__, "python": platform.python_version(), "processor": _processor()}


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model n")]
    except OSError:
        names = []
    return names[0] if names else platform.processor()


_CAUSES = (
    (("device", "capability", "kernels", "system", "processor"), "another kind of hardware"),
    (("threads",), "another number of threads, which sums in another order"),
    (("torch", "build", "cuda", "cudnn", "numpy", "python"), "a changed library"),
)


def likely_cause(made_in: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say why two runs of the same step may differ, given where each was made.

    Args:
        made_in: ``environment`` of the first run, with ``machine`` if it is known.
        now: The same of the second run.
    """
    for names, words in _CAUSES:
        changed = [
            f"{name} was {made_in[name]} and is {now[name]}"
            for name in names
            if name in made_in and name in now and made_in[name] != now[name]
        ]
        if changed:
            return (
                f"The likely cause is {words}: {', '.join(changed)}. Go on where the run began, or "
                "begin again with another --store."
            )
    moved = [
        f"{name} is {value!r}"
        for name, value in _switches().items()
        if value != _SAFE.get(name, value)
    ]
    if moved:
        return f"The likely cause is a switch that the user's code moved: {', '.join(moved)}."
    return (
        "Hardware, libraries and threads are the same, so the likely cause is in the user's code: "
        "randomness that nobody seeds, or state outside the state. mgd check looks for it; if it "
        "finds none, suspect the memory of this machine."
    )
