"""DrQ-v2: its noise, what each loss trains, and that it learns from pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import algos
from algos.parts.config import build_config
from algos.parts.types import Spaces
from algos.parts.vision import random_shift
from tests.helpers.pixels import SIDE, Stripe, feed, make_small
from tests.helpers.updates import same, weights

DrQv2 = algos.load("drqv2")
PARTS = ("vision", "critic", "actor", "target")


def prepared(seeds=(0,), **options: Any) -> Any:
    """An agent with a memory, whose target differs from its critic."""
    agent = make_small(DrQv2, seeds, **options)
    feed(agent, 50)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in agent.target.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=g))
    return agent


def moved(agent: Any, before: list[list[torch.Tensor]]) -> set[str]:
    pairs = zip(PARTS, before, strict=True)
    return {name for name, old in pairs if not same(old, weights(getattr(agent, name)))}


def state_of(agent: Any) -> list[list[torch.Tensor]]:
    return [weights(getattr(agent, name)) for name in PARTS]


def set_action(agent: Any, value: float) -> None:
    """Make every mean action tanh(`value`)."""
    with torch.no_grad():
        agent.actor.net.layers[-1].weight.zero_()
        agent.actor.net.layers[-1].bias.fill_(value)


@pytest.mark.parametrize(("step", "std"), [(0, 1.0), (50, 0.55), (100, 0.1), (1000, 0.1)])
def test_the_noise_falls_linearly(step: int, std: float) -> None:
    agent = make_small(DrQv2, random_steps=0, noise_steps=100)
    agent.counters.steps = step
    assert agent.noise_std() == pytest.approx(std)
    set_action(agent, 0.0)
    obs = np.zeros((1, 3000, 6, SIDE, SIDE), np.uint8)
    assert np.abs(agent.act(obs, explore=False)).max() < 1e-6
    # Half of all normal numbers lie within 0.674 standard deviations.
    share = np.mean(np.abs(agent.act(obs, explore=True)) < 0.6745 * std)
    assert share == pytest.approx(0.5, abs=4 * 0.5 / 6000**0.5)


def test_the_noise_of_learning_is_clipped_and_the_gradient_passes_straight_through() -> None:
    agent = make_small(DrQv2, noise_start=0.3, noise_clip=0.3)
    mean = torch.tensor([0.0, 0.95]).repeat(1, 20_000, 1).requires_grad_()
    action = agent.noisy(mean)
    inner, outer = action.detach()[0].T
    assert float(inner.abs().max()) == pytest.approx(0.3)
    # Beyond one standard deviation: 31.7 % of the noise, all of it at the bound.
    assert float((inner.abs() > 0.2999).float().mean()) == pytest.approx(0.317, abs=0.014)
    assert float(outer.max()) == pytest.approx(1.0 - 1e-6, abs=1e-7)
    assert float(outer.min()) == pytest.approx(0.65)
    assert float((outer > 0.9999).float().mean()) == pytest.approx(0.434, abs=0.015)
    action.sum().backward()
    assert torch.equal(mean.grad, torch.ones_like(mean))


def test_one_critic_update_is_that_of_the_paper() -> None:
    """The target reads the present encoder, and the smaller value of a noisy action."""
    agent = prepared((0, 1), discount=0.9)
    streams = agent.rng.state_dict()
    img, action, reward, next_img, alive = agent.replay.sample(6, agent.rng)[0]
    with torch.no_grad():
        h = agent.vision(random_shift(img, agent.rng))
        next_h = agent.vision(random_shift(next_img, agent.rng))
        noise = (agent.noise_std() * agent.rng.normal(6, 2)).clamp(-0.3, 0.3)
        next_action = (agent.actor(next_h) + noise).clamp(-1.0, 1.0)
        value = agent.target(next_h, next_action).amin(1)
        y = reward[..., 0] + 0.9 * alive[..., 0] * value
        q = agent.critic(h, action)
    losses = [F.mse_loss(q[r, 0], y[r]) + F.mse_loss(q[r, 1], y[r]) for r in range(2)]
    agent.rng.load_state_dict(streams)
    metrics = agent.update_critic(*agent.sample())
    torch.testing.assert_close(metrics["critic_loss"], torch.stack(losses))
    torch.testing.assert_close(metrics["q"], q.mean((1, 2)))


def test_the_critic_trains_the_encoder_and_the_actor_does_not() -> None:
    agent = prepared()
    before = state_of(agent)
    (batch,) = agent.sample()
    assert not batch.next_obs.requires_grad
    agent.update_critic(batch)
    assert moved(agent, before) == {"vision", "critic"}
    before = state_of(agent)
    for p in (*agent.vision.parameters(), *agent.critic.parameters()):
        p.grad = None
    agent.update_actor(batch.obs.detach())
    assert moved(agent, before) == {"actor"}
    assert all(p.grad is None for p in agent.vision.parameters())
    assert all(p.grad is None for p in agent.critic.parameters())


def test_the_actor_gradient_passes_through_the_frozen_critic() -> None:
    agent, twin = (prepared() for _ in range(2))
    obs = agent.sample()[0].obs.detach()
    twin.rng.load_state_dict(agent.rng.state_dict())
    agent.update_actor(obs)
    (-twin.critic(obs, twin.noisy(twin.actor(obs))).amin(1).mean()).backward()
    for p, q in zip(agent.actor.parameters(), twin.actor.parameters(), strict=True):
        assert q.grad.any()
        torch.testing.assert_close(p.grad, q.grad)


def test_updates_come_at_every_second_step_and_move_the_target() -> None:
    agent = prepared(tau=0.25, update_every=2)
    learned = []
    for step in range(50, 54):
        agent.counters.steps = step
        before = state_of(agent)
        learned.append(bool(agent.update()))
        rate = 0.25 if learned[-1] else 0.0
        after = zip(before[3], weights(agent.critic), weights(agent.target), strict=True)
        for old, online, new in after:
            torch.testing.assert_close(new, (1 - rate) * old + rate * online)
    assert learned == [True, False, True, False]
    assert agent.counters.updates == 2


def test_nothing_is_learned_before_a_window_is_complete() -> None:
    agent = make_small(DrQv2, random_steps=0, n_step=3)
    for count in range(1, 4):
        feed(agent, 1)  # one more step of the same episode
        assert (len(agent.replay) > 0) == (count >= 3)
        assert bool(agent.update()) == (count >= 3)


def test_sizes_are_those_of_the_released_code() -> None:
    config = build_config(DrQv2.Config, {"replay_capacity": 1, **DrQv2.presets["released"]})
    agent = DrQv2(Spaces((9, 84, 84), 6), config, [0])
    count = {name: sum(p.numel() for p in getattr(agent, name).parameters()) for name in PARTS}
    trunk = 39_201 * 50 + 100
    assert count["vision"] == 9 * 32 * 9 + 32 + 3 * (32 * 32 * 9 + 32)
    assert count["actor"] == trunk + 51 * 1024 + 1025 * 1024 + 1025 * 6
    assert count["critic"] == trunk + 2 * (57 * 1024 + 1025 * 1024 + 1025)


def test_options_of_the_released_tasks() -> None:
    overrides = DrQv2.task_overrides
    assert overrides["dmc/walker-walk"] == {"noise_steps": 100_000, "n_step": 1, "batch_size": 512}
    assert overrides["dmc/walker-run"] == {"n_step": 1, "batch_size": 512}
    assert overrides["dmc/humanoid-run"]["noise_steps"] == 2_000_000
    assert overrides["dmc/quadruped-run"] == {"replay_capacity": 100_000}
    assert "dmc/cheetah-run" not in overrides  # medium: the defaults


def test_it_learns_where_a_stripe_stands() -> None:
    """Shifts by up to a quarter of the way between the edges are in what it learns from."""
    options = {"random_steps": 200, "batch_size": 32, "hidden": 64, "trunk_dim": 20}
    options |= {"replay_capacity": 1000, "noise_steps": 400, "learning_rate": 1e-3}
    agent = make_small(DrQv2, frames=1, action_dim=1, update_every=2, tau=0.02, **options)
    task = Stripe(0)
    task.train(agent, 200)
    assert task.fraction_of_optimum(agent) < 0.3
    task.train(agent, 700)
    assert task.fraction_of_optimum(agent) > 0.8
