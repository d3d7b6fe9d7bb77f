"""Choose what the large matrix products are done in, by option and device."""

from __future__ import annotations

from functools import cache

import torch

PRECISIONS = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}


@cache
def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a processor or GPU multiplies bfloat16 matrices itself.

    A processor without such instructions needs some 60 times as long as in float32 (measured
    with AVX2 alone).
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.cpu, "get_capabilities"):  # older torch
        return torch.cpu._is_avx512_bf16_supported()
    known = torch.cpu.get_capabilities()
    return any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def arithmetic(precision: str, device: torch.device) -> str:
    """Name in `PRECISIONS` of what the large products are done in under the option `precision`.

    That is `precision` itself where the device is made for it, else float32: `tf32` is for
    tensor cores, and `bfloat16` for what `multiplies_bfloat16`.
    """
    made_for = {
        "float32": True,
        "tf32": device.type == "cuda",
        "bfloat16": multiplies_bfloat16(device),
    }
    return precision if made_for[precision] else "float32"


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the data type of the large products under `precision`, see `arithmetic`."""
    name = arithmetic(precision, device)
    if name == "tf32":
        torch.backends.cuda.matmul.allow_tf32 = True
    return PRECISIONS[name]
