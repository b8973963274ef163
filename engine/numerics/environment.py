"""Everything besides the inputs that bits depend on: versions, kernels, threads and the machine."""

import hashlib
import platform
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

from engine.numerics.determinism import SAFE, switches


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
        for name, value in switches().items()
        if value != SAFE.get(name, value)
    ]
    if moved:
        return f"The likely cause is a switch that the user's code moved: {', '.join(moved)}."
    return (
        "Hardware, libraries and threads are the same, so the likely cause is in the user's code: "
        "randomness that nobody seeds, or something that is kept between two calls (a counter, a "
        "cache, a memory bank). mgd check looks for it; if it "
        "finds none, suspect the memory of this machine."
    )
