"""LV-Rep: the transition that is learned, the bound, the critic over fixed noise vectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.distributions as td
import torch.nn.functional as F

import algos
from algos.parts.latent import DiscreteLatent, GaussianLatent
from algos.parts.replay import Batch
from algos.parts.rng import ReplicaRng
from tests.helpers.updates import (
    Drift,
    drive,
    make,
    make_small,
    random_batch,
    same,
    snapshot,
    weights,
)

LVRep = algos.load("lvrep")
LATENTS = ["continuous", "discrete"]


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def small_model(**options):
    sizes = {"feature_hidden": 64, "hidden": 8, "replay_capacity": 1}
    rate = {"feature_learning_rate": 3e-3}
    return make(LVRep, (0,), 2, 1, precision="float32", **(sizes | rate | options))


def predicted(agent, obs: torch.Tensor, action: torch.Tensor, count: int) -> torch.Tensor:
    """Means of next state and reward under z ~ p(.|s, a), `[count, 3]`, of one state `[2]`."""
    raw = agent.prior(torch.cat([obs, action])[None, None]).expand(1, count, -1)
    with torch.no_grad():
        return agent.decoder(agent.latent.sample(agent.latent.read(raw), agent.rng))[0]


def anneal(agent, update: int, start: int) -> None:
    """A last stretch at a small rate averages the noise of batches."""
    if update == start:
        agent.feature_optimizer.param_groups[0]["lr"] *= 0.1


def test_the_transition_of_a_linear_gaussian_system_is_learned() -> None:
    """s' = M [s; a] + N(0, S): the optimum of the bound is that of probabilistic PCA.

    The decoder's variance is v = n / d = 0.25. Of the noise, the direction of variance
    0.8 > v is represented, so that the decoded means vary by 0.8 - v along it; the
    direction of 0.05 < v is not worth its KL and is left to v. Total: max(S, v).
    """
    transition = torch.tensor([[0.9, 0.2, 0.5], [-0.3, 0.8, 0.4]])
    turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]])
    root = turn @ torch.diag(torch.tensor([0.8, 0.05]).sqrt())
    g = torch.Generator().manual_seed(0)
    agent = small_model(feature_dim=8)
    for update in range(1500):
        obs = torch.randn(1, 256, 2, generator=g)
        action = 2.0 * torch.rand(1, 256, 1, generator=g) - 1.0
        mean = torch.cat([obs, action], dim=-1) @ transition.T
        next_obs = mean + torch.randn(1, 256, 2, generator=g) @ root.T
        reward = 0.5 * obs[..., :1] - action
        anneal(agent, update, 1200)
        agent.update_features(Batch(obs, action, reward, next_obs, torch.ones(1, 256, 1)))
    expected = turn @ torch.diag(torch.tensor([0.8 - 0.25, 0.0])) @ turn.T
    for point in ([0.0, 0.0, 0.0], [1.0, -0.5, 0.5], [-0.8, 0.7, -0.6]):
        s, a = torch.tensor(point[:2]), torch.tensor(point[2:])
        sample = predicted(agent, s, a, 20_000)
        mean = transition @ torch.tensor(point)
        torch.testing.assert_close(sample[:, :2].mean(0), mean, atol=0.12, rtol=0.0)
        assert float(sample[:, 2].mean()) == pytest.approx(float(0.5 * s[0] - a[0]), abs=0.12)
        torch.testing.assert_close(sample[:, :2].T.cov(), expected, atol=0.08, rtol=0.0)


def test_the_discrete_latent_learns_two_modes_in_proportion() -> None:
    """s' is (1, -1) with chance sigmoid(2 s_1) and (-1, 1) otherwise."""
    g = torch.Generator().manual_seed(0)
    # The decoder's variance is 0.1: far less than the distance of the modes.
    agent = small_model(latent="discrete", categories=2, classes=4, kl_weight=0.1)
    mode = torch.tensor([1.0, -1.0])
    for update in range(700):
        obs, action = torch.randn(1, 256, 2, generator=g), torch.zeros(1, 256, 1)
        up = torch.rand(1, 256, generator=g) < torch.sigmoid(2.0 * obs[..., 0])
        next_obs = torch.where(up[..., None], mode, -mode)
        anneal(agent, update, 400)
        agent.update_features(Batch(obs, action, action, next_obs, action + 1.0))
    for first in (-1.0, 0.0, 0.5):
        sample = predicted(agent, torch.tensor([first, 0.0]), torch.zeros(1), 4000)
        chance = float(torch.sigmoid(torch.tensor(2.0 * first)))
        assert float((sample[:, 0] > 0.0).float().mean()) == pytest.approx(chance, abs=0.06)
        away = (sample[:, :2].abs() - 1.0).abs()
        assert float(away.mean()) < 0.2  # two modes, not their mean


