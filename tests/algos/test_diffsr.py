"""Diff-SR: the learned score, the loss, and what each step may touch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import algos
from algos.parts.diffusion import beta_cdf_alpha_bar
from algos.parts.replay import Batch
from algos.parts.rng import ReplicaRng
from algos.parts.spectral import Zeta
from tests.helpers.updates import Drift, drive, make, make_small, random_batch, same, weights

DiffSR = algos.load("diffsr")


class LinearGaussian:
    """s' = M [s; a] + N(0, S): the noisy next state is Gaussian, its score linear.

    At level abar the variance of the noise is v = (1 - abar) sigma², and
    x | s, a ~ N(sqrt(abar) M [s; a], C) with C = abar S + v I.
    """

    M = torch.tensor([[0.9, 0.2, 0.5], [-0.3, 0.8, 0.4]])
    S = torch.tensor([[0.15, 0.06], [0.06, 0.10]])

    def __init__(self, sigma: float, seed: int = 0) -> None:
        self.sigma = sigma
        self.g = torch.Generator().manual_seed(seed)

    def batch(self, size: int) -> Batch:
        obs = torch.randn(1, size, 2, generator=self.g)
        action = 2.0 * torch.rand(1, size, 1, generator=self.g) - 1.0
        noise = torch.randn(1, size, 2, generator=self.g) @ torch.linalg.cholesky(self.S).T
        next_obs = self.mean(obs, action) + noise
        return Batch(obs, action, torch.zeros(1, size, 1), next_obs, torch.ones(1, size, 1))

    def mean(self, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return torch.cat([obs, action], dim=-1) @ self.M.T

    def covariance(self, alpha_bar: torch.Tensor) -> torch.Tensor:
        """C `[..., 2, 2]` of levels `[...]`."""
        v = (1.0 - alpha_bar) * self.sigma**2
        return alpha_bar[..., None, None] * self.S + v[..., None, None] * torch.eye(2)

    def score(self, obs, action, x, alpha_bar) -> torch.Tensor:
        """Gradient of log p(x | s, a) `[1, B, 2]` at levels `[1, B, 1]`."""
        gap = x - alpha_bar.sqrt() * self.mean(obs, action)
        return -torch.linalg.solve(self.covariance(alpha_bar[..., 0]), gap)

    def error(self, agent, alpha_bar: float, size: int = 8000) -> float:
        """E|psiᵀzeta - sigma score|² / E|sigma score|²: predicting zero gives 1."""
        batch = self.batch(size)
        level = torch.full((1, size, 1), alpha_bar)
        noise = torch.randn(1, size, 2, generator=self.g) * (1.0 - alpha_bar) ** 0.5 * self.sigma
        x = alpha_bar**0.5 * batch.next_obs + noise
        true = self.sigma * self.score(batch.obs, batch.action, x, level)
        with torch.no_grad():
            learned = agent.score(batch.obs, batch.action, x, level)
        return float((learned - true).square().mean() / true.square().mean())


def score_agent(**options):
    sizes = {"feature_dim": 64, "psi_hidden": 128, "zeta_hidden": 128, "hidden": 8}
    return make(DiffSR, (0,), 2, 1, precision="float32", replay_capacity=1, **(sizes | options))


@pytest.mark.extended
@pytest.mark.parametrize("level_input", ["alpha_bar", "beta"])
def test_the_score_of_a_linear_gaussian_system_is_learned(level_input: str) -> None:
    agent = score_agent(level_input=level_input)
    task = LinearGaussian(agent.config.noise_std)
    levels = np.quantile(beta_cdf_alpha_bar(1000), [0.05, 0.25, 0.5, 0.75, 0.95])
    untrained = [task.error(agent, level) for level in levels]
    assert min(untrained) > 0.8
    for _ in range(2500):
        agent.update_features(task.batch(256))
    errors = [task.error(agent, level) for level in levels]
    assert max(errors) < 0.15, errors
    assert float(np.mean(errors)) < 0.08, errors


@pytest.mark.parametrize("sigma", [0.449, 1.0])
def test_the_loss_is_least_at_sigma_times_the_score(sigma: float) -> None:
    """Eq. 18 at the analytic score equals its minimum, the noise that x does not reveal.

    E[n | x] = -v score(x), so that with psiᵀzeta = sigma score the residual is
    n - E[n | x], whose mean square is tr(v I - v² C⁻¹).
    """
    agent = score_agent(noise_std=sigma)
    task, size = LinearGaussian(sigma), 400_000
    batch = task.batch(size)
    bar = torch.as_tensor(beta_cdf_alpha_bar(1000), dtype=torch.float32)
    v = (1.0 - bar) * sigma**2
    trace = torch.linalg.inv(task.covariance(bar)).diagonal(dim1=-2, dim2=-1).sum(-1)
    least = float((2.0 * v - v.square() * trace).mean())

    def loss(factor: float) -> float:
        agent.score = lambda *args: factor * task.score(*args)
        streams = agent.rng.state_dict()
        value = float(agent.feature_loss(batch))
        agent.rng.load_state_dict(streams)  # every factor sees the same noise
        return value

    # The residual has two coordinates of variance below v; 4 standard errors.
    error = 4.0 * 2.0 * float(v.max()) / math.sqrt(size)
    assert loss(sigma) == pytest.approx(least, abs=error)
    for wrong in (0.9 * sigma, 1.1 * sigma, -sigma, 0.0):
        assert loss(wrong) > loss(sigma)
    if sigma != 1.0:
        assert loss(1.0) > loss(sigma)
        assert loss(sigma**2) > loss(sigma)


def test_the_loss_is_equation_18() -> None:
    """Line by line from the released code, with the draws of the agent's own stream."""
    agent = make_small(DiffSR)
    batch = random_batch()
    streams = agent.rng.state_dict()
    loss = agent.feature_loss(batch)
    agent.rng.load_state_dict(streams)
    level = agent.rng.integers(50, 16, 1)
    bar = torch.as_tensor(beta_cdf_alpha_bar(50), dtype=torch.float32)[level]
    n = 0.449 * agent.rng.normal(16, 3)
    x = bar.sqrt() * batch.next_obs + (1 - bar).sqrt() * n
    score = agent.score(batch.obs, batch.action, x, bar)
    residual = -(x - bar.sqrt() * batch.next_obs) - (1 - bar) * 0.449 * score
    torch.testing.assert_close(loss, residual.square().sum(-1).mean(-1))


