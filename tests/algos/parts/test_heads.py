"""Twin critics, the Gaussian actor and the temperature."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from algos.parts.heads import GaussianActor, Temperature, TwinCritic
from algos.parts.optim import adam, step
from algos.parts.rng import ReplicaRng

CPU = torch.device("cpu")


def rng(*seeds: int) -> ReplicaRng:
    return ReplicaRng(seeds or (0,), CPU)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


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