@pytest.mark.parametrize("latent", LATENTS)
def test_the_loss_is_the_negative_evidence_bound(latent: str) -> None:
    """-w/d E_q[log N(s'; D_s, wn/d) + log N(r; D_r, w/d) + log p(z) - log q(z)] and constants.

    Log densities at the drawn z stand for the divergence: no closed form.
    """
    w, draws = 0.3, 4000
    agent = make_small(LVRep, latent=latent, categories=5, classes=3, kl_weight=w)
    with torch.no_grad():  # fresh networks agree; these differ
        agent.encoder.layers[-1].weight.mul_(4.0)
    batch = random_batch(size=4)
    many = Batch(*(x.repeat(1, draws, 1) for x in batch))
    streams = agent.rng.state_dict()
    with torch.no_grad():
        losses = agent.feature_losses(many)
        inputs = torch.cat([many.obs, many.action], dim=-1)
        raw_q = agent.encoder(torch.cat([inputs, many.next_obs], dim=-1))
        raw_p = agent.prior(inputs)
        agent.rng.load_state_dict(streams)
        z = agent.latent.sample(agent.latent.read(raw_q), agent.rng)
        decoded = agent.decoder(z)
    if latent == "continuous":
        q, p = (
            td.Normal(m, log_std.exp()) for m, log_std in map(agent.latent.read, (raw_q, raw_p))
        )
        variables, drawn = 8, z
    else:
        shape = (1, 4 * draws, 5, 3)
        q, p = (td.OneHotCategorical(logits=raw.view(shape)) for raw in (raw_q, raw_p))
        variables, drawn = 5, z.view(shape).round()
    data = torch.cat([many.next_obs, many.reward], dim=-1)
    scale = (w / variables * torch.tensor([3.0, 3.0, 3.0, 1.0])).sqrt()
    likelihood = td.Normal(decoded, scale).log_prob(data) - td.Normal(data, scale).log_prob(data)
    log_ratio = (p.log_prob(drawn) - q.log_prob(drawn)).sum(-1)
    expected = -w / variables * (likelihood.sum(-1) + log_ratio).mean()
    error = 5.0 * w / variables * float(log_ratio.std()) / log_ratio.numel() ** 0.5
    assert float(losses["feature_loss"]) == pytest.approx(float(expected), abs=error)
    assert error < 0.1 * w * float(losses["kl"])  # small enough to see a wrong weight


def test_the_loss_is_that_of_the_released_code() -> None:
    """Line by line, with the draws of the agent's own stream."""
    agent = make_small(LVRep)
    batch = random_batch()
    streams = agent.rng.state_dict()
    losses = agent.feature_losses(batch)
    agent.rng.load_state_dict(streams)
    inputs = torch.cat([batch.obs, batch.action, batch.next_obs], dim=-1)
    mean1, log_std1 = agent.encoder(inputs).chunk(2, dim=-1)
    mean2, log_std2 = agent.prior(inputs[..., :5]).chunk(2, dim=-1)
    decoded = agent.decoder(mean1 + log_std1.exp() * agent.rng.normal(16, 8))[0]
    var1, var2 = (2 * log_std1).exp(), (2 * log_std2).exp()
    kl = log_std2 - log_std1 + 0.5 * (var1 + (mean1 - mean2) ** 2) / var2 - 0.5
    torch.testing.assert_close(losses["kl"][0], kl.mean())
    state = 0.5 * F.mse_loss(decoded[:, :3], batch.next_obs[0])
    reward = 0.5 * F.mse_loss(decoded[:, 3:], batch.reward[0])
    torch.testing.assert_close(losses["feature_loss"][0], (state + reward + kl).mean())


