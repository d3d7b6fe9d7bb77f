"""What the large products are done in, by option and device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from algos.parts import precision
from algos.parts.precision import arithmetic, compute_dtype, multiplies_bfloat16

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("device", "has_bfloat16", "asked", "done_in"),
    [
        ("cpu", True, "float32", "float32"),
        ("cpu", True, "tf32", "float32"),
        ("cpu", True, "bfloat16", "bfloat16"),
        ("cpu", False, "bfloat16", "float32"),
        ("cuda", True, "bfloat16", "bfloat16"),
        ("cuda", False, "bfloat16", "float32"),
        ("cuda", False, "tf32", "tf32"),
    ],
)
def test_products_are_done_in_what_the_device_is_made_for(
    monkeypatch, device: str, has_bfloat16: bool, asked: str, done_in: str
) -> None:
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: has_bfloat16)
    place, allowed = torch.device(device), torch.backends.cuda.matmul.allow_tf32
    assert arithmetic(asked, place) == done_in
    narrow = torch.bfloat16 if done_in == "bfloat16" else torch.float32
    try:
        assert compute_dtype(asked, place) == narrow
        assert torch.backends.cuda.matmul.allow_tf32 == (allowed or done_in == "tf32")
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="not Linux")
def test_processor_is_asked_whether_it_multiplies_bfloat16() -> None:
    text = Path("/proc/cpuinfo").read_text()
    flags = {
        word
        for line in text.splitlines()
        if line.startswith(("flags", "Features"))
        for word in line.split()
    }
    assert multiplies_bfloat16(CPU) == bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
