"""DIPO: the action gradient on known values, the memory of actions, and a bandit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import algos
from algos.parts.config import build_config
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

DIPO = algos.load("dipo")


class KnownCritic:
    """Two heads that are given functions of the action; the state plays no part."""

    def __init__(self, *heads: Callable[[Tensor], Tensor]) -> None:
        self.heads = heads

    def __call__(self, obs: Tensor, action: Tensor, frozen: bool = False) -> Tensor:
        return torch.stack([head(action) for head in self.heads], dim=1)


def agent_with(*heads: Callable[[Tensor], Tensor], seeds: tuple[int, ...] = (0,), **options) -> Any:
    agent = make_small(DIPO, seeds, **options)
    agent.critic = KnownCritic(*heads)
    return agent


def bowl(scale: float, peak: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda action: -scale * (action - peak).square().sum(-1)


# ---------------------------------------------------------------- action gradient


def test_actions_climb_to_the_maximum_of_a_known_value() -> None:
    """From anywhere in the box; a maximum outside of it is approached up to its edge."""
    inside, outside = torch.tensor([0.3, -0.6]), torch.tensor([0.3, 5.0])
    start = random_batch(size=64)
    for peak, nearest in ((inside, [0.3, -0.6]), (outside, [0.3, 1.0])):
        value = bowl(2.0, peak)
        agent = agent_with(value, lambda a, v=value: v(a) + 1.0, action_gradient_steps=100)
        improved = agent.improve(start.obs, start.action)
        assert bool((value(improved) > value(start.action)).all())
        torch.testing.assert_close(
            improved, torch.tensor(nearest).expand_as(improved), atol=0.03, rtol=0.0
        )


def test_actions_climb_the_smaller_of_two_values() -> None:
    """Where one head rises with the action and the other falls, they stop at the crossing."""
    agent = agent_with(lambda a: a.sum(-1), lambda a: 0.6 - a.sum(-1), action_gradient_steps=60)
    start = random_batch(action_dim=1)
    improved = agent.improve(start.obs, start.action)
    torch.testing.assert_close(improved, torch.full_like(improved, 0.3), atol=0.08, rtol=0.0)


@pytest.mark.parametrize("ratio", [5e-4, 0.0])
def test_action_gradient_equals_adam_by_hand(ratio: float) -> None:
    """Three steps in float64; the clip is joint over B x A, apart for each replica.

    The values of the two replicas differ in steepness by far, the norm allowed is that of
    gradients near Adam's epsilon: a clip that is missing, per row or over both replicas
    gives other steps. A second call repeats the first: Adam keeps nothing.
    """
    steepness, peak = torch.tensor([1e-4, 3.0])[:, None], torch.tensor([0.2, -0.1])
    value = lambda a: -steepness * (a - peak).square().sum(-1)  # noqa: E731
    agent = agent_with(value, value, seeds=(0, 1), action_grad_ratio=ratio, action_gradient_steps=3)
    start = random_batch(2)
    a = start.action.double().numpy()
    m, v = np.zeros_like(a), np.zeros_like(a)
    for n in range(1, 4):
        g = -2.0 * steepness[..., None].numpy() * (a - peak.numpy())
        if ratio:
            norm = np.sqrt(np.square(g).sum((1, 2), keepdims=True))
            g = g * np.minimum(1.0, ratio * 2 / norm)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        step = 0.03 * (m / (1 - 0.9**n)) / (np.sqrt(v / (1 - 0.999**n)) + 1e-5)
        a = np.clip(a + step, -1.0, 1.0)
    for _ in range(2):
        improved = agent.improve(start.obs, start.action)
        np.testing.assert_allclose(improved.numpy(), a, atol=2e-5)


def test_action_gradient_leaves_critic_streams_and_its_input_alone() -> None:
    agent = make_small(DIPO, (0, 1), hidden=32)
    batch = random_batch(2, size=64)
    critic, action, streams = weights(agent.critic), batch.action.clone(), agent.rng.state_dict()
    improved = agent.improve(batch.obs, batch.action)
    assert all(p.grad is None for p in agent.critic.parameters())
    assert same(critic, weights(agent.critic))
    assert torch.equal(action, batch.action)
    assert all(torch.equal(s, agent.rng.state_dict()[r]) for r, s in streams.items())
    assert not improved.requires_grad
    with torch.no_grad():
        gain = [agent.critic(batch.obs, a).amin(1) for a in (batch.action, improved)]
    assert float((gain[1] > gain[0]).float().mean()) > 0.98
    # 20 steps of at most about 0.03 each.
    assert 0.3 < float((improved - action).abs().max()) < 0.7


# ---------------------------------------------------------------- memory of actions


def chosen_slots(agent: Any) -> Tensor:
    """Slots `[R, B]` that `memory.sample` draws next; the streams are put back."""
    streams = agent.rng.state_dict()
    index = agent.rng.integers(len(agent.replay), agent.config.batch_size)
    agent.rng.load_state_dict(streams)
    return index


def test_memory_starts_with_the_actions_taken_in_the_slots_of_the_replay() -> None:
    agent = make_small(DIPO, (0, 1), replay_capacity=8)
    for k in range(11):  # past the end of the ring
        agent.observe(transition(2, seed=k))
    stored = agent.replay.rows[..., 3:5]
    assert torch.equal(agent.memory.actions, stored)
    index = chosen_slots(agent)
    slots, obs, action = agent.memory.sample(16, agent.rng)
    assert torch.equal(slots, index)
    for r in range(2):
        assert torch.equal(obs[r], agent.replay.rows[r, index[r], :3])
        assert torch.equal(action[r], stored[r, index[r]])


@pytest.mark.parametrize("write_back", [True, False])
def test_an_update_replaces_exactly_the_chosen_actions_or_none(write_back: bool) -> None:
    agent = make_small(DIPO, (0, 1), write_back=write_back, random_steps=60)
    drive(agent, Drift((0, 1), 3, 2), 60)
    before, rows = agent.memory.actions.clone(), agent.replay.rows.clone()
    seen: list[tuple[Tensor, ...]] = []
    sample, imitate = agent.memory.sample, agent.imitate
    agent.memory.sample = lambda *args: seen.append(sample(*args)) or seen[-1]
    agent.imitate = lambda obs, a: seen.append((obs, a)) or imitate(obs, a)
    metrics = agent.learn()
    (index, obs, action), (imitated_obs, imitated) = seen
    assert torch.equal(obs, imitated_obs)
    torch.testing.assert_close(
        metrics["action_change"], (imitated - action).abs().flatten(1).mean(-1)
    )
    assert torch.equal(agent.replay.rows, rows)  # the critic learns what was done
    changed = (agent.memory.actions != before).any(-1)
    if not write_back:
        assert not changed.any()
        return
    for r in range(2):
        assert set(changed[r].nonzero()[:, 0].tolist()) == set(index[r].tolist())
        torch.testing.assert_close(agent.memory.actions[r, index[r]], imitated[r])


def test_of_equal_slots_the_first_is_written() -> None:
    agent = make_small(DIPO, (0, 1))
    index = torch.tensor([[3, 5, 3, 0], [5, 5, 1, 5]])
    action = torch.arange(16.0).view(2, 4, 2) + 1.0
    agent.memory.replace(index, action)
    expected = torch.zeros(2, 200, 2)
    for r, b in ((0, 0), (0, 1), (0, 3), (1, 0), (1, 2)):
        expected[r, index[r, b]] = action[r, b]
    assert torch.equal(agent.memory.actions, expected)


# ---------------------------------------------------------------- critic and policy


def test_critic_target_is_the_value_of_one_sample_of_the_target_policy() -> None:
    agent = make_small(DIPO, (0, 1), discount=0.9)
    with torch.no_grad():  # targets that differ from the online networks
        for p in [*agent.actor_target.parameters(), *agent.critic_target.parameters()]:
            p.mul_(1.5)
    batch = random_batch(2)
    ends = torch.ones(2, 16, 1)
    ends[:, ::3] = 0.0
    streams = agent.rng.state_dict()
    action = agent.actor_target.sample(agent.diffusion, batch.next_obs, 1, agent.rng)[:, :, 0]
    with torch.no_grad():
        value = agent.critic_target(batch.next_obs, action).amin(1)
        y = batch.reward[..., 0] + 0.9 * ends[..., 0] * value
        expected = (agent.critic(batch.obs, batch.action) - y[:, None]).square().mean(-1).sum(-1)
    agent.rng.load_state_dict(streams)
    metrics = agent.update_critic(batch._replace(not_terminal=ends))
    torch.testing.assert_close(metrics["critic_loss"], expected)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("states", [2, 20], ids=["few", "many"])
@pytest.mark.parametrize("noisy", [True, False])
def test_samples_run_the_denoiser_of_the_loss(count: int, states: int, noisy: bool) -> None:
    """The reverse process has paths of its own for one sample per state and for few in all."""
    agent = make_small(DIPO, (0, 1))
    assert (states * count <= agent.actor.FEW) == (states == 2)
    obs = random_batch(2, size=states).obs
    streams = agent.rng.state_dict()
    fast = agent.actor.sample(agent.diffusion, obs, count, agent.rng, noisy)
    agent.rng.load_state_dict(streams)
    x = agent.rng.normal(states, count, 2)
    for t in reversed(range(4)):
        with torch.no_grad():
            steps = torch.full((2, states), t)
            epsilon = torch.stack([agent.actor(a, steps, obs) for a in x.unbind(2)], dim=2)
        noise = agent.rng.normal(states, count, 2) if noisy and t > 0 else None
        x = agent.diffusion.reverse_step(x, epsilon, t, noise)
    torch.testing.assert_close(fast, x.clamp(-1.0, 1.0), atol=1e-5, rtol=0.0)


def test_policy_loss_is_the_mean_squared_error_of_the_predicted_noise() -> None:
    agent = make_small(DIPO, (0, 1))
    batch = random_batch(2)
    streams = agent.rng.state_dict()
    t, noise = agent.rng.integers(4, 16), agent.rng.normal(16, 2)
    with torch.no_grad():
        noisy = agent.diffusion.corrupt(batch.action, t, noise)
        expected = (agent.actor(noisy, t, batch.obs) - noise).square().sum((1, 2)) / 32
    agent.rng.load_state_dict(streams)
    critic, actor = weights(agent.critic), weights(agent.actor)
    torch.testing.assert_close(agent.imitate(batch.obs, batch.action)["actor_loss"], expected)
    assert same(critic, weights(agent.critic))
    assert not same(actor, weights(agent.actor))


def test_policy_finds_the_peak_of_a_bandit() -> None:
    """One-step episodes that pay -|a - peak|²; acting takes single samples, not the best."""
    sizes = {"hidden": 48, "batch_size": 64, "diffusion_steps": 8, "action_gradient_steps": 5}
    rates = {"actor_learning_rate": 2e-3, "critic_learning_rate": 3e-3}
    options = {"random_steps": 150, "replay_capacity": 1000, "precision": "float32"}
    agent = make(DIPO, (0,), 1, 2, **sizes, **rates, **options)
    peak, nothing = np.array([0.5, -0.4]), np.zeros((1, 1, 1), np.float32)
    ends = {"obs": 0.0, "next_obs": 0.0, "terminated": True}
    for _ in range(500):
        action = agent.act(nothing, explore=True)[0]
        reward = -np.square(action - peak).sum(-1)
        agent.observe(transition(1, 1, 2, action=action, reward=reward, **ends))
        agent.update()
    for explore in (True, False):
        actions = agent.act(np.zeros((1, 300, 1), np.float32), explore)[0]
        # Uniform actions lie 0.9 away on average.
        assert np.linalg.norm(actions - peak, axis=-1).mean() < 0.1
        assert np.linalg.norm(actions.mean(0) - peak) < 0.1


def test_evaluation_follows_the_mean_and_exploration_does_not() -> None:
    agent = make_small(DIPO, random_steps=0)
    for explore, rng, draws in ((False, agent.eval_rng, 1), (True, agent.rng, 4)):
        streams = rng.state_dict()
        agent.act(np.zeros((1, 5, 3), np.float32), explore)
        after = rng.normal(1)
        rng.load_state_dict(streams)
        for _ in range(draws):  # the random start, then one for each step but the last
            rng.normal(5, 1, 2)
        assert torch.equal(rng.normal(1), after)


def test_target_policy_follows_every_other_update_and_target_critic_every_one() -> None:
    agent = make_small(DIPO, actor_target_every=2, tau=0.3)
    task = Drift((0,), 3, 2)
    drive(agent, task, 4)
    for n in range(1, 5):
        actor, critic = weights(agent.actor_target), weights(agent.critic_target)
        drive(agent, task, 1)
        for old, target, online in zip(
            critic, agent.critic_target.parameters(), agent.critic.parameters(), strict=True
        ):
            torch.testing.assert_close(target, 0.7 * old + 0.3 * online)
        assert same(actor, weights(agent.actor_target)) == (n % 2 == 1)


# ---------------------------------------------------------------- options


def test_released_preset_writes_nothing_back_and_ends_at_time_limits() -> None:
    released, default = make_small(DIPO, **DIPO.presets["released"]), make_small(DIPO)
    assert (released.config.write_back, default.config.write_back) == (False, True)
    for agent, kept in ((released, 0.0), (default, 1.0)):
        agent.observe(transition(truncated=True))
        assert agent.sample()[0].not_terminal.unique().tolist() == [kept]


def test_options_are_those_of_the_released_code_and_its_table() -> None:
    names = ("max_grad_norm", "action_grad_ratio", "action_gradient_steps", "actor_target_every")
    table = {
        task: tuple(getattr(build_config(DIPO.Config, options), name) for name in names)
        for task, options in DIPO.task_overrides.items()
        if task.endswith("-v5")
    }
    assert table == {
        "gym/Hopper-v5": (1.0, 0.3, 20, 1),
        "gym/Walker2d-v5": (2.0, 0.08, 20, 1),
        "gym/Ant-v5": (0.8, 0.1, 20, 1),
        "gym/HalfCheetah-v5": (2.0, 0.08, 40, 2),
        "gym/Humanoid-v5": (2.0, 0.1, 20, 1),
    }
    c = DIPO.Config()
    assert (c.diffusion_steps, c.noise_schedule, c.action_learning_rate) == (100, "cosine", 0.03)
    assert (c.actor_learning_rate, c.critic_learning_rate, c.adam_epsilon) == (3e-4, 3e-4, 1e-5)
    assert (c.batch_size, c.tau, c.discount, c.random_steps) == (256, 0.005, 0.99, 10_000)
