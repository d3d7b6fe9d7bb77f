"""muLV-Rep: the loss of the released code, what each step trains, and that it learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import algos
from algos.parts.config import build_config
from algos.parts.replay import Batch
from algos.parts.types import Spaces
from algos.parts.vision import random_shift
from tests.helpers.pixels import Stripe, feed, make_small
from tests.helpers.updates import same, weights

MuLVRep = algos.versions(algos.load("lvrep"))["pixels"]
ONLINE = ("vision", "frame_encoder", "posterior", "prior", "decoder", "critic", "actor")
TARGETS = {"vision_target": "vision", "prior_target": "prior", "target": "critic"}


def prepared(seeds=(0,), **options: Any) -> Any:
    """An agent with a memory, whose targets differ from its networks and layer norms from 1."""
    agent = make_small(MuLVRep, seeds, **options)
    feed(agent, 50)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name in (*TARGETS, "prior", "posterior"):
            for p in getattr(agent, name).parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=g))
    return agent


def state_of(agent: Any) -> dict[str, list[torch.Tensor]]:
    return {name: weights(getattr(agent, name)) for name in (*ONLINE, *TARGETS)}


def moved(agent: Any, before: dict[str, list[torch.Tensor]]) -> set[str]:
    return {name for name, old in before.items() if not same(old, weights(getattr(agent, name)))}


def released_head(head: Any, r: int, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`vae.Encoder` and `vae.GaussianFeature` with tanh: two linear layers, two layer norms."""
    x, d = torch.cat(inputs, dim=-1), head.linear.weight.shape[-1] // 2
    parts = []
    for k, columns in enumerate((slice(0, d), slice(d, 2 * d))):
        h = x @ head.linear.weight[r, :, columns] + head.linear.bias[r, :, columns]
        parts.append(F.layer_norm(h, (d,), head.gain[r, 0, k], head.bias[r, 0, k]))
    return torch.tanh(parts[0]), parts[1].clamp(-20.0, 2.0)


def released_critic(critic: Any, r: int, mean: Any, log_std: Any, noise: Any) -> torch.Tensor:
    """Both values `[2, B]` as in `drqv2.Critic`, for its noise before the factor c_noise."""
    x = mean[:, None, :] + log_std.exp()[:, None, :] * noise[r] * 0.1
    heads, width = [], critic.second.weight.shape[1]
    for k in (0, 1):
        columns, s = slice(k * width, (k + 1) * width), 2 * r + k
        q = F.relu(x @ critic.first.weight[r, :, columns] + critic.first.bias[r, :, columns])
        q = F.relu(q.mean(dim=1) @ critic.second.weight[s] + critic.second.bias[s])
        heads.append((q @ critic.out.weight[s] + critic.out.bias[s])[:, 0])
    return torch.stack(heads)


def test_one_update_is_that_of_the_released_code() -> None:
    """Line by line for both replicas, with the draws of the agent's own streams."""
    agent = prepared((0, 1), discount=0.9)
    streams = agent.rng.state_dict()
    index = agent.replay.draw(6, agent.rng)
    img, action, reward, next_img, alive = agent.replay.batch(index)
    img_step1 = agent.replay.observations(index, 1)[:, :, -3:]
    state = agent.vision(random_shift(img, agent.rng))
    with torch.no_grad():
        next_state = agent.vision_target(random_shift(next_img, agent.rng))
        state_step1 = agent.frame_encoder(img_step1)
        draws = agent.rng.normal(6, 6)
        next_action = agent.noisy(agent.actor(next_state))
        noise = [agent.rng.normal(5, 6) for _ in range(2)]
    expected: dict[str, list[torch.Tensor]] = {}
    for r in range(2):
        mean1, log_std1 = released_head(agent.posterior, r, state[r], action[r], state_step1[r])
        mean2, log_std2 = released_head(agent.prior, r, state[r], action[r])
        z = (mean1 + log_std1.exp() * draws[r])[None]
        image, predicted = agent.decoder(z.expand(2, -1, -1))
        s_loss = F.l1_loss(image[r], img_step1[r] / 255.0 - 0.5)
        r_loss = F.mse_loss(predicted[r], reward[r])
        var1, var2 = (2 * log_std1).exp(), (2 * log_std2).exp()
        kl = (log_std2 - log_std1 + 0.5 * (var1 + (mean1 - mean2) ** 2) / var2 - 0.5).mean()
        next_feature = released_head(agent.prior_target, r, next_state[r], next_action[r])
        value = released_critic(agent.target, r, *next_feature, noise[0]).amin(0)
        y = (reward[r] + alive[r] * 0.9 * value[:, None])[:, 0]
        q = released_critic(agent.critic, r, mean2, log_std2, noise[1])
        huber = F.smooth_l1_loss(q[0], y) + F.smooth_l1_loss(q[1], y)
        found = {"image_loss": s_loss, "reward_loss": r_loss, "kl": kl, "critic_loss": huber}
        found |= {"feature_loss": 0.5 * (10.0 * s_loss + r_loss + kl), "q": q.mean()}
        for name, number in found.items():
            expected.setdefault(name, []).append(number.detach())
    agent.rng.load_state_dict(streams)
    metrics = agent.update_critic(*agent.draw())
    assert set(metrics) == set(expected)
    for name, numbers in expected.items():
        torch.testing.assert_close(metrics[name], torch.stack(numbers), msg=name)


