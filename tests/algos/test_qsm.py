"""QSM: the score of a known value, the sampler on known noise, and single steps by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import algos
from tests.helpers.updates import Drift, drive, make, make_small, random_batch, same, weights

QSM = algos.load("qsm")


def test_the_learned_score_is_the_gradient_of_a_known_value() -> None:
    """eps(x, t, s) = -M_q ½ Σ ∇Q_i(s, x) for two quadratic values with their peaks at +-s."""
    agent = make(QSM, (0,), 2, 2, precision="float32", hidden=64, q_scale=3.0,
                 actor_learning_rate=5e-3, decay_steps=600)  # fmt: skip
    curvature = torch.tensor([0.6, 1.4]).view(1, 2, 1)
    peak = torch.tensor([1.0, -0.5]).view(1, 2, 1, 1)

    def values(obs: torch.Tensor, action: torch.Tensor, frozen: bool = False) -> torch.Tensor:
        square = (action[:, None] - peak * obs[:, None]).square().sum(-1)
        return -0.5 * curvature * square

    agent.critic = values
    for seed in range(600):
        agent.counters.updates += 1
        agent.update_score(random_batch(1, 256, 2, 2, seed))
    batch = random_batch(1, 512, 2, 2, 10_000)
    t = torch.arange(512)[None] % 5
    noise = torch.randn(1, 512, 2, generator=torch.Generator().manual_seed(0))
    noisy = agent.diffusion.corrupt(batch.action, t, noise)
    slope = 0.5 * (0.6 * (batch.obs - noisy) + 1.4 * (-0.5 * batch.obs - noisy))
    with torch.no_grad():
        error = agent.actor(noisy, t, batch.obs) + 3.0 * slope
    assert float(error.square().mean().sqrt() / (3.0 * slope).square().mean().sqrt()) < 0.05


def test_score_loss_takes_the_mean_gradient_of_both_values_at_the_noisy_action() -> None:
    agent = make_small(QSM, (0, 1), q_scale=7.0)
    batch = random_batch(2)
    streams = agent.rng.state_dict()
    t, noise = agent.rng.integers(4, 16), agent.rng.normal(16, 2)
    alpha_bar = torch.tensor(np.cumprod(1.0 - np.array(agent.betas)), dtype=torch.float32)[t]
    noisy = alpha_bar.sqrt()[..., None] * batch.action + (1 - alpha_bar).sqrt()[..., None] * noise
    assert float(noisy.abs().max()) > 1.0  # values are asked outside the box as well
    noisy.requires_grad_()
    slopes = [torch.autograd.grad(agent.critic(batch.obs, noisy)[:, k].sum(), noisy)[0]
              for k in range(2)]  # fmt: skip
    target = -7.0 * (slopes[0] + slopes[1]) / 2.0
    with torch.no_grad():
        expected = (agent.actor(noisy, t, batch.obs) - target).square().mean((1, 2))
    agent.rng.load_state_dict(streams)
    critic, actor = weights(agent.critic), weights(agent.actor)
    metrics = agent.update_score(batch)
    torch.testing.assert_close(metrics["actor_loss"], expected)
    torch.testing.assert_close(metrics["score_norm"], target.norm(dim=-1).mean(-1))
    assert same(critic, weights(agent.critic))
    assert all(p.grad is None for p in agent.critic.parameters())
    assert not any(torch.equal(a, p) for a, p in zip(actor, agent.actor.parameters(), strict=True))


def test_the_target_is_a_constant() -> None:
    """No gradient reaches the policy or the critics through the regression's target."""
    agent = make_small(QSM)
    batch = random_batch()
    assert not agent.score_target(batch.obs, batch.action).requires_grad
    assert not batch.action.requires_grad


def exact_noise(agent, mean: float, std: float):
    """The noise predictor of actions N(mean, std²): sqrt(1 - abar) (x - sqrt(abar) mean) / var."""

    def epsilon(x: torch.Tensor, t: torch.Tensor, obs: torch.Tensor) -> torch.Tensor:
        signal, noise = (table[t.long()][..., None] for table in agent_tables)
        return noise * (x - signal * mean) / ((signal * std).square() + noise.square())

    agent_tables = (agent.diffusion.signal, agent.diffusion.noise)
    return epsilon


