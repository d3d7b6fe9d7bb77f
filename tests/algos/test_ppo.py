"""PPO's single parts against hand-made recursions, torch.distributions, numpy and Gymnasium."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium.wrappers.utils import RunningMeanStd
from torch.distributions import Independent, Normal

import algos
from algos.parts.config import OptionError, build_config
from algos.parts.rollout import RolloutSteps
from algos.ppo import standardise, surrogate, value_error
from tests.helpers.updates import make, make_small, snapshot, transition, weights

PPO = algos.load("ppo")
PLAIN = {"normalise_observations": False, "normalise_rewards": False}


def small(seeds=(0,), **options):
    return make_small(PPO, seeds, **({"rollout_steps": 8, "batch_size": 4} | options))


def fill(agent, steps: int, **fields) -> list[np.ndarray]:
    """Act and observe, with random transitions otherwise; the actions."""
    taken = []
    for k in range(steps):
        step = transition(agent.replicas, seed=k, **fields)
        action = agent.act(step.obs[:, None], explore=True)[:, 0]
        agent.observe(transition(agent.replicas, seed=k, action=action, **fields))
        taken.append(action)
    return taken


def test_advantages_and_returns_by_hand() -> None:
    """A termination at step 2 cuts everything; a time limit at step 5 only the recursion."""
    agent = small((0, 1), discount=0.9, gae_lambda=0.8)
    g = torch.Generator().manual_seed(0)
    obs, next_obs = torch.randn(2, 2, 8, 3, generator=g)
    action, reward = torch.randn(2, 8, 2, generator=g), torch.randn(2, 8, generator=g)
    terminated, truncated = torch.zeros(2, 2, 8)
    terminated[:, 2], truncated[:, 5] = 1.0, 1.0
    not_ended = (1.0 - terminated) * (1.0 - truncated)
    rows = agent.prepare(RolloutSteps(obs, action, next_obs, reward, 1.0 - terminated, not_ended))
    with torch.no_grad():
        value, after = agent.critic(obs)[..., 0].numpy(), agent.critic(next_obs)[..., 0].numpy()
    for r in range(2):
        advantage = 0.0
        for t in reversed(range(8)):
            if t == 2:
                advantage = float(reward[r, t]) - value[r, t]
            else:
                delta = float(reward[r, t]) + 0.9 * after[r, t] - value[r, t]
                advantage = delta if t == 5 else delta + 0.9 * 0.8 * advantage
            assert float(rows[r, t, -2]) == pytest.approx(advantage, abs=1e-5)
            assert float(rows[r, t, -1]) == pytest.approx(advantage + value[r, t], abs=1e-5)


@pytest.mark.parametrize(
    ("ends", "options", "terminal"),
    [
        ({"truncated": True}, {}, False),
        ({"terminated": True}, {}, True),
        ({"truncated": True}, PPO.presets["cleanrl"], True),
    ],
)
def test_what_an_end_stores(ends: dict, options: dict, terminal: bool) -> None:
    agent = small(**options)
    fill(agent, 8, **ends)
    rows = agent.rollout.take(agent.device)
    assert rows.not_terminal.unique().tolist() == [float(not terminal)]
    assert rows.not_ended.unique().tolist() == [0.0]


def gradient(objective: str, ratio: float, advantage: float) -> float:
    rho = torch.tensor(ratio, requires_grad=True)
    surrogate(objective, rho, torch.tensor(advantage), 0.2).backward()
    return float(rho.grad)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        (1.3, 2.0, 0.0),  # already likelier than allowed
        (0.7, -2.0, 0.0),  # already less likely than allowed
        (0.7, 2.0, 2.0),  # moved the wrong way: the gradient brings it back
        (1.3, -2.0, -2.0),
        (1.1, 2.0, 2.0),
        (0.9, -2.0, -2.0),
    ],
)
def test_clipped_objective(ratio: float, advantage: float, expected: float) -> None:
    assert gradient("clip", ratio, advantage) == pytest.approx(expected)


@pytest.mark.parametrize("advantage", [3.0, -3.0])
def test_spo_has_its_optimum_at_the_edge_and_pulls_back_beyond_it(advantage: float) -> None:
    best = 1.0 + 0.2 * math.copysign(1.0, advantage)
    assert gradient("spo", best, advantage) == pytest.approx(0.0, abs=1e-6)
    assert gradient("spo", best - 0.1, advantage) == pytest.approx(1.5)
    assert gradient("spo", best + 0.1, advantage) == pytest.approx(-1.5)
    assert gradient("spo", 1.0, advantage) == pytest.approx(advantage)  # that of PPO at rho = 1


def test_the_objective_option_reaches_the_loss() -> None:
    losses = []
    for objective in ("clip", "spo"):
        agent = small(objective=objective, learning_rate=0.05)
        fill(agent, 8)
        losses.append(float(agent.update()["policy_loss"]))
    assert losses[0] != losses[1]


def test_advantages_are_normalised_in_every_replica() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0, 6.0], [10.0, 10.0, 50.0, -10.0]])
    expected = (x.numpy() - x.numpy().mean(1, keepdims=True)) / x.numpy().std(1, ddof=1)[:, None]
    np.testing.assert_allclose(standardise(x).numpy(), expected, rtol=1e-5)
    assert not standardise(torch.ones(1, 4)).any()


def test_value_loss_is_the_larger_of_two_errors() -> None:
    old, target = torch.zeros(4), torch.tensor([1.0, 1.0, -1.0, 0.05])
    value = torch.tensor([0.5, -0.5, 0.5, 0.1])
    # Moved too far towards the target: the error of 0.2; moved away or little: its own.
    torch.testing.assert_close(
        value_error(value, old, target, 0.2), torch.tensor([0.64, 2.25, 2.25, 0.0025])
    )
    torch.testing.assert_close(value_error(value, old, target, math.inf), (value - target).square())


def test_log_probability_and_entropy_are_those_of_a_normal() -> None:
    agent = small((0, 1))
    with torch.no_grad():
        agent.actor.log_std.copy_(torch.tensor([[[0.3, -1.0]], [[-0.2, 0.5]]]))
    obs, action = torch.randn(2, 5, 3), 2.0 * torch.randn(2, 5, 2)
    mean, log_std = agent.actor(obs)
    normal = Independent(Normal(mean, log_std.exp().expand_as(mean)), 1)
    torch.testing.assert_close(agent.actor.log_prob(obs, action), normal.log_prob(action))
    torch.testing.assert_close(agent.actor.entropy()[:, None].expand(2, 5), normal.entropy())


def test_samples_have_the_policys_mean_and_standard_deviation() -> None:
    agent = small(**PLAIN)
    with torch.no_grad():
        agent.actor.log_std.fill_(math.log(0.1))
    obs = np.ones((1, 20_000, 3), np.float32)
    mean, drawn = agent.act(obs, explore=False), agent.act(obs, explore=True)
    np.testing.assert_allclose(drawn.mean(1), mean[:, 0], atol=0.004)
    np.testing.assert_allclose(drawn.std(1), 0.1, rtol=0.03)


def test_ratios_are_of_the_sample_that_the_environment_got_clamped() -> None:
    agent = small(**PLAIN)
    actions = np.stack(fill(agent, 8), axis=1)
    stored = agent.rollout.take(agent.device).action.numpy()
    assert np.abs(stored).max() > 1.0  # std 1 at the start: a third lies outside
    np.testing.assert_array_equal(stored.clip(-1.0, 1.0), actions)


def test_an_action_from_elsewhere_is_stored_as_it_is() -> None:
    agent = small()
    step = transition()
    agent.act(step.obs[:, None], explore=True)
    agent.observe(step)
    np.testing.assert_array_equal(agent.rollout.rows[:, 0, 3:5], step.action)


def test_old_log_probabilities_are_those_of_acting() -> None:
    """Statistics move with every step; the rollout holds what the policy saw at that time."""
    agent, expected = small(), []
    for k in range(8):
        step = transition(seed=k, obs=np.full(3, 5.0 * k))
        action = agent.act(step.obs[:, None], explore=True)[:, 0]
        with torch.no_grad():
            seen = torch.as_tensor(agent.normaliser.obs(step.obs[:, None]))
            expected.append(agent.actor.log_prob(seen, torch.as_tensor(agent.drawn.sample)).item())
        agent.observe(transition(seed=k, obs=np.full(3, 5.0 * k), action=action))
    rows = agent.prepare(agent.rollout.take(agent.device))
    np.testing.assert_allclose(rows[0, :, -4].numpy(), expected, rtol=1e-5)


def test_a_policy_that_does_not_move_has_ratio_one() -> None:
    agent = small(learning_rate=0.0)
    fill(agent, 8)
    metrics = agent.update()
    assert float(metrics["kl"]) == pytest.approx(0.0, abs=1e-6)
    assert float(metrics["clip_fraction"]) == 0.0


def test_it_learns_when_the_rollout_is_full_and_not_before() -> None:
    agent = small()
    for k in range(24):
        agent.observe(transition(seed=k))
        before = weights(agent.actor)
        assert bool(agent.update()) == (k % 8 == 7)
        moved = any(
            not torch.equal(a, b) for a, b in zip(before, weights(agent.actor), strict=True)
        )
        assert moved == (k % 8 == 7)


def test_every_epoch_sees_every_transition_once_in_a_new_order() -> None:
    agent = small((0, 1), epochs=3)
    rows = torch.arange(2 * 8 * 9.0).view(2, 8, 9)
    parts = [batch.obs[..., 0] for batch in agent.minibatches(rows)]
    assert [part.shape for part in parts] == [(2, 4)] * 6
    orders = torch.cat(parts, dim=1).view(2, 3, 8)
    assert torch.equal(orders.sort(-1).values, rows[:, None, :, 0].expand(2, 3, 8))
    assert (
        len({tuple(order.tolist()) for order in (orders - orders.amin(-1, True)).view(6, 8)}) == 6
    )


def test_statistics_are_those_of_the_training_observations_and_frozen_in_evaluation() -> None:
    agent = small(rollout_steps=64, batch_size=32)
    fill(agent, 40)
    before = snapshot(agent)["normaliser"]["observations"]
    for explore in (True, False):
        agent.act(np.full((1, 3, 3), 1e6, np.float32), explore)
    after = snapshot(agent)["normaliser"]["observations"]
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name])
    seen = np.concatenate([transition(seed=k).obs for k in range(40)])
    np.testing.assert_allclose(after["mean"][0], seen.mean(0), atol=1e-4)
    obs = agent.normaliser.obs(seen[None])
    np.testing.assert_allclose(obs.std(1), 1.0, rtol=1e-3)
    assert float(np.abs(agent.normaliser.obs(np.full((1, 3), 1e6, np.float32))).max()) == 10.0


def test_rewards_are_divided_by_the_std_of_the_discounted_return() -> None:
    agent = small(rollout_steps=64, batch_size=32, discount=0.9)
    rng = np.random.default_rng(0)
    rewards, ends = rng.normal(2.0, 5.0, size=50), rng.random(50) < 0.2
    statistics, total = RunningMeanStd(shape=()), 0.0
    for k, (reward, end) in enumerate(zip(rewards.astype(np.float32), ends, strict=True)):
        agent.observe(transition(seed=k, reward=reward, terminated=end))
        total = 0.9 * total + float(reward)
        statistics.update(np.array([total]))
        total *= not end
        scaled = float(np.clip(reward / np.sqrt(statistics.var + 1e-8), -10.0, 10.0))
        assert float(agent.rollout.rows[0, k, 8]) == pytest.approx(scaled, rel=1e-5)


def test_without_normalisation_everything_is_stored_raw() -> None:
    agent, step = small(**PLAIN), transition()
    agent.observe(step)
    obs, next_obs = agent.rollout.rows[:, 0, :3], agent.rollout.rows[:, 0, 5:8]
    np.testing.assert_array_equal(obs, step.obs)
    np.testing.assert_array_equal(next_obs, step.next_obs)
    np.testing.assert_array_equal(agent.rollout.rows[:, 0, 8], step.reward)


@pytest.mark.parametrize(("anneal", "rates"), [(32, [1.0, 0.75, 0.5, 0.25, 0.0]), (0, [1.0] * 5)])
def test_learning_rate_falls_to_zero_over_the_budget(anneal: int, rates: list[float]) -> None:
    agent = small(anneal_steps=anneal, learning_rate=0.01)
    for rate in rates:
        fill(agent, 8)
        agent.update()
        assert agent.optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * rate)


@pytest.mark.parametrize("limit", [1e-3, 0.0])
def test_the_gradient_norm_is_that_of_both_networks(limit: float) -> None:
    agent = small((0, 1), max_grad_norm=limit)
    fill(agent, 8, reward=100.0)
    agent.update()
    for r in range(2):
        parts = [p.grad[r].flatten() for m in (agent.actor, agent.critic) for p in m.parameters()]
        norm = float(torch.cat(parts).norm())
        assert norm == pytest.approx(1e-3, rel=2e-3) if limit else norm > 5e-3


def test_orthogonal_layers_with_the_gains_of_cleanrl() -> None:
    agent = make(PPO, (0,), 17, 6)
    for net, last in ((agent.actor.net, 0.01), (agent.critic, 1.0)):
        for layer, gain in zip(net.layers, (math.sqrt(2.0), math.sqrt(2.0), last), strict=True):
            singular = torch.linalg.svdvals(layer.weight[0])
            torch.testing.assert_close(singular, torch.full_like(singular, gain))
            assert not layer.bias.any()
    assert not agent.actor.log_std.any()


def test_a_minibatch_that_does_not_divide_the_rollout_is_a_users_mistake() -> None:
    with pytest.raises(OptionError, match=r"batch_size=100: rollout_steps=2048 is no multiple"):
        build_config(PPO.Config, {"batch_size": 100})
    assert build_config(PPO.Config, {"batch_size": 4096}).batch_size == 4096  # the whole rollout


def test_defaults_and_presets_are_those_of_the_named_code() -> None:
    c = PPO.Config()
    assert (c.rollout_steps, c.batch_size, c.epochs, c.hidden) == (2048, 2048 // 32, 10, 64)
    assert (c.learning_rate, c.adam_epsilon, c.anneal_steps) == (3e-4, 1e-5, 1_000_000)
    assert (c.discount, c.gae_lambda, c.clip, c.max_grad_norm) == (0.99, 0.95, 0.2, 0.5)
    assert (c.value_weight, c.entropy_weight, c.value_clip) == (0.5, 0.0, True)
    released = build_config(PPO.Config, PPO.presets["released"])
    assert (released.hidden, released.batch_size, released.learning_rate) == (256, 256, 7e-4)
    assert (released.entropy_weight, released.value_weight) == (0.01, 0.5)
    spo = make(PPO, (0,), 17, 6, **PPO.presets["spo"])
    shapes = [layer.weight.shape[2] for layer in spo.actor.net.layers]
    assert shapes == [256, 256, 128, 128, 64, 64, 6]
    assert [layer.weight.shape[2] for layer in spo.critic.layers] == [64, 64, 1]
    assert (spo.config.objective, spo.config.batch_size) == ("spo", 2048 // 4)