def test_the_contraction_equals_the_explicit_zeta_with_gradients() -> None:
    zeta = Zeta(ReplicaRng([0, 1], torch.device("cpu")), 3, 16, 8, torch.float32)
    batch = random_batch(2)
    psi = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    x, level = batch.next_obs.clone().requires_grad_(), torch.rand(2, 16, 1).fill_(0.7)
    leaves = [psi, x, *zeta.parameters()]
    fast = zeta.score(psi, x, level)
    upstream = random_batch(2, seed=2).obs
    gradients = torch.autograd.grad(fast, leaves, upstream)
    h = F.elu(zeta.hidden(torch.cat([x, level], dim=-1)))
    plain = torch.einsum("rbsd,rbd->rbs", zeta.out(h).view(2, 16, 3, 8), psi)
    torch.testing.assert_close(fast, plain, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(gradients, torch.autograd.grad(plain, leaves, upstream), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.usefixtures("bfloat16_products")
def test_bfloat16_score_agrees_with_float32() -> None:
    wide, half = (make(DiffSR, (0,), 3, 2, precision=p) for p in ("float32", "bfloat16"))
    batch = random_batch(size=128)
    level = torch.full((1, 128, 1), 0.75)
    with torch.no_grad():
        exact, rounded = (
            a.score(batch.obs, batch.action, batch.next_obs, level) for a in (wide, half)
        )
    relative = (exact - rounded).square().mean().sqrt() / exact.square().mean().sqrt()
    assert 0.0 < float(relative) < 0.02


def test_architecture_is_that_of_the_released_code() -> None:
    agent = make(DiffSR, (0,), 17, 6)
    count = {n: sum(p.numel() for p in m.parameters()) for n, m in agent.components().items()
             if isinstance(m, torch.nn.Module)}  # fmt: skip
    assert (count["psi"], count["zeta"], count["critic"]) == (71_936, 2_242_304, 263_682)
    critic = make_small(DiffSR).critic
    psi = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(0))
    h = torch.sin(psi @ critic.first.weight[1] + critic.first.bias[1])
    h = F.elu(h @ critic.second.weight[1] + critic.second.bias[1])
    expected = h @ critic.out.weight[1] + critic.out.bias[1]
    torch.testing.assert_close(critic(psi)[:, 1], expected[..., 0])


def steps_of(optimizer: torch.optim.Optimizer) -> set[int]:
    return {int(state["step"]) for state in optimizer.state.values()}


@pytest.mark.parametrize("feature_updates", [1, 4])
def test_number_of_updates_per_step(feature_updates: int) -> None:
    agent = make_small(DiffSR, feature_updates=feature_updates)
    drive(agent, Drift((0,), 3, 2), 4 + 3)  # 4 random steps, then 3 updates
    assert steps_of(agent.feature_optimizer) == {3 * feature_updates}
    assert steps_of(agent.critic_optimizer) == {3}
    assert steps_of(agent.actor_optimizer) == {3}


def test_feature_updates_use_fresh_batches_and_the_critic_the_last_one() -> None:
    agent = make_small(DiffSR, feature_updates=3)
    drive(agent, Drift((0,), 3, 2), 4)
    seen: list[Batch] = []
    features, critic, actor = agent.update_features, agent.update_critic, agent.update_actor
    agent.update_features = lambda batch: seen.append(batch) or features(batch)
    last: list[torch.Tensor] = []
    agent.update_critic = lambda batch: last.append(batch.obs) or critic(batch)
    agent.update_actor = lambda obs: last.append(obs) or actor(obs)
    drive(agent, Drift((0,), 3, 2), 1)
    assert len(seen) == 3
    assert not torch.equal(seen[0].obs, seen[1].obs)
    assert all(torch.equal(seen[-1].obs, obs) for obs in last)
    assert len(last) == 2


def test_the_critic_and_the_actor_leave_the_features_alone() -> None:
    agent = make_small(DiffSR)
    before = weights(agent.psi) + weights(agent.zeta)
    agent.update_critic(random_batch())
    agent.update_actor(random_batch().obs)
    modules = (agent.psi, agent.zeta)
    assert all(p.grad is None for m in modules for p in m.parameters())
    assert same(before, weights(agent.psi) + weights(agent.zeta))
    critic = weights(agent.critic)
    agent.update_features(random_batch())
    assert same(critic, weights(agent.critic))
    assert not same(before, weights(agent.psi) + weights(agent.zeta))


def test_the_actor_gradient_flows_through_psi() -> None:
    """d/da of Q(psi(s, a)), against the same loss with nothing frozen."""
    agent = make_small(DiffSR)
    obs = random_batch().obs
    streams = agent.rng.state_dict()
    agent.update_actor(obs)
    ours = [p.grad.clone() for p in agent.actor.parameters()]
    twin = make_small(DiffSR)
    twin.rng.load_state_dict(streams)
    action, log_prob = twin.actor.sample(obs, twin.rng)
    q = twin.critic(twin.features(obs, action)).amin(1)
    (0.1 * log_prob - q).mean().backward()
    for a, p in zip(ours, twin.actor.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad, atol=1e-6, rtol=1e-4)


def test_the_target_moves_every_second_update() -> None:
    agent = make_small(DiffSR, tau=0.3)
    drive(agent, Drift((0,), 3, 2), 4)
    task = Drift((0,), 3, 2)
    for update in range(1, 5):
        before = weights(agent.target)
        drive(agent, task, 1)
        if update % 2:
            assert same(before, weights(agent.target))
            continue
        for old, new, online in zip(
            before, agent.target.parameters(), agent.critic.parameters(), strict=True
        ):
            torch.testing.assert_close(new, 0.7 * old + 0.3 * online)


def test_released_code_never_trains_its_critic() -> None:
    agent = make_small(DiffSR, **DiffSR.presets["released"])
    critic, target, actor = weights(agent.critic), weights(agent.target), weights(agent.actor)
    drive(agent, Drift((0,), 3, 2), 10)
    assert same(critic, weights(agent.critic))
    assert same(target, weights(agent.target))
    assert not same(actor, weights(agent.actor))
    assert agent.temperature.value().item() != pytest.approx(0.1, rel=1e-5)


def test_uploaded_code_keeps_its_temperature_and_trains_its_critic() -> None:
    agent = make_small(DiffSR, **DiffSR.presets["uploaded"])
    critic = weights(agent.critic)
    drive(agent, Drift((0,), 3, 2), 10)
    assert agent.temperature.value().item() == pytest.approx(0.1, rel=1e-6)
    assert not same(critic, weights(agent.critic))


def test_layer_norm_of_psi_makes_its_scale_and_offset_irrelevant_to_the_critic() -> None:
    psi = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(0))
    plain, normed = (make_small(DiffSR, feature_norm=norm).critic for norm in ("none", "layer"))
    torch.testing.assert_close(normed(3.0 * psi + 7.0), normed(psi), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(plain(3.0 * psi + 7.0), plain(psi), atol=1e-2)
    centred = psi - psi.mean(-1, keepdim=True)
    by_hand = centred / centred.square().mean(-1, keepdim=True).add(1e-5).sqrt()
    torch.testing.assert_close(normed(psi), plain(by_hand))  # the same weights: the same seed


def test_critic_and_actor_read_the_average_of_psi_and_the_score_psi_itself() -> None:
    agent = make_small(DiffSR, feature_tau=0.3, feature_updates=1)
    batch = random_batch()
    drive(agent, Drift((0,), 3, 2), 4)
    for _ in range(2):
        before = weights(agent.psi_target)
        drive(agent, Drift((0,), 3, 2), 1)
        for old, new, online in zip(
            before, agent.psi_target.parameters(), agent.psi.parameters(), strict=True
        ):
            torch.testing.assert_close(new, 0.7 * old + 0.3 * online)
    inputs = torch.cat([batch.obs, batch.action], dim=-1)
    torch.testing.assert_close(
        agent.features(batch.obs, batch.action), agent.psi_target(inputs), atol=0.0, rtol=0.0
    )
    level = torch.full((1, 16, 1), 0.7)
    score = agent.score(batch.obs, batch.action, batch.next_obs, level)
    expected = agent.zeta.score(agent.psi(inputs), batch.next_obs, level)
    torch.testing.assert_close(score, expected, atol=0.0, rtol=0.0)
    assert agent.psi_target is agent.components()["psi_target"]


def test_psi_learns_to_predict_the_reward_if_asked() -> None:
    """With its weight large the head fits a reward that is linear in state and action."""
    agent = make_small(DiffSR, reward_weight=100.0, feature_learning_rate=3e-3)
    batch = random_batch(size=256)
    batch = batch._replace(reward=batch.obs[..., :1] - 0.5 * batch.action[..., :1])
    first = float(agent.reward_loss(batch).detach())
    for _ in range(300):
        metrics = agent.update_features(batch)
    assert float(metrics["reward_loss"]) < 0.1 * first
    assert not hasattr(make_small(DiffSR), "reward")


def test_the_later_preset_names_four_choices_and_trains() -> None:
    later = DiffSR.presets["later"]
    agent = make_small(DiffSR, **later)
    before = weights(agent.critic)
    drive(agent, Drift((0,), 3, 2), 10)
    assert not same(before, weights(agent.critic))
    assert set(later) == {"feature_learning_rate", "feature_norm", "feature_tau", "reward_weight"}


def test_epsilon_greedy_replaces_the_whole_action_now_and_then() -> None:
    agent = make_small(DiffSR, random_steps=0, epsilon_greedy=0.25)
    with torch.no_grad():  # a policy that always saturates at +1
        agent.actor.net.layers[-1].bias[..., :2] = 50.0
        agent.actor.net.layers[-1].weight.zero_()
    obs = np.zeros((1, 8000, 3), np.float32)
    uniform = np.any(agent.act(obs, explore=True)[0] < 0.999, axis=-1)
    assert uniform.mean() == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 8000) ** 0.5)
    drawn = agent.act(obs, explore=True)[0]
    drawn = drawn[np.any(drawn < 0.999, axis=-1)]
    assert abs(drawn.mean()) < 0.05
    assert np.all(agent.act(obs, explore=False) > 0.999)