def test_kl_is_the_closed_form() -> None:
    raws = [0.4 * randn(2, 5, 12, seed=seed).requires_grad_() for seed in (0, 1)]
    for latent in (GaussianLatent(6), DiscreteLatent(4, 3)):
        kl = latent.kl(*map(latent.read, raws))
        if isinstance(latent, GaussianLatent):
            known = [td.Normal(r[..., :6], r[..., 6:].exp()) for r in raws]
        else:
            known = [td.Categorical(logits=r.view(2, 5, 4, 3)) for r in raws]
        expected = td.kl_divergence(*known).mean((1, 2))
        torch.testing.assert_close(kl, expected)
        # Of two replicas with different weights, since the gradient is written by hand.
        weight = torch.tensor([1.0, 3.0])
        ours, theirs = (torch.autograd.grad((weight * k).sum(), raws) for k in (kl, expected))
        torch.testing.assert_close(ours, theirs)


def test_log_std_is_clamped() -> None:
    latent = GaussianLatent(1)
    _, log_std = latent.read(torch.tensor([[[0.0, -50.0], [0.0, 0.5], [0.0, 50.0]]]))
    assert log_std.flatten().tolist() == [-20.0, 0.5, 2.0]


def test_discrete_samples_follow_their_probabilities_and_pass_straight_through() -> None:
    latent, rng = DiscreteLatent(2, 3), ReplicaRng([0], torch.device("cpu"))
    logits = torch.tensor([2.0, 0.0, -1.0, 0.0, 0.0, 1.0]).requires_grad_()
    z = latent.sample(latent.read(logits.expand(1, 20_000, -1)), rng)
    assert set(z.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(z.view(-1, 2, 3).sum(-1), torch.ones(20_000, 2))
    probs = logits.view(2, 3).softmax(-1).flatten()
    torch.testing.assert_close(z.mean((0, 1)), probs, atol=0.015, rtol=0.0)
    pull = randn(6)
    (ours,) = torch.autograd.grad((z * pull).sum() / 20_000, logits)
    (theirs,) = torch.autograd.grad((probs * pull).sum(), logits)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def released_critic(critic, raw: torch.Tensor, replica: int) -> torch.Tensor:
    """Both values `[2, B]` as in `vlsac_agent.py`, with the weights of `critic`."""
    mean, log_std = raw[replica].chunk(2, dim=-1)
    x = mean[:, None, :] + log_std.exp()[:, None, :] * critic.noise[replica]
    heads, width = [], critic.second.weight.shape[1]
    for k in range(2):
        columns = slice(k * width, (k + 1) * width)
        first, second = critic.first, critic.second
        h = F.elu(x @ first.weight[replica, :, columns] + first.bias[replica, :, columns])
        h = h.mean(dim=1)
        h = F.elu(h @ second.weight[2 * replica + k] + second.bias[2 * replica + k])
        last = (
            replica
            if critic.out.weight.shape[0] < critic.second.weight.shape[0]
            else 2 * replica + k
        )
        heads.append((h @ critic.out.weight[last] + critic.out.bias[last])[..., 0])
    return torch.stack(heads)


@pytest.mark.parametrize("shared_head", [False, True])
def test_the_critic_is_that_of_the_released_code_with_gradients(shared_head: bool) -> None:
    """Values, and gradients of all weights and of the features.

    With a shared head its gradient is the sum of both critics', and there is no other
    layer: the released code's `l6` never gets one.
    """
    critic = make_small(LVRep, (0, 1), shared_head=shared_head, noises=5).critic
    raw = (0.5 * randn(2, 7, 16)).requires_grad_()
    ours = critic(raw)
    theirs = torch.stack([released_critic(critic, raw, r) for r in range(2)])
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    leaves, upstream = [raw, *critic.parameters()], randn(2, 2, 7, seed=1)
    pairs = zip(
        torch.autograd.grad(ours, leaves, upstream),
        torch.autograd.grad(theirs, leaves, upstream),
        strict=True,
    )
    for a, b in pairs:
        assert b.any()
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    assert critic.out.weight.shape[0] == (2 if shared_head else 4)


def test_the_discrete_critic_reads_the_probabilities() -> None:
    agent = make_small(LVRep, latent="discrete", categories=4, classes=3)
    raw = randn(1, 7, 12)
    probs = raw.view(1, 7, 4, 3).softmax(-1).view(1, 7, 12)
    expected = []
    for k in range(2):
        columns = slice(16 * k, 16 * (k + 1))
        h = F.elu(
            probs[0] @ agent.critic.first.weight[0, :, columns]
            + agent.critic.first.bias[0, :, columns]
        )
        h = F.elu(h @ agent.critic.second.weight[k] + agent.critic.second.bias[k])
        expected.append((h @ agent.critic.out.weight[k] + agent.critic.out.bias[k])[:, 0])
    torch.testing.assert_close(agent.critic(raw)[0], torch.stack(expected))


def test_sizes_are_those_of_the_released_code() -> None:
    agent = make(LVRep, (0,), 17, 6, **LVRep.presets["released"])
    count = {n: sum(p.numel() for p in m.parameters()) for n, m in agent.components().items()
             if isinstance(m, torch.nn.Module)}  # fmt: skip
    hidden, both = 257 * 256, 257 * 512
    assert count["encoder"] == 41 * 256 + hidden + both
    assert count["prior"] == count["prior_target"] == 24 * 256 + hidden + both
    assert count["decoder"] == hidden + 257 * 18
    assert count["critic"] == 4 * hidden + 257  # l1, l2, l4, l5 and the shared l3
    assert agent.critic.noise.shape == (1, 20, 256)


def test_noise_vectors_are_fixed_for_the_whole_run() -> None:
    agent = make_small(LVRep, (0, 1))
    start = agent.critic.noise.clone()
    assert not torch.equal(start[0], start[1])
    assert abs(float(start.mean())) < 4.0 / start.numel() ** 0.5
    assert float(start.std()) == pytest.approx(1.0, abs=4.0 / (2 * start.numel()) ** 0.5)
    drive(agent, Drift((0, 1), 3, 2), 9)
    restored = make_small(LVRep, (5, 6))
    assert not torch.equal(restored.critic.noise, start)
    restored.load_state_dict(snapshot(agent))
    for critic in (agent.critic, agent.target, restored.critic, restored.target):
        assert torch.equal(critic.noise, start)


def test_critic_target_is_the_soft_bellman_value_of_the_target_prior() -> None:
    agent = make_small(LVRep, discount=0.9, initial_temperature=0.5)
    with torch.no_grad():  # targets that differ from the online networks
        for p in [*agent.prior_target.parameters(), *agent.target.parameters()]:
            p.mul_(1.5)
    ends = torch.ones(1, 16, 1)
    ends[:, ::2] = 0.0
    batch = random_batch()._replace(not_terminal=ends)
    streams = agent.rng.state_dict()
    with torch.no_grad():
        action, log_prob = agent.actor.sample(batch.next_obs, agent.rng)
        feature = agent.prior_target(torch.cat([batch.obs, batch.action], dim=-1))
        next_feature = agent.prior_target(torch.cat([batch.next_obs, action], dim=-1))
        value = agent.target(next_feature).amin(1) - 0.5 * log_prob
        y = batch.reward[..., 0] + 0.9 * ends[..., 0] * value
        expected = (agent.critic(feature) - y[:, None]).square().mean(-1).sum(-1)
    agent.rng.load_state_dict(streams)
    torch.testing.assert_close(agent.update_critic(batch)["critic_loss"], expected)


def test_each_step_moves_its_own_networks_only() -> None:
    agent = make_small(LVRep)
    autoencoder = (agent.encoder, agent.prior, agent.decoder)
    before = [weights(m) for m in (*autoencoder, agent.prior_target)]
    agent.update_critic(random_batch())
    agent.update_actor(random_batch().obs)
    for old, module in zip(before, (*autoencoder, agent.prior_target), strict=True):
        assert same(old, weights(module))
        assert all(p.grad is None for p in module.parameters())
    heads = weights(agent.critic) + weights(agent.actor)
    agent.update_features(random_batch())
    assert same(heads, weights(agent.critic) + weights(agent.actor))
    for old, module in zip(before, autoencoder, strict=False):
        assert not any(torch.equal(a, b) for a, b in zip(old, weights(module), strict=True))


@pytest.mark.parametrize("latent", LATENTS)
def test_the_actor_gradient_flows_through_the_target_prior(latent: str) -> None:
    """d/da of Q(p(.|s, a)), against the same loss with nothing frozen."""
    agent, twin = (make_small(LVRep, latent=latent) for _ in range(2))
    obs = random_batch().obs
    agent.update_actor(obs)
    twin.prior_target.requires_grad_(True)
    action, log_prob = twin.actor.sample(obs, twin.rng)
    q = twin.critic(twin.prior_target(torch.cat([obs, action], dim=-1))).amin(1)
    (0.1 * log_prob - q).mean().backward()
    for p, q in zip(agent.actor.parameters(), twin.actor.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, atol=1e-6, rtol=1e-4)


def test_feature_updates_and_target_networks() -> None:
    """The target prior follows after every feature update, the critic's every second step."""
    agent = make_small(LVRep, feature_updates=3, feature_tau=0.2, tau=0.3)
    task = Drift((0,), 3, 2)
    drive(agent, task, 4)
    seen, online = [], []
    features = agent.update_features

    def watched(batch: Batch) -> dict[str, torch.Tensor]:
        seen.append(batch.obs)
        metrics = features(batch)
        online.append(weights(agent.prior))
        return metrics

    agent.update_features = watched
    for update in (1, 2):
        expected, before = weights(agent.prior_target), weights(agent.target)
        online.clear()
        drive(agent, task, 1)
        for step in online:
            expected = [0.8 * t + 0.2 * p for t, p in zip(expected, step, strict=True)]
        for new, old in zip(agent.prior_target.parameters(), expected, strict=True):
            torch.testing.assert_close(new, old)
        rate = 0.3 if update == 2 else 0.0
        for new, old, p in zip(weights(agent.target), before, weights(agent.critic), strict=True):
            torch.testing.assert_close(new, (1.0 - rate) * old + rate * p)
    assert len(seen) == 6
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize(("preset", "chance"), [("released", 0.01), ("uploaded", 0.0)])
def test_presets_differ_in_uniform_actions(preset: str, chance: float) -> None:
    agent = make_small(LVRep, random_steps=0, **LVRep.presets[preset])
    assert agent.critic.out.weight.shape[0] == 1
    with torch.no_grad():  # a policy that always saturates at +1
        agent.actor.net.layers[-1].bias[..., :2] = 50.0
        agent.actor.net.layers[-1].weight.zero_()
    obs = np.zeros((1, 40_000, 3), np.float32)
    uniform = np.any(agent.act(obs, explore=True)[0] < 0.999, axis=-1)
    assert uniform.mean() == pytest.approx(chance, abs=4 * (chance / 40_000) ** 0.5)
    assert np.all(agent.act(obs, explore=False) > 0.999)