def test_the_decoder_shares_two_layers_between_frame_and_reward() -> None:
    decoder = make_small(MuLVRep).decoder
    z = torch.randn(1, 3, 6, generator=torch.Generator().manual_seed(0))
    h = z[0]
    for layer in decoder.net.layers:
        h = F.relu(h @ layer.weight[0] + layer.bias[0])
    image, reward = decoder(z)
    torch.testing.assert_close(reward[0], h @ decoder.reward.weight[0] + decoder.reward.bias[0])
    features = h @ decoder.widen.weight[0] + decoder.widen.bias[0]
    torch.testing.assert_close(image, decoder.picture(features[None]))


def test_sizes_are_those_of_the_released_code() -> None:
    config = build_config(MuLVRep.Config, {"replay_capacity": 1, **MuLVRep.presets["released"]})
    agent = MuLVRep(Spaces((9, 84, 84), 4), config, [0])
    count = {name: sum(p.numel() for p in getattr(agent, name).parameters()) for name in ONLINE}
    assert count["posterior"] == 2 * (78_405 * 100 + 200)
    assert count["prior"] == 2 * (39_205 * 100 + 200)
    assert count["critic"] == 2 * (101 * 1024 + 1025 * 1024 + 1025)
    assert count["actor"] == 39_201 * 100 + 200 + 101 * 1024 + 1025 * 1024 + 1025 * 4
    convolutions = 3 * (32 * 32 * 9 + 32)
    assert count["vision"] == 9 * 32 * 9 + 32 + convolutions
    assert count["frame_encoder"] == 3 * 32 * 9 + 32 + convolutions
    # The last convolution has width 3, the code's 2.
    dense = 101 * 1024 + 1025 * 1024 + 1025 * 39_201
    assert count["decoder"] == dense + 4 * (32 * 32 * 9 + 32) + 3 * (32 * 9 + 1)


@pytest.mark.parametrize("through", [True, False])
def test_what_the_critic_trains(through: bool) -> None:
    """Without the autoencoder's loss, what moves is what the critic's loss reaches."""
    agent = prepared(feature_weight=0.0, critic_trains_features=through)
    before = state_of(agent)
    agent.update_critic(*agent.draw())
    assert moved(agent, before) == ({"vision", "prior", "critic"} if through else {"critic"})


def test_the_actor_step_trains_the_actor_through_prior_and_critic() -> None:
    """Its gradient against the same loss with nothing frozen."""
    agent, twin = (prepared() for _ in range(2))
    before, obs = state_of(agent), agent.draw()[0].obs.detach()
    twin.rng.load_state_dict(agent.rng.state_dict())
    agent.update_actor(obs)
    assert moved(agent, before) == {"actor"}
    assert all(p.grad is None for p in agent.optimizer.param_groups[0]["params"])
    feature = twin.prior(obs, twin.noisy(twin.actor(obs)))
    (-twin.critic(feature, noise=twin.noise()).amin(1).mean()).backward()
    for p, q in zip(agent.actor.parameters(), twin.actor.parameters(), strict=True):
        assert q.grad.any()
        torch.testing.assert_close(p.grad, q.grad)


