"""DPMD: the tilted distribution on a bandit, the weights, alpha, and single steps by hand."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

import algos
from tests.helpers.updates import Drift, drive, make, make_small, random_batch, same, weights

DPMD = algos.load("dpmd")


def stub_values(agent, values: torch.Tensor) -> None:
    """Give both critics the same fixed values, `[R, B]`."""
    agent.critic = lambda obs, action, frozen=False: torch.stack([values, values + 1.0], dim=1)


def test_the_policy_learns_the_boltzmann_tilt_of_the_actions_that_it_is_given() -> None:
    """Uniform actions on a bandit with Q = a become the density ∝ exp(a / (sigma alpha)).

    Its mean on [-1, 1] is coth k - 1 / k with k = 1 / (sigma alpha); the bound of +-3 in the
    weight is never reached.
    """
    agent = make(DPMD, (0,), 1, 1, precision="float32", hidden=64, learning_rate=2e-3,
                 start_std=1.0, initial_alpha=0.4, statistics_rate=0.0)  # fmt: skip
    agent.critic = lambda obs, action, frozen=False: action.transpose(1, 2).expand(-1, 2, -1)
    agent.statistics.std.fill_(0.8)
    obs, k = torch.zeros(1, 512, 1), 1.0 / (0.8 * 0.4)
    for _ in range(600):
        action = agent.rng.uniform(512, 1, low=-1.0, high=1.0)
        agent.update_policy(obs, action, agent.weight(obs, action))
    drawn = agent.actor.sample(agent.diffusion, obs[:, :1], 4000, agent.rng).flatten()
    assert float(drawn.mean()) == pytest.approx(1 / math.tanh(k) - 1 / k, abs=0.05)
    for a in (-0.5, 0.0, 0.5):  # distribution function of the tilted density
        below = (math.exp(k * a) - math.exp(-k)) / (math.exp(k) - math.exp(-k))
        assert float((drawn < a).float().mean()) == pytest.approx(below, abs=0.05)


@pytest.mark.parametrize("normalisation", ["standard", "precedence"])
def test_weights_and_running_statistics_by_hand(normalisation: str) -> None:
    """exp(clip((q - mu) / sigma, +-3) / alpha) with the averages before this batch."""
    agent = make_small(DPMD, (0, 1), normalisation=normalisation, initial_alpha=2.0)
    g = np.random.default_rng(0)
    mean, std = np.zeros((2, 1)), np.ones((2, 1))
    clipped = 0
    for _ in range(3):
        q = g.normal(3.0, 4.0, size=(2, 50))
        stub_values(agent, torch.tensor(q, dtype=torch.float32))
        weight = agent.weight(torch.zeros(2, 50, 3), torch.zeros(2, 50, 2))
        normal = (q - mean) / std if normalisation == "standard" else q - mean / std
        clipped += int((np.abs(normal) > 3.0).sum())
        np.testing.assert_allclose(weight, np.exp(np.clip(normal, -3, 3) / 2.0), rtol=1e-4)
        mean += 0.001 * (q.mean(1, keepdims=True) - mean)
        std += 0.001 * (q.std(1, keepdims=True) - std)
        np.testing.assert_allclose(agent.statistics.mean, mean[:, 0], rtol=1e-5)
        np.testing.assert_allclose(agent.statistics.std, std[:, 0], rtol=1e-5)
    assert 0 < clipped < 300


def test_only_the_correct_normalisation_ignores_the_level_of_the_values() -> None:
    """Values far above zero: `precedence` clips every weight to exp(3 / alpha), all alike."""
    shares = {}
    for normalisation in ("standard", "precedence"):
        agent = make_small(DPMD, normalisation=normalisation, statistics_rate=1.0)
        q = 500.0 + 10.0 * torch.randn(1, 64, generator=torch.Generator().manual_seed(0))
        stub_values(agent, q)
        for _ in range(2):  # the first call fills the averages
            weight = agent.weight(torch.zeros(1, 64, 3), torch.zeros(1, 64, 2))
        shares[normalisation] = float(weight.std() / weight.mean())
    assert shares["precedence"] < 1e-6
    assert shares["standard"] > 0.1


def test_alpha_falls_until_the_entropy_of_the_noise_meets_its_target() -> None:
    """Entropy of noise of std 0.1 alpha equals -0.9 per coordinate at alpha = 0.984."""
    end = 10.0 * math.exp(-0.9) / math.sqrt(2.0 * math.pi * math.e)
    assert end == pytest.approx(0.984, abs=1e-3)
    for start in (5.0, 0.5):
        agent = make_small(DPMD, (0, 1), initial_alpha=start)
        agent.update_alpha()
        # The first step of Adam moves log alpha by its rate, towards the end.
        log_alpha = math.log(start) + math.copysign(7e-3, end - start)
        assert agent.temperature.log_alpha.tolist() == pytest.approx([log_alpha] * 2, abs=1e-6)
        for _ in range(600):
            agent.update_alpha()
        assert agent.temperature.value().tolist() == pytest.approx([end] * 2, rel=0.02)


def test_rhythm_of_policy_targets_and_alpha() -> None:
    agent = make_small(DPMD, policy_every=2, alpha_every=3)
    task = Drift((0,), 3, 2)
    drive(agent, task, 4)
    for update in range(6):
        delayed = [agent.actor, agent.actor_target, agent.critic_target]
        modules = [*delayed, agent.temperature, agent.critic]
        before = [weights(m) for m in modules]
        drive(agent, task, 1)
        moved = [not same(b, weights(m)) for b, m in zip(before, modules, strict=True)]
        assert moved == [update % 2 == 0] * 3 + [update % 3 == 0, True]


def test_the_same_noisy_choice_serves_critic_and_policy() -> None:
    """The online policy's best of all samples, noise of std 0.1 alpha, clipped; next states."""
    agent = make_small(DPMD, particles=5, noise_scale=0.1, initial_alpha=5.0, start_std=0.5)
    task = Drift((0,), 3, 2)
    drive(agent, task, 5)
    seen = []
    for name in ("update_critic", "weight", "update_policy"):
        inner = getattr(agent, name)
        setattr(agent, name, lambda *a, f=inner, n=name: seen.append((n, a)) or f(*a))
    agent.counters.updates += 1  # so that the policy learns at the next update
    drive(agent, task, 1)
    calls = dict(seen)
    (batch, action) = calls["update_critic"]
    assert calls["weight"][0] is batch.next_obs
    assert calls["weight"][1] is action
    assert calls["update_policy"][0] is batch.next_obs
    assert calls["update_policy"][1] is action
    # Some re-implementations differentiate the weights or the sampled action.
    assert not any(x.requires_grad for x in calls["update_policy"])

    streams = agent.rng.state_dict()
    chosen = agent.target_action(batch.next_obs)
    agent.rng.load_state_dict(streams)
    samples = agent.actor.sample(agent.diffusion, batch.next_obs, 5, agent.rng, start_std=0.5)
    index = agent.critic.minimum(batch.next_obs, samples).argmax(-1)
    best = torch.stack([samples[0, b, index[0, b]] for b in range(16)])[None]
    noisy = best + 0.1 * agent.temperature.value() * agent.rng.normal(16, 2)
    assert float(noisy.abs().max()) > 1.0
    torch.testing.assert_close(chosen, noisy.clamp(-1.0, 1.0))
    released = make_small(DPMD, **DPMD.presets["released"])
    assert float(released.target_action(10.0 * batch.next_obs).abs().max()) > 1.0