def test_sampling_with_the_exact_noise_of_one_action_gives_that_action() -> None:
    """All noise of earlier steps is taken out by the last one, which adds none."""
    agent = make(QSM, (0,), 3, 2, precision="float32")
    agent.actor = exact_noise(agent, 0.37, 0.0)
    action = agent.draw(torch.zeros(1, 1000, 3), agent.rng)
    torch.testing.assert_close(action, torch.full((1, 1000, 2), 0.37), atol=1e-5, rtol=0.0)


def test_sampling_with_the_exact_noise_of_a_gaussian_gives_that_gaussian() -> None:
    """Many fine steps, so that the clipping of the early ones is forgotten."""
    agent = make(QSM, (0,), 3, 2, precision="float32", diffusion_steps=200)
    agent.actor = exact_noise(agent, 0.3, 0.1)
    action = agent.draw(torch.zeros(1, 4000, 3), agent.rng)
    assert float(action.mean()) == pytest.approx(0.3, abs=0.01)
    assert float(action.std()) == pytest.approx(0.1, rel=0.06)


def test_the_sampler_by_hand() -> None:
    """Mean, noise sqrt(beta) times temperature but at the last step, clipped at every step."""
    agent = make(QSM, (0, 1), 3, 2, precision="float32", sampling_temperature=0.7)
    obs = 3.0 * random_batch(2, 50).obs
    streams = agent.rng.state_dict()
    action = agent.draw(obs, agent.rng)
    agent.rng.load_state_dict(streams)
    x, clipped = agent.rng.normal(50, 2), 0
    alpha = 1.0 - np.array([0.19587, 0.45881, 0.63578, 0.75487, 0.83503])
    for t in (4, 3, 2, 1, 0):
        with torch.no_grad():
            epsilon = agent.actor(x, torch.full((2, 50), t), obs)
        rate = (1.0 - alpha[t]) / math.sqrt(1.0 - alpha[: t + 1].prod())
        x = (x - rate * epsilon) / math.sqrt(alpha[t])
        if t > 0:
            x = x + 0.7 * math.sqrt(1.0 - alpha[t]) * agent.rng.normal(50, 2)
        clipped += int((x.abs() > 1.0).sum())
        x = x.clamp(-1.0, 1.0)
    assert clipped > 50
    torch.testing.assert_close(action, x, atol=2e-4, rtol=0.0)


def test_schedule_of_the_released_code() -> None:
    agent = make_small(QSM, diffusion_steps=5)
    assert agent.betas == pytest.approx([0.1959, 0.4588, 0.6358, 0.7549, 0.8350], abs=1e-4)
    assert float(agent.diffusion.signal[-1] ** 2) == pytest.approx(0.0064, abs=1e-4)


def test_critic_target_is_a_noisy_clipped_action_of_the_online_policy() -> None:
    agent = make_small(QSM, (0, 1), discount=0.9, target_noise=0.5)
    with torch.no_grad():  # targets that differ from the online critics
        for p in agent.target.parameters():
            p.mul_(1.5)
    batch = random_batch(2)
    ends = torch.ones(2, 16, 1)
    ends[:, ::3] = 0.0
    batch = batch._replace(not_terminal=ends)
    streams = agent.rng.state_dict()
    action = agent.draw(batch.next_obs, agent.rng) + 0.5 * agent.rng.normal(16, 2)
    assert float(action.abs().max()) > 1.0
    with torch.no_grad():
        value = agent.target(batch.next_obs, action.clamp(-1.0, 1.0)).amin(1)
        y = batch.reward[..., 0] + 0.9 * ends[..., 0] * value
        q = agent.critic(batch.obs, batch.action)
    expected = (q - y[:, None]).square().mean(-1).sum(-1)
    agent.rng.load_state_dict(streams)
    actor = weights(agent.actor)
    torch.testing.assert_close(agent.update_critic(batch)["critic_loss"], expected)
    assert same(actor, weights(agent.actor))


