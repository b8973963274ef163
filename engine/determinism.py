"""Same inputs, same bits: seeds from (seed, step), and torch's deterministic switches.

Every random draw comes from a generator that is seeded by what the draw is for, so no generator
state has to be saved or restored between steps.
"""

import hashlib
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def seed_for(seed: int, *purpose: str | int) -> int:
    """Derive a 63-bit seed from a run's seed and what the draw is for, e.g. ("dropout", t)."""
    content = ":".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a fresh CPU generator for one purpose."""
    return torch.Generator().manual_seed(seed_for(seed, *purpose))


@contextmanager
def seeded(seed: int, *purpose: str | int, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's global generators inside the block, and give them back as they were.

    For code that draws from the global generators, such as ``nn.Dropout``.
    """
    cuda = device is not None and device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
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

    Args:
        threads: CPU threads inside the block; those that torch has by default.
        tf32: Leave TF32 on, for speed on a GPU.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = (
        torch.get_deterministic_debug_mode(),
        torch.backends.cudnn.benchmark,
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.get_num_threads(),
    )
    torch.set_num_threads(threads or before[4])
    # Not use_deterministic_algorithms, which imports the compiler: three seconds.
    torch.set_deterministic_debug_mode("error")
    torch.backends.cudnn.benchmark = False
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before[0])
        torch.backends.cudnn.benchmark = before[1]
        torch.set_float32_matmul_precision(before[2])
        torch.backends.cudnn.allow_tf32 = before[3]
        torch.set_num_threads(before[4])


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
        "device": torch.cuda.get_device_name(kind) if cuda else platform.machine(),
        "capability": None if cuda else torch.backends.cpu.get_cpu_capability(),
        "threads": threads or torch.get_num_threads(),
        "cuda": torch.version.cuda if cuda else None,
    }
