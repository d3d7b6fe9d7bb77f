"""Stacked networks against plain torch, one replica at a time."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from algos.parts import networks
from algos.parts.networks import (
    ACTIVATIONS,
    MLP,
    GaussianActor,
    SampleMLP,
    StackedLinear,
    Temperature,
    TwinCritic,
    arithmetic,
    compute_dtype,
    mish,
    mish_,
    multiplies_bfloat16,
    orthogonal_init,
    scaled_normal_init,
    uniform_init,
)
from algos.parts.optim import adam, clip_grad_norm_, clone_frozen, polyak_, step
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
    monkeypatch.setattr(networks, "multiplies_bfloat16", lambda device: has_bfloat16)
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


def test_twin_critic_minimum_and_independence() -> None:
    critic = TwinCritic(rng(0, 1), 3, 2, [16, 16], "mish")
    obs, actions = numbers(2, 5, 3), numbers(2, 5, 4, 2, seed=1)
    minimum = critic.minimum(obs, actions)
    assert minimum.shape == (2, 5, 4)
    for k in range(4):
        q = critic(obs, actions[:, :, k])
        assert q.shape == (2, 2, 5)
        torch.testing.assert_close(minimum[:, :, k], q.amin(1), atol=1e-6, rtol=1e-5)
        assert not torch.allclose(q[:, 0], q[:, 1])
    # The loss of one head moves only that head of that replica.
    critic(obs, actions[:, :, 0])[1, 0].sum().backward()
    for p in critic.parameters():
        moved = p.grad.flatten(1).abs().sum(1) > 0
        assert moved.tolist() == [False, False, True, False]


def test_gaussian_log_prob_equals_torch_distributions() -> None:
    actor = GaussianActor(rng(0, 1), 3, 2, [16, 16])
    obs = numbers(2, 6, 3)
    action, log_prob = actor.sample(obs, rng(7, 8))
    mean, log_std = actor(obs)
    base = Normal(mean, log_std.exp())
    policy = TransformedDistribution(base, TanhTransform())
    torch.testing.assert_close(log_prob, policy.log_prob(action).sum(-1), atol=2e-4, rtol=1e-4)
    noise = rng(7, 8).normal(6, 2)
    torch.testing.assert_close(action, torch.tanh(mean + log_std.exp() * noise))
    torch.testing.assert_close(actor.mean_action(obs), torch.tanh(mean))


def test_gaussian_log_prob_stays_finite_where_tanh_saturates() -> None:
    actor = GaussianActor(rng(), 1, 1, [4])
    with torch.no_grad():
        for p in actor.parameters():
            p.zero_()
        actor.net.layers[-1].bias[..., 0] = 30.0  # mean 30, log std -1.5
    action, log_prob = actor.sample(torch.zeros(1, 3, 1), rng())
    assert torch.equal(action, torch.ones(1, 3, 1))
    noise = rng().normal(3, 1)[..., 0].double()
    u = 30.0 + math.exp(-1.5) * noise
    normal = -0.5 * noise.square() + 1.5 - 0.5 * math.log(2 * math.pi)
    expected = normal + 2.0 * u - 2.0 * math.log(2.0)  # log(1 - tanh²u) -> log 4 - 2u
    torch.testing.assert_close(log_prob.double(), expected, atol=1e-4, rtol=0.0)


def test_log_std_bounds() -> None:
    actor = GaussianActor(rng(), 1, 1, [4])
    with torch.no_grad():
        for p in actor.parameters():
            p.zero_()
        stds = []
        for raw in (-100.0, 0.0, 100.0):
            actor.net.layers[-1].bias[..., 1] = raw
            stds.append(actor(torch.zeros(1, 1, 1))[1].item())
    assert stds == pytest.approx([-5.0, -1.5, 2.0])


def test_temperature_moves_towards_its_target_entropy() -> None:
    for log_prob, rises in ((3.0, True), (-3.0, False)):
        temperature = Temperature(2, 0.1, CPU)
        assert temperature.value().tolist() == pytest.approx([0.1, 0.1])
        assert not temperature.value().requires_grad
        optimizer = adam(temperature.parameters(), 0.01)
        # Entropy is -log pi: with log pi = 3 it is -3, below the target -1.
        values = torch.full((2, 8), log_prob)
        loss = temperature.loss(values, target_entropy=-1.0)
        assert loss.item() == pytest.approx(2 * -0.1 * (log_prob - 1.0), rel=1e-5)
        step(optimizer, loss)
        assert (temperature.value() > 0.1).tolist() == [rises, rises]


def test_polyak_and_target_networks() -> None:
    online = MLP(rng(), 1, [3, 4, 2])
    target = clone_frozen(online)
    assert not any(p.requires_grad for p in target.parameters())
    assert all(p.requires_grad for p in online.parameters())
    before = [p.clone() for p in target.parameters()]
    with torch.no_grad():
        for p in online.parameters():
            p.add_(1.0)
    polyak_(target, online, 0.25)
    for old, new, live in zip(before, target.parameters(), online.parameters(), strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * live)
        torch.testing.assert_close(live, old + 1.0)


def test_gradient_norms_are_clipped_per_replica_as_torch_does() -> None:
    net = MLP(rng(0, 1, 2), 2, [3, 8, 1])
    for i, p in enumerate(net.parameters()):
        scale = torch.tensor([0.01, 1.0, 30.0]).repeat_interleave(2).view(-1, 1, 1)
        p.grad = numbers(*p.shape, seed=i) * scale
    expected, norms = [], []
    for r in range(3):
        alone = [nn.Parameter(p[2 * r : 2 * r + 2].detach().clone()) for p in net.parameters()]
        for q, p in zip(alone, net.parameters(), strict=True):
            q.grad = p.grad[2 * r : 2 * r + 2].clone()
        norms.append(nn.utils.clip_grad_norm_(alone, 2.0))
        expected.append([q.grad for q in alone])
    returned = clip_grad_norm_(net.parameters(), 3, 2.0)
    torch.testing.assert_close(returned, torch.stack(norms))
    for r in range(3):
        for p, grad in zip(net.parameters(), expected[r], strict=True):
            torch.testing.assert_close(p.grad[2 * r : 2 * r + 2], grad)
    assert norms[0] < 2.0 < norms[1] < norms[2]  # the small one was left alone


def test_step_forgets_old_gradients() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.full((1,), 1e6)
    step(torch.optim.SGD([parameter], lr=0.1), parameter.sum())
    assert parameter.item() == pytest.approx(-0.1)