def test_exploration_adds_noise_to_a_sample_and_evaluation_does_not() -> None:
    agent = make_small(QSM, random_steps=0, exploration_noise=0.1)
    obs = random_batch(1, 200).obs
    for explore, rng in ((True, agent.rng), (False, agent.eval_rng)):
        streams = rng.state_dict()
        action = agent.act(obs.numpy(), explore)
        rng.load_state_dict(streams)
        expected = agent.draw(obs, rng)
        if explore:
            expected = (expected + 0.1 * rng.normal(200, 2)).clamp(-1.0, 1.0)
        np.testing.assert_allclose(action, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("updates", "share"), [(1, 1.0), (501, 0.85355), (1001, 0.5), (2001, 0.0), (9999, 0.0)]
)
def test_the_policys_rate_falls_by_a_cosine_and_is_used(updates: int, share: float) -> None:
    agent = make_small(QSM, decay_steps=2000, actor_learning_rate=2e-3)
    agent.counters.updates = updates
    agent.anneal()
    before = agent.actor.net.layers[0].bias.detach().clone()
    agent.update_score(random_batch())
    # The first step of Adam moves every weight by its rate.
    moved = (agent.actor.net.layers[0].bias.detach() - before).abs().median()
    assert float(moved) == pytest.approx(2e-3 * share, rel=1e-3, abs=1e-9)


def test_one_batch_serves_the_critic_then_its_target_then_the_policy() -> None:
    agent = make_small(QSM, tau=0.3)
    task = Drift((0,), 3, 2)
    drive(agent, task, 4)
    seen = []
    critic, score, old = agent.update_critic, agent.update_score, weights(agent.target)
    agent.update_critic = lambda batch: seen.append(batch) or critic(batch)
    agent.update_score = lambda batch: seen.append((batch, weights(agent.critic))) or score(batch)
    drive(agent, task, 1)
    assert seen[0] is seen[1][0]
    assert same(seen[1][1], weights(agent.critic))  # already trained when the policy reads it
    for a, b, c in zip(old, agent.target.parameters(), agent.critic.parameters(), strict=True):
        torch.testing.assert_close(b, 0.7 * a + 0.3 * c)


def test_network_of_the_released_code() -> None:
    """Fourier features cos, sin of 2 pi w t with w ~ N(0, 0.2²), then 64-128-128; 512-512."""
    agent = make(QSM, tuple(range(8)), 3, 2)
    actor = agent.actor
    assert float(actor.frequency.detach().std()) == pytest.approx(0.2, rel=0.15)
    seen = []
    actor.time.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    actor(torch.zeros(8, 1, 2), torch.full((8, 1), 3), torch.zeros(8, 1, 3))
    angle = 6.0 * math.pi * actor.frequency
    torch.testing.assert_close(seen[0], torch.cat([angle.cos(), angle.sin()], -1))
    shapes = {m: [tuple(layer.weight.shape[1:]) for layer in m.layers] for m in
              (actor.time, actor.net, agent.critic.net)}  # fmt: skip
    assert shapes[actor.time] == [(64, 128), (128, 128)]
    assert shapes[actor.net] == [(2 + 3 + 128, 512), (512, 512), (512, 2)]
    assert shapes[agent.critic.net] == [(5, 512), (512, 512), (512, 1)]
    for layer in [*actor.time.layers, *actor.net.layers, *agent.critic.net.layers]:
        bound = math.sqrt(6.0 / sum(layer.weight.shape[1:]))  # Xavier, uniform
        weight = layer.weight.detach()
        assert float(weight.abs().max()) == pytest.approx(bound, rel=0.02)
        assert float(weight.var()) == pytest.approx(bound**2 / 3.0, rel=0.06)
        assert not layer.bias.any()


def test_defaults_are_those_of_the_released_run_configuration() -> None:
    c = QSM.Config()
    assert (c.q_scale, c.diffusion_steps, c.noise_schedule, c.hidden) == (50.0, 5, "vp", 512)
    assert (c.sampling_temperature, c.exploration_noise, c.target_noise) == (1.0, 0.1, 0.1)
    assert (c.actor_learning_rate, c.critic_learning_rate, c.decay_steps) == (3e-4, 3e-4, 2_000_000)
    assert (c.tau, c.discount, c.batch_size, c.random_steps) == (0.005, 0.99, 256, 10_000)
    assert not c.time_limit_terminal
