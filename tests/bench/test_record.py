"""What the records of experiments say of the machine that made them."""

import os

import pytest
import torch

from tests.bench.record import kind_of_machine


@pytest.mark.parametrize(
    ("has_gpu", "device", "name"),
    [
        (True, None, "gpu-h200-141gb"),
        (True, "cuda:0", "gpu-h200-141gb"),
        (True, "cpu", f"cpu-{os.cpu_count()}core"),
        (False, None, f"cpu-{os.cpu_count()}core"),
    ],
)
def test_a_record_is_named_by_what_computed(has_gpu, device, name, monkeypatch):
    """Records made on a GPU were called those of a CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200 (141GB)")

    assert kind_of_machine(device) == name