def test_critic_learns_the_scaled_reward() -> None:
    agent = make_small(DPMD, (0, 1), discount=0.9)
    with torch.no_grad():  # targets that differ from the online critics
        for p in agent.critic_target.parameters():
            p.mul_(1.5)
    batch = random_batch(2)
    ends = torch.ones(2, 16, 1)
    ends[:, ::3] = 0.0
    batch, action = batch._replace(not_terminal=ends), random_batch(2, seed=1).action
    with torch.no_grad():
        value = agent.critic_target(batch.next_obs, action).amin(1)
        y = 0.2 * batch.reward[..., 0] + 0.9 * ends[..., 0] * value
    twin = copy.deepcopy(agent.critic)
    adam = torch.optim.Adam(twin.parameters(), lr=3e-4)
    loss = (twin(batch.obs, batch.action) - y[:, None]).square().mean(-1).sum(-1)
    loss.sum().backward()
    adam.step()
    metrics = agent.update_critic(batch, action)
    torch.testing.assert_close(metrics["critic_loss"], loss.detach())
    for p, q in zip(agent.critic.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("double", [False, True])
def test_a_second_critic_step_by_the_same_gradient_comes_after_the_weights(double: bool) -> None:
    agent = make_small(DPMD, double_critic_step=double)
    drive(agent, Drift((0,), 3, 2), 4)
    seen, inner = [], agent.weight

    def weight(*arguments: torch.Tensor) -> torch.Tensor:
        gradients = [p.grad.clone() for p in agent.critic.parameters()]
        moments = copy.deepcopy(agent.critic_optimizer.state_dict())
        seen.extend([copy.deepcopy(agent.critic), moments, gradients])
        return inner(*arguments)

    agent.weight = weight
    drive(agent, Drift((0,), 3, 2), 1)
    twin, moments, gradients = seen
    if double:
        adam = torch.optim.Adam(twin.parameters(), lr=3e-4)
        adam.load_state_dict(moments)
        for p, gradient in zip(twin.parameters(), gradients, strict=True):
            p.grad = gradient
        adam.step()
    for p, q in zip(agent.critic.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-7, rtol=1e-4)


def test_behaviour_is_the_target_policys_choice_with_noise_only_while_exploring() -> None:
    agent = make_small(DPMD, random_steps=0, particles=4)
    with torch.no_grad():  # a target policy that differs from the online one
        for p in agent.actor_target.parameters():
            p.mul_(1.5)
    obs = random_batch(1, 200).obs
    for explore, rng in ((True, agent.rng), (False, agent.eval_rng)):
        streams = rng.state_dict()
        action = agent.act(obs.numpy(), explore)
        rng.load_state_dict(streams)
        expected = agent.choose(agent.actor_target, obs, rng)
        if explore:
            expected = (expected + 0.5 * rng.normal(200, 2)).clamp(-1.0, 1.0)
        np.testing.assert_allclose(action, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("update", "rate"),
    [(1, 3e-4), (50_001, 3e-4), (100_001, 1.65e-4), (150_001, 3e-5), (1_000_001, 3e-5)],
)
def test_the_policys_rate_falls_over_its_own_updates(update: int, rate: float) -> None:
    agent = make_small(DPMD)
    agent.counters.updates = update
    assert agent.policy_rate() == pytest.approx(rate)
    agent.anneal()
    assert agent.actor_optimizer.param_groups[0]["lr"] == agent.policy_rate()


def test_schedule_and_defaults_of_the_released_code() -> None:
    agent, c = make(DPMD, (0,), 3, 2), DPMD.Config()
    alpha_bar = np.cumprod(1.0 - 0.8 * np.linspace(1e-4, 0.999, 20))
    np.testing.assert_allclose(agent.diffusion.signal, np.sqrt(alpha_bar), rtol=1e-5)
    assert (c.diffusion_steps, c.particles, c.start_std, c.reward_scale) == (20, 32, 0.5, 0.2)
    assert (c.noise_scale, c.initial_alpha, c.alpha_learning_rate) == (0.1, 5.0, 7e-3)
    assert (c.alpha_every, c.policy_every, c.entropy_per_action) == (250, 2, -0.9)
    assert (c.weight_clip, c.statistics_rate, c.random_steps) == (3.0, 0.001, 30_000)
    assert (c.normalisation, c.double_critic_step, c.clip_actions) == ("standard", False, True)