def test_the_noise_is_drawn_for_each_call() -> None:
    agent = make_small(MuLVRep, (0, 1), noises=2000, noise_scale=0.3)
    one, other = agent.noise(), agent.noise()
    assert one.shape == (2, 2000, 6)
    assert float(one.std()) == pytest.approx(0.3, rel=0.02)
    for a, b in ((one, other), (one[:1], one[1:])):
        assert abs(float((a * b).mean())) < 0.3**2 * 4 / a.numel() ** 0.5


def test_all_targets_follow_after_each_update() -> None:
    agent = prepared(tau=0.25)
    agent.counters.steps = 50
    before = state_of(agent)
    agent.update()
    for target, online in TARGETS.items():
        after = zip(before[target], weights(getattr(agent, online)), strict=True)
        for new, (old, p) in zip(weights(getattr(agent, target)), after, strict=True):
            torch.testing.assert_close(new, 0.75 * old + 0.25 * p)


def test_pretraining_leaves_the_critic_alone_and_copies_the_features() -> None:
    """The released code's single update before learning."""
    assert MuLVRep.presets["released"]["pretrain_updates"] == 1
    agent = prepared(pretrain_updates=2)
    before, calls = state_of(agent), []
    agent.pretrain()
    assert moved(agent, before) == {*ONLINE, *TARGETS} - {"critic"}
    assert same(weights(agent.vision_target), weights(agent.vision))
    assert same(weights(agent.prior_target), weights(agent.prior))
    agent.pretrain = lambda: calls.append(agent.counters.updates)
    agent.counters.steps = 50
    for _ in range(3):
        agent.update()
    assert calls == [1, 1]


@pytest.mark.extended
def test_the_model_tells_what_an_action_leads_to() -> None:
    """The stripe goes left or right with the action, of which no image of now knows.

    Decoded from the prior, images and rewards of both actions.
    """
    agent = make_small(MuLVRep, batch_size=8, learning_rate=1e-3, feature_dim=8, hidden=32)
    side, rng = agent.spaces.obs_shape[-1], np.random.default_rng(0)
    ends = torch.from_numpy(np.zeros((1, 2, 3, side, side), np.uint8))
    ends[0, 0, ..., :8], ends[0, 1, ..., 12:] = 255, 255
    stack = torch.full((1, 16, 6, side, side), 128, dtype=torch.uint8)
    for _ in range(300):
        right = torch.from_numpy(rng.integers(0, 2, 16))
        action = (2.0 * right - 1.0)[None, :, None].repeat(1, 1, 2).float()
        obs = agent.see(stack, learn=True)
        batch = Batch(obs, action, 3.0 * action[..., :1], obs.detach(), torch.zeros(1, 16, 1))
        agent.update_critic(batch, ends[:, right])
    with torch.no_grad():
        action = torch.tensor([[[-1.0, -1.0], [1.0, 1.0]]])
        prior = agent.prior(agent.see(stack[:, :2]), action).repeat(1, 200, 1)
        decoded = agent.decoder(agent.latent.sample(agent.latent.read(prior), agent.rng))
        image, reward = (x[0].unflatten(0, (200, 2)).mean(0) for x in decoded)
    error = (image - (ends[0] / 255.0 - 0.5)).abs().mean((1, 2, 3))
    unaware = float((ends[0, 0] / 255.0 - ends[0, 1] / 255.0).abs().mean()) / 2
    assert float(error.max()) < 0.15 * unaware
    torch.testing.assert_close(reward[:, 0], torch.tensor([-3.0, 3.0]), atol=0.6, rtol=0.0)


@pytest.mark.extended
def test_it_learns_where_a_stripe_stands() -> None:
    """Values first, then the policy: each on its own is sure to arrive at once."""
    options = {"batch_size": 16, "hidden": 128, "trunk_dim": 20, "feature_dim": 128}
    options |= {"replay_capacity": 1000, "noise_steps": 1, "learning_rate": 5e-4}
    options |= {"feature_weight": 0.1}  # the code's share of the autoencoder takes twice as long
    agent = make_small(MuLVRep, frames=1, action_dim=1, random_steps=500, **options)
    task = Stripe(0, linear=True)
    task.train(agent, 500)
    assert abs(task.fraction_of_optimum(agent)) < 0.5
    for _ in range(250):
        agent.update_critic(*agent.draw())
    for _ in range(60):
        agent.update_actor(agent.draw()[0].obs.detach())
    assert task.fraction_of_optimum(agent) > 0.8
