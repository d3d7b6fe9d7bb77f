"""QVPO: a bandit with three peaks, the weights, and the regression of the policy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import algos
from algos.parts.optim import step
from tests.helpers.updates import (
    Drift,
    drive,
    make,
    make_small,
    random_batch,
    same,
    transition,
    weights,
)

QVPO = algos.load("qvpo")
NO_OBS = torch.zeros(1, 1, 1)
PEAKS = np.array([[-0.6, -0.5], [0.6, -0.4], [0.0, 0.6]])
HEIGHTS = np.array([0.9, 1.0, 0.9])


def bandit_reward(action: np.ndarray) -> np.ndarray:
    """Three Gaussian bumps of width 0.25, the second a little higher, `[..., 2]` to `[...]`."""
    square = np.square(action[..., None, :] - PEAKS).sum(-1)
    return (HEIGHTS * np.exp(-square / (2 * 0.25**2))).max(-1)


def shares(actions: np.ndarray, radius: float = 0.35) -> np.ndarray:
    """Share of `[N, 2]` actions near each peak; uniform actions give about 0.1 each."""
    distance = np.linalg.norm(actions[:, None] - PEAKS, axis=-1)
    return (distance < radius).mean(0)


def small_policy(**options):
    sizes = {"hidden": 64, "batch_size": 64, "diffusion_steps": 10, "replay_capacity": 4000}
    rates = {"actor_learning_rate": 1e-3, "critic_learning_rate": 3e-3}
    return make(QVPO, (0,), 1, 2, precision="float32", **(sizes | rates | options))


def policy_samples(agent, count: int = 1000) -> np.ndarray:
    """Samples of the policy itself, K = 1, `[count, 2]`."""
    return agent.actor.sample(agent.diffusion, NO_OBS, count, agent.eval_rng)[0, 0].numpy()


def play_bandit(agent, steps: int) -> None:
    """One-step episodes: act, earn, learn."""
    nothing = np.zeros((1, 1, 1), np.float32)
    for _ in range(steps):
        action = agent.act(nothing, explore=True)[0]
        reward = bandit_reward(action)
        step = {"obs": 0.0, "next_obs": 0.0, "reward": reward, "terminated": True}
        agent.observe(transition(1, 1, 2, action=action, **step))
        agent.update()


@pytest.mark.extended
def test_bandit_keeps_several_modes_early_and_ends_on_the_best_of_three_peaks() -> None:
    """A strong entropy term keeps the lesser peaks in the policy at first; then it fades."""
    small = {"random_steps": 1000, "train_samples": 4, "eval_samples": 16, "diffusion_steps": 5}
    fading = {"entropy_weight": 0.5, "entropy_schedule": "linear", "entropy_steps": 1800}
    agent, greedy = small_policy(**small, **fading), small_policy(**small, entropy_samples=0)
    play_bandit(agent, 1400)
    play_bandit(greedy, 1400)
    early, without = shares(policy_samples(agent, 4000)), shares(policy_samples(greedy, 4000))
    assert early[0] > 0.02
    assert early[2] > 0.02
    assert without[[0, 2]].max() < early[[0, 2]].min()
    play_bandit(agent, 800)
    best = agent.act(np.zeros((1, 200, 1), np.float32), explore=False)[0]
    assert shares(best)[1] > 0.95
    assert float(bandit_reward(best).mean()) > 0.9  # uniform actions earn about 0.25
    assert shares(policy_samples(agent))[1] > 0.6  # not only the choice among 16 learned


def test_weighted_regression_holds_several_modes_in_proportion() -> None:
    """Targets on three peaks with weights 2 : 1 : 1 give samples in that proportion.

    This is what a Gaussian policy cannot do: its samples would lie between the peaks.
    """
    agent = small_policy(actor_learning_rate=3e-3, diffusion_steps=20)
    g = torch.Generator().manual_seed(0)
    obs, peaks = torch.zeros(1, 256, 1), torch.tensor(PEAKS, dtype=torch.float32)
    for _ in range(1500):
        which = torch.randint(3, (1, 256), generator=g)
        x0 = peaks[which] + 0.05 * torch.randn(1, 256, 2, generator=g)
        weight = torch.tensor([2.0, 1.0, 1.0])[which]
        step(agent.actor_optimizer, agent.denoising_loss(x0, obs, weight).sum())
    near = shares(policy_samples(agent, 2000))
    assert near.sum() > 0.9
    np.testing.assert_allclose(near / near.sum(), [0.5, 0.25, 0.25], atol=0.08)


def test_qadv_weight_is_the_gap_between_best_and_mean() -> None:
    agent = make_small(QVPO)
    q = torch.randn(1, 40, 6, generator=torch.Generator().manual_seed(0))
    weight = agent.weight(q)
    torch.testing.assert_close(weight, q.max(-1).values - q.mean(-1))
    assert bool((weight >= 0.0).all())
    assert not agent.weight(torch.full((1, 3, 6), 0.1)).any().item()  # rounding never goes below 0


@pytest.mark.parametrize(("name", "expected"), [("qrelu", [0.0, 0.4, 3.0]), ("qcut", [1, 1, 3.0])])
def test_other_weights_of_the_released_code(name: str, expected: list[float]) -> None:
    agent = make_small(QVPO, weight=name)
    q = torch.tensor([[[-2.0, -1.0], [0.4, 0.1], [3.0, -3.0]]])
    torch.testing.assert_close(agent.weight(q), torch.tensor([expected], dtype=torch.float32))


def test_policy_targets() -> None:
    """First the best sample per state, then N_e blocks of uniform actions in state order."""
    agent = make_small(QVPO, entropy_samples=10, entropy_weight=0.02)
    obs = random_batch(size=64).obs
    streams = agent.rng.state_dict()
    x0, weight = agent.policy_targets(obs)
    assert x0.shape == (1, 11 * 64, 2)
    assert weight.shape == (1, 11 * 64)
    assert not x0.requires_grad
    assert not weight.requires_grad
    agent.rng.load_state_dict(streams)
    actions = agent.actor.sample(agent.diffusion, obs, 6, agent.rng)
    q = agent.critic.minimum(obs, actions)
    for state in range(64):
        assert torch.equal(x0[0, state], actions[0, state, q[0, state].argmax()])
    torch.testing.assert_close(weight[:, :64], q.amax(-1) - q.mean(-1))
    assert bool((weight >= 0.0).all())
    for block in range(1, 11):
        rows = slice(64 * block, 64 * (block + 1))
        torch.testing.assert_close(weight[:, rows], 0.02 * weight[:, :64])
    uniform = x0[0, 64:]
    assert float(uniform.min()) < -0.98
    assert float(uniform.max()) > 0.98
    assert float(uniform.abs().max()) <= 1.0
    assert abs(float(uniform.mean())) < 4 * 3**-0.5 / uniform.numel() ** 0.5
    assert float(uniform.square().mean()) == pytest.approx(1 / 3, abs=0.04)


def test_rows_and_states_stay_together() -> None:
    """The policy loss pairs every target with the state that it was made for."""
    agent = make_small(QVPO, entropy_samples=3)
    obs = random_batch().obs
    seen = []
    loss = agent.denoising_loss
    agent.denoising_loss = lambda x0, rows, w: seen.append((x0, rows, w)) or loss(x0, rows, w)
    agent.update_actor(obs)
    _, rows, weight = seen[0]
    for block in range(4):
        assert torch.equal(rows[:, 16 * block : 16 * (block + 1)], obs)
    torch.testing.assert_close(weight[:, 16:32] / weight[:, :16], torch.full((1, 16), 0.02))


def test_no_entropy_term() -> None:
    agent = make_small(QVPO, entropy_samples=0)
    x0, weight = agent.policy_targets(random_batch().obs)
    assert x0.shape == (1, 16, 2)
    assert weight.shape == (1, 16)
    assert agent.update_actor(random_batch().obs)


def test_policy_loss_is_the_weighted_mean_over_all_scalars() -> None:
    agent = make_small(QVPO)
    batch = random_batch()
    weight = torch.rand(1, 16, generator=torch.Generator().manual_seed(0))
    streams = agent.rng.state_dict()
    loss = agent.denoising_loss(batch.action, batch.obs, weight)
    agent.rng.load_state_dict(streams)
    t, noise = agent.rng.integers(4, 16), agent.rng.normal(16, 2)
    noisy = agent.diffusion.corrupt(batch.action, t, noise)
    epsilon = agent.actor(noisy, t, batch.obs)
    expected = (weight[..., None] * (epsilon - noise) ** 2).sum() / (16 * 2)
    torch.testing.assert_close(loss[0], expected)
    assert set(agent.rng.integers(4, 1000)[0].tolist()) == {0, 1, 2, 3}


def test_no_gradient_leaks_through_weights_or_sampled_actions() -> None:
    """Some re-implementations differentiate the weights, which lowers Q."""
    agent = make_small(QVPO)
    obs = random_batch().obs
    x0, weight = agent.policy_targets(obs)
    repeated = obs.repeat(1, x0.shape[1] // 16, 1)
    streams = agent.rng.state_dict()
    gradients = []
    for targets in ((x0, weight), (x0.detach().clone(), weight.detach().clone())):
        agent.rng.load_state_dict(streams)
        loss = agent.denoising_loss(targets[0], repeated, targets[1]).sum()
        gradients.append(torch.autograd.grad(loss, list(agent.actor.parameters())))
        assert all(p.grad is None for p in agent.critic.parameters())
    assert same(*gradients)
    assert any(g.any() for g in gradients[0])


@pytest.mark.parametrize(
    ("steps", "omega"), [(0, 0.02), (500_000, 0.01), (900_000, 0.002), (1_000_000, 0.002)]
)
def test_entropy_weight_schedule(steps: int, omega: float) -> None:
    agent = make_small(QVPO)
    agent.counters.steps = steps
    agent.anneal()
    assert agent.omega.tolist() == pytest.approx([omega])
    constant = make_small(QVPO, entropy_schedule="constant", entropy_weight=0.01)
    constant.counters.steps = steps
    constant.anneal()
    assert constant.omega.tolist() == pytest.approx([0.01])


def test_a_small_entropy_weight_is_never_raised_to_the_floor() -> None:
    agent = make_small(QVPO, entropy_weight=0.001)
    agent.anneal()
    assert agent.omega.tolist() == pytest.approx([0.001])


@pytest.mark.parametrize("target_samples", [1, 3])
def test_critic_target_is_the_best_of_the_target_policy(target_samples: int) -> None:
    agent = make_small(QVPO, (0, 1), target_samples=target_samples, discount=0.9)
    with torch.no_grad():  # targets that differ from the online networks
        for p in [*agent.actor_target.parameters(), *agent.critic_target.parameters()]:
            p.mul_(1.5)
    batch = random_batch(2)
    ends = torch.ones(2, 16, 1)
    ends[:, ::3] = 0.0
    batch = batch._replace(not_terminal=ends)
    streams = agent.rng.state_dict()
    samples = agent.actor_target.sample(agent.diffusion, batch.next_obs, target_samples, agent.rng)
    assert samples.shape == (2, 16, target_samples, 2)
    with torch.no_grad():
        each = [
            agent.critic_target(batch.next_obs, samples[:, :, k]) for k in range(target_samples)
        ]
        value = torch.stack([q.amin(1) for q in each]).amax(0)
        y = batch.reward[..., 0] + 0.9 * ends[..., 0] * value
        q = agent.critic(batch.obs, batch.action)
        expected = (q - y[:, None]).square().mean(-1).sum(-1)
    agent.rng.load_state_dict(streams)
    torch.testing.assert_close(agent.update_critic(batch)["critic_loss"], expected)


def test_the_reverse_process_uses_the_denoiser_of_the_loss() -> None:
    """Sampling takes a fast path through the network; it must be the same network."""
    agent = make_small(QVPO, (0, 1))
    obs = random_batch(2).obs
    streams = agent.rng.state_dict()
    fast = agent.actor.sample(agent.diffusion, obs, 3, agent.rng)
    agent.rng.load_state_dict(streams)
    x = agent.rng.normal(16, 3, 2)
    for t in reversed(range(4)):
        step = torch.full((2, 16), t)
        with torch.no_grad():
            epsilon = torch.stack([agent.actor(x[:, :, k], step, obs) for k in range(3)], dim=2)
        noise = agent.rng.normal(16, 3, 2) if t > 0 else None
        x = agent.diffusion.reverse_step(x, epsilon, t, noise)
    torch.testing.assert_close(fast, x.clamp(-1.0, 1.0), atol=1e-5, rtol=0.0)


def test_time_embedding() -> None:
    """Sine then cosine of t times 16 frequencies from 1 to 1e-4, then 32-256-32 with mish."""
    actor = make(QVPO, (0,), 3, 2).actor
    t = torch.arange(20.0)[:, None]
    frequency = torch.tensor([math.exp(-math.log(1e4) * i / 15) for i in range(16)])
    expected = torch.cat([torch.sin(t * frequency), torch.cos(t * frequency)], dim=-1)
    torch.testing.assert_close(actor.sinusoid, expected, atol=1e-5, rtol=0.0)
    assert [tuple(layer.weight.shape[1:]) for layer in actor.time.layers] == [(32, 256), (256, 32)]
    shapes = [tuple(layer.weight.shape[1:]) for layer in actor.net.layers]
    assert shapes == [(2 + 32 + 3, 256), (256, 256), (256, 256), (256, 2)]


@pytest.mark.usefixtures("bfloat16_products")
def test_bfloat16_denoiser_agrees_with_float32() -> None:
    wide, half = (make(QVPO, (0,), 3, 2, precision=p) for p in ("float32", "bfloat16"))
    batch = random_batch(size=128)
    t = torch.arange(128)[None] % 20
    with torch.no_grad():
        exact, rounded = (a.actor(batch.action, t, batch.obs) for a in (wide, half))
    assert rounded.dtype == torch.float32
    relative = (exact - rounded).square().mean().sqrt() / exact.square().mean().sqrt()
    assert 0.0 < float(relative) < 0.03


@pytest.mark.parametrize("limit", [1e-3, 0.0])
def test_gradient_norms_are_limited_per_replica(limit: float) -> None:
    agent = make_small(QVPO, (0, 1), max_grad_norm=limit)
    batch = random_batch(2)
    weight = torch.full((2, 16), 100.0)  # a loss large enough that every norm is far above 1e-3
    agent.policy_targets = lambda obs: (batch.action, weight)
    agent.update_actor(batch.obs)
    agent.update_critic(batch)
    for module in (agent.actor, agent.critic):
        for r in range(2):
            parts = [p.grad.view(2, -1)[r] for p in module.parameters()]
            norm = float(torch.cat(parts).norm())
            assert norm == pytest.approx(1e-3, rel=2e-3) if limit else norm > 5e-3


def test_target_networks_follow_at_every_update() -> None:
    agent = make_small(QVPO, tau=0.3)
    drive(agent, Drift((0,), 3, 2), 4)
    pairs: list[tuple[nn.Module, nn.Module]] = [
        (agent.actor_target, agent.actor), (agent.critic_target, agent.critic)
    ]  # fmt: skip
    before = [weights(target) for target, _ in pairs]
    drive(agent, Drift((0,), 3, 2), 1)
    for old, (target, online) in zip(before, pairs, strict=True):
        for a, b, c in zip(old, target.parameters(), online.parameters(), strict=True):
            torch.testing.assert_close(b, 0.7 * a + 0.3 * c)


def test_critic_and_policy_learn_from_batches_of_their_own() -> None:
    agent = make_small(QVPO)
    drive(agent, Drift((0,), 3, 2), 4)
    seen = []
    critic, actor = agent.update_critic, agent.update_actor
    agent.update_critic = lambda batch: seen.append(batch.obs) or critic(batch)
    agent.update_actor = lambda obs: seen.append(obs) or actor(obs)
    drive(agent, Drift((0,), 3, 2), 1)
    assert len(seen) == 2
    assert not torch.equal(*seen)


def test_behaviour_takes_the_best_of_k_by_the_smaller_value() -> None:
    agent = make_small(QVPO, random_steps=0, behavior_samples=4, eval_samples=7)
    obs = random_batch().obs
    for explore, count in ((True, 4), (False, 7)):
        rng = agent.rng if explore else agent.eval_rng
        streams = rng.state_dict()
        chosen = agent.act(obs.numpy(), explore)
        rng.load_state_dict(streams)
        actions = agent.actor.sample(agent.diffusion, obs, count, rng)
        index = agent.critic.minimum(obs, actions).argmax(-1)
        expected = torch.stack([actions[0, b, index[0, b]] for b in range(16)])
        np.testing.assert_array_equal(chosen[0], expected.numpy())


def test_evaluation_without_noise_follows_the_mean() -> None:
    agent = make_small(QVPO, eval_noise=False, eval_samples=1)
    streams = agent.eval_rng.state_dict()
    agent.act(np.zeros((1, 5, 3), np.float32), explore=False)
    after = agent.eval_rng.normal(1)
    agent.eval_rng.load_state_dict(streams)
    agent.eval_rng.normal(5, 1, 2)  # the random start is all that is drawn
    assert torch.equal(agent.eval_rng.normal(1), after)


def test_released_preset_ends_the_bootstrap_at_a_time_limit() -> None:
    released = make_small(QVPO, **QVPO.presets["released"])
    default = make_small(QVPO)
    for agent, kept in ((released, 0.0), (default, 1.0)):
        agent.observe(transition(truncated=True))
        assert agent.sample()[0].not_terminal.unique().tolist() == [kept]
    config = released.config
    assert (config.target_samples, config.entropy_schedule, config.weight) == (4, "linear", "qadv")


def test_defaults_are_those_of_the_released_code() -> None:
    c = QVPO.Config()
    assert (c.diffusion_steps, c.noise_schedule, c.train_samples, c.entropy_samples) == (
        20, "cosine", 64, 10,
    )  # fmt: skip
    assert (c.behavior_samples, c.target_samples, c.eval_samples) == (4, 4, 32)
    assert (c.actor_learning_rate, c.critic_learning_rate, c.adam_epsilon) == (1e-4, 3e-4, 1e-5)
    assert (c.max_grad_norm, c.tau, c.discount, c.random_steps) == (2.0, 0.005, 0.99, 10_000)
    samples = {task: o["target_samples"] for task, o in QVPO.task_overrides.items()}
    assert samples == {
        f"gym/{task}-v{version}": number
        for version in (4, 5)
        for task, number in {"Ant": 2, "Hopper": 1, "Humanoid": 2, "Walker2d": 2}.items()
    }
