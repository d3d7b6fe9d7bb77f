"""Stacked layers and networks against plain torch, one replica at a time."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from algos.parts.layers import (
    ACTIVATIONS,
    MLP,
    SampleMLP,
    StackedLinear,
    orthogonal_init,
    scaled_normal_init,
    uniform_init,
)
from algos.parts.rng import ReplicaRng

CPU = torch.device("cpu")


def rng(*seeds: int) -> ReplicaRng:
    return ReplicaRng(seeds or (0,), CPU)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("fan_out", [1, 5])
def test_stacked_linear_is_a_stack_of_linear(fan_out: int) -> None:
    layer = StackedLinear(rng(0, 1), 2, 4, fan_out)
    x = numbers(4, 7, 4).requires_grad_()
    out = layer(x)
    grad = numbers(4, 7, fan_out, seed=1)
    out.backward(grad)
    for s in range(4):
        xs = x[s].detach().requires_grad_()
        weight = layer.weight[s].detach().T.clone().requires_grad_()
        bias = layer.bias[s, 0].detach().clone().requires_grad_()
        expected = F.linear(xs, weight, bias)
        expected.backward(grad[s])
        torch.testing.assert_close(out[s], expected)
        torch.testing.assert_close(x.grad[s], xs.grad)
        torch.testing.assert_close(layer.weight.grad[s], weight.grad.T)
        torch.testing.assert_close(layer.bias.grad[s, 0], bias.grad)


def test_frozen_weights_get_no_gradient_but_the_input_does() -> None:
    for fan_out in (1, 5):
        layer = StackedLinear(rng(), 1, 4, fan_out)
        x = numbers(1, 7, 4).requires_grad_()
        free = torch.autograd.grad(layer(x).sum(), x)[0]
        layer(x, frozen=True).sum().backward()
        assert layer.weight.grad is None
        assert layer.bias.grad is None
        torch.testing.assert_close(x.grad, free)


def test_bfloat16_products_keep_float32_weights_and_gradients() -> None:
    layer = StackedLinear(rng(), 1, 16, 8)
    x = numbers(1, 32, 16)
    out = layer(x, torch.bfloat16)
    assert out.dtype == torch.bfloat16
    out.float().square().mean().backward()
    assert layer.weight.dtype == layer.weight.grad.dtype == torch.float32
    torch.testing.assert_close(out.float(), layer(x), atol=0.05, rtol=0.05)


@pytest.mark.parametrize("init", [uniform_init, scaled_normal_init])
def test_initial_spread(init) -> None:
    weight, bias = init(rng(0, 1), 2, 50, 400)
    assert weight.shape == (4, 50, 400)
    assert bias.shape == (4, 1, 400)
    if init is uniform_init:
        bound = 1.0 / math.sqrt(50)
        assert 0.99 * bound < float(weight.abs().max()) <= bound
        assert float(bias.abs().max()) <= bound
        assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)
        assert float(bias.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)
    else:
        assert float(weight.std()) == pytest.approx(0.5 / math.sqrt(50), rel=0.02)
        assert float(bias.abs().max()) == 0.0


@pytest.mark.parametrize(("fan_in", "fan_out"), [(6, 3), (3, 6), (4, 4)])
def test_orthogonal_init_is_orthogonal(fan_in: int, fan_out: int) -> None:
    weight, bias = orthogonal_init(rng(0, 1), 1, fan_in, fan_out)
    assert weight.shape == (2, fan_in, fan_out)
    assert not bias.any()
    gram = weight.mT @ weight if fan_in >= fan_out else weight @ weight.mT
    torch.testing.assert_close(
        gram, torch.eye(min(fan_in, fan_out)).expand_as(gram), atol=1e-5, rtol=0.0
    )
    assert not torch.allclose(weight[0], weight[1])


def test_initial_weights_of_a_group_are_those_of_its_members() -> None:
    group = MLP(rng(5, 6), 2, [3, 8, 1])
    alone = MLP(rng(6), 2, [3, 8, 1])
    for a, b in zip(group.parameters(), alone.parameters(), strict=True):
        assert torch.equal(a[2:], b)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_mlp_equals_a_loop_over_networks(activation: str) -> None:
    net = MLP(rng(0, 1), 2, [3, 8, 6, 2], activation)
    x = numbers(2, 5, 3)
    out = net(x)
    for s in range(4):
        h = x[s // 2]  # the pair of replica r stands at 2r and 2r + 1
        for i, layer in enumerate(net.layers):
            h = h @ layer.weight[s] + layer.bias[s]
            h = ACTIVATIONS[activation](h) if i < 2 else h
        torch.testing.assert_close(out[s], h)


@pytest.mark.parametrize("activation", ["relu", "mish"])
@pytest.mark.parametrize("chunk", [4, 512])
def test_many_samples_of_a_condition_equal_forward(activation: str, chunk: int) -> None:
    net = SampleMLP(rng(0, 1), 2, 3, [4, 16, 16, 2], activation)
    net.CHUNK = chunk  # a small one forces several pieces, the last one shorter
    condition, x = numbers(2, 5, 4), numbers(2, 5, 6, 3, seed=1)
    many = net.many(x, net.condition(condition))
    assert many.shape == (4, 5, 6, 2)
    assert not many.requires_grad
    for k in range(6):
        torch.testing.assert_close(many[:, :, k], net(x[:, :, k], condition), atol=2e-6, rtol=1e-5)


def test_sample_mlp_reads_x_first() -> None:
    net = SampleMLP(rng(), 1, 2, [3, 8, 1])
    x, condition = numbers(1, 4, 2), numbers(1, 4, 3, seed=1)
    torch.testing.assert_close(net(x, condition), MLP.forward(net, torch.cat([x, condition], -1)))
