"""TD3: exploration noise, smoothed targets, delayed actor, the presets' sources."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import algos
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

TD3 = algos.load("td3")


def test_exploration_adds_gaussian_noise() -> None:
    agent = make_small(TD3, random_steps=0, exploration_noise=0.1)
    obs = np.zeros((1, 5000, 3), np.float32)
    quiet, loud = agent.act(obs, explore=False), agent.act(obs, explore=True)
    assert float(quiet.std(axis=1).max()) < 1e-4
    noise = loud - quiet
    assert float(noise.std()) == pytest.approx(0.1, rel=0.05)
    assert abs(float(noise.mean())) < 0.005
    assert abs(float(np.corrcoef(noise[0].T)[0, 1])) < 0.05  # coordinates are independent


def test_the_target_noise_is_gaussian_and_clipped() -> None:
    agent = make_small(TD3, target_noise=0.2, target_clip=0.3)
    with torch.no_grad():
        agent.actor_target.layers[-1].weight.zero_()
        agent.actor_target.layers[-1].bias.zero_()
    noise = agent.target_action(torch.zeros(1, 20_000, 3)).flatten()
    assert float(noise.abs().max()) == pytest.approx(0.3)
    assert float((noise.abs() >= 0.3 - 1e-6).float().mean()) == pytest.approx(0.134, abs=0.01)
    inside = noise[noise.abs() < 0.1]
    assert len(inside) / len(noise) == pytest.approx(0.383, abs=0.01)  # within half a std


def test_target_actions_stay_in_the_box() -> None:
    agent = make_small(TD3, target_noise=0.2, target_clip=0.5)
    with torch.no_grad():
        agent.actor_target.layers[-1].bias.fill_(10.0)  # a policy at the edge
    action = agent.target_action(torch.zeros(1, 1000, 3))
    assert float(action.max()) == 1.0
    assert float(action.min()) == pytest.approx(0.5, abs=0.05)


def test_critic_target_is_the_smaller_value_of_the_smoothed_action() -> None:
    agent = make_small(TD3, (0, 1), discount=0.9)
    with torch.no_grad():  # targets that differ from the online networks
        for p in [*agent.actor_target.parameters(), *agent.critic_target.parameters()]:
            p.mul_(1.5)
    batch = random_batch(2)
    ends = torch.ones(2, 16, 1)
    ends[:, ::3] = 0.0
    batch = batch._replace(not_terminal=ends)
    streams = agent.rng.state_dict()
    noise = (0.2 * agent.rng.normal(16, 2)).clamp(-0.5, 0.5)
    agent.rng.load_state_dict(streams)
    with torch.no_grad():
        action = (torch.tanh(agent.actor_target(batch.next_obs)) + noise).clamp(-1.0, 1.0)
        value = agent.critic_target(batch.next_obs, action).amin(1)
        y = batch.reward[..., 0] + 0.9 * ends[..., 0] * value
        q = agent.critic(batch.obs, batch.action)
    expected = (q - y[:, None]).square().mean(-1).sum(-1)
    torch.testing.assert_close(agent.update_critic(batch)["critic_loss"], expected)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_the_actor_and_the_targets_move_at_every_dth_update(every: int) -> None:
    agent = make_small(TD3, policy_every=every)
    task = Drift((0,), 3, 2)
    drive(agent, task, 4)
    for update in range(1, 7):
        modules = (agent.actor, agent.actor_target, agent.critic_target)
        before, critic = [weights(m) for m in modules], weights(agent.critic)
        drive(agent, task, 1)
        still = bool(update % every)
        assert [same(b, weights(m)) for b, m in zip(before, modules, strict=True)] == [still] * 3
        assert not same(critic, weights(agent.critic))


def test_the_actor_climbs_the_first_critic_only() -> None:
    one, other = make_small(TD3), make_small(TD3)
    with torch.no_grad():
        for p in other.critic.parameters():
            p[1].add_(1.0)  # the second head of the one replica
    obs = random_batch().obs
    for agent in (one, other):
        agent.update_actor(obs)
    assert same(weights(one.actor), weights(other.actor))
    with torch.no_grad():
        before = make_small(TD3)
        first = [a.critic(obs, torch.tanh(a.actor(obs)))[:, 0].mean() for a in (before, one)]
    assert first[1] > first[0]


def test_two_hidden_widths() -> None:
    agent = make(TD3, (0,), 3, 2, hidden=40, second_hidden=30)
    shapes = [tuple(layer.weight.shape[1:]) for layer in agent.actor.layers]
    assert shapes == [(3, 40), (40, 30), (30, 2)]
    shapes = [tuple(layer.weight.shape[1:]) for layer in agent.critic.net.layers]
    assert shapes == [(5, 40), (40, 30), (30, 1)]


@pytest.mark.parametrize(("preset", "kept"), [("released", 1.0), ("paper", 1.0), ("mbbl", 0.0)])
def test_time_limits_of_the_presets(preset: str, kept: float) -> None:
    agent = make_small(TD3, **(TD3.presets[preset] | {"hidden": 8, "second_hidden": 8}))
    agent.observe(transition(truncated=True))
    assert agent.sample()[0].not_terminal.unique().tolist() == [kept]


def test_defaults_are_those_of_the_authors_code() -> None:
    c = TD3.Config()
    assert (c.hidden, c.second_hidden, c.learning_rate, c.batch_size) == (256, 0, 3e-4, 256)
    assert (c.exploration_noise, c.target_noise, c.target_clip, c.policy_every) == (
        0.1,
        0.2,
        0.5,
        2,
    )
    assert (c.tau, c.discount, c.replay_capacity) == (0.005, 0.99, 1_000_000)
    assert TD3.presets["released"]["random_steps"] == 25_000
    assert not c.time_limit_terminal
