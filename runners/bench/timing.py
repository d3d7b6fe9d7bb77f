"""Timing of calls in turns, in units u, and the rate of matrix products of this machine.

1 u is one float32 forward and backward pass of a 23-256-256-1 ReLU network at batch 256 in plain
torch. What is compared is timed in turns, so that a neighbour's load on the machine hits all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import torch

from algos.parts.precision import PRECISIONS, arithmetic

OBS_DIM, ACTION_DIM, BATCH = 17, 6, 256  # of HalfCheetah, and of most methods
WARM_UP = 5  # calls before timing: allocations, compilation, graph capture
WARM_UP_SECONDS = 1.0  # of these calls, if they are slow
FEWEST, TURNS_SECONDS = 3, 20.0
BURST_SECONDS = 0.02  # short calls are timed together

Call = Callable[[], object]


def timed(call: Call, count: int, device: torch.device) -> float:
    """Seconds per call over `count` calls, with all their work on the device done."""
    _wait(device)
    start = time.perf_counter()
    for _ in range(count):
        call()
    _wait(device)
    return (time.perf_counter() - start) / count


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turns(calls: dict[str, Call], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds per call of each of `calls`, `repeats` of them, one after the other in turns.

    Calls that take seconds get fewer: at least `FEWEST`, then until `TURNS_SECONDS` are over.
    """
    counts = {}
    for name, call in calls.items():
        once = timed(call, 1, device)
        timed(call, max(1, min(WARM_UP, int(WARM_UP_SECONDS / once))), device)
        counts[name] = max(1, round(BURST_SECONDS / timed(call, 1, device)))
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    start = time.perf_counter()
    for turn in range(repeats):
        if turn >= FEWEST and time.perf_counter() - start > TURNS_SECONDS:
            break
        for name, call in calls.items():
            seconds[name].append(timed(call, counts[name], device))
    return seconds


def paired(seconds: list[float], units: list[float]) -> float:
    """Median cost in u, each sample over the u measured in the same turn."""
    return median(s / u for s, u in zip(seconds, units, strict=True))


def unit(device: torch.device) -> Call:
    """One u: forward and backward pass of the reference network."""
    linear, relu = torch.nn.Linear, torch.nn.ReLU
    layers = [linear(OBS_DIM + ACTION_DIM, 256), relu(), linear(256, 256), relu(), linear(256, 1)]
    net = torch.nn.Sequential(*layers).to(device)
    x = torch.randn(BATCH, OBS_DIM + ACTION_DIM, device=device)

    def call() -> None:
        for parameter in net.parameters():
            parameter.grad = None
        net(x).square().mean().backward()

    return call


def product_rate(dtype: torch.dtype, device: torch.device, sizes: Sequence[int]) -> float:
    """GFLOP/s of square matrix products of this type: the best of several sizes and tries."""
    best = 0.0
    for size in sizes:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        product = partial(torch.mm, a, b, out=torch.empty_like(a))
        best = max(best, *(2e-9 * size**3 / timed(product, 1, device) for _ in range(6)))
    return best


def rates(device: torch.device) -> dict[str, float]:
    """Rate of every precision that an agent can have on this device, in GFLOP/s."""
    sizes = (512, 1024, 2048) if device.type == "cpu" else (4096, 8192)
    before = torch.backends.cuda.matmul.allow_tf32
    measured = {}
    for name, dtype in PRECISIONS.items():
        if arithmetic(name, device) != name:
            continue
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        measured[name] = product_rate(dtype, device, sizes)
    torch.backends.cuda.matmul.allow_tf32 = before
    return measured
