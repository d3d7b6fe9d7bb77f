"""Hand-written gradients against torch's own functions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from algos.parts.kernels import mean_elu, mish, mish_


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mish_equals_torch(dtype: torch.dtype) -> None:
    x = torch.cat([torch.linspace(-30.0, 30.0, 4001), torch.tensor([0.0, -90.0, 90.0])]).to(dtype)
    ours, theirs = x.clone().requires_grad_(), x.float().requires_grad_()
    out, expected = mish(ours), F.mish(theirs)
    grad = numbers(len(x), seed=3).to(dtype)
    out.backward(grad)
    expected.backward(grad.float())
    tight = {"atol": 3e-6, "rtol": 2e-6}
    tolerance = tight if dtype == torch.float32 else {"atol": 1e-3, "rtol": 2**-7}
    torch.testing.assert_close(out.float(), expected, **tolerance)
    torch.testing.assert_close(ours.grad.float(), theirs.grad, **tolerance)
    assert torch.equal(ours.detach(), x)  # the input is not overwritten


def test_mish_gradient_equals_finite_differences() -> None:
    x = torch.linspace(-4.0, 4.0, 81).requires_grad_()
    mish(x).sum().backward()
    h = 1e-5
    wide = x.detach().double()
    slope = (F.mish(wide + h) - F.mish(wide - h)) / (2 * h)
    torch.testing.assert_close(x.grad.double(), slope, atol=1e-5, rtol=0.0)


def test_mish_in_place_with_and_without_scratch() -> None:
    x = numbers(100)
    for scratch in (None, torch.empty(100)):
        y = x.clone()
        assert mish_(y, scratch) is y
        torch.testing.assert_close(y, F.mish(x), atol=1e-6, rtol=1e-6)


def test_mean_elu_and_its_gradient() -> None:
    x = 3.0 * numbers(2, 5, 7, 6)
    ours, theirs = (x.clone().requires_grad_() for _ in range(2))
    mean, expected = mean_elu(ours * 1.0), F.elu(theirs).mean(2)
    torch.testing.assert_close(mean, expected)
    weight = numbers(2, 5, 6, seed=2)
    for result in (mean, expected):
        (weight * result).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    # In bfloat16 the sum of 20 terms keeps the digits that bfloat16 has for their mean.
    many = numbers(1, 50, 20, 40, seed=3)
    rounded = mean_elu(many.bfloat16())
    assert float((rounded - F.elu(many).mean(2)).abs().max()) < 0.01
