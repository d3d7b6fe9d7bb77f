"""SAC against the Riccati optimum, and its single steps against their formulas."""

from __future__ import annotations

import pytest
import torch

import algos
from tests.helpers.updates import LinearQuadratic, make_small, random_batch, same, weights

SAC = algos.load("sac")


def test_the_optimum_of_the_test_is_one() -> None:
    """Changing the Riccati gain in any direction lowers the return."""
    gain = LinearQuadratic.optimal_gain()
    best = LinearQuadratic.mean_return(lambda x: -x @ gain.T)
    for factor in ([0.8, 1.0], [1.2, 1.0], [1.0, 0.8], [1.0, 1.2]):
        assert LinearQuadratic.mean_return(lambda x, f=factor: -x @ (gain * f).T) < best


def test_critic_target_is_the_soft_bellman_value() -> None:
    agent = make_small(SAC, discount=0.9, initial_temperature=0.5)
    batch = random_batch()
    ends = torch.zeros(1, 16, 1)
    ends[:, ::2] = 1.0
    batch = batch._replace(not_terminal=ends)
    streams = agent.rng.state_dict()
    with torch.no_grad():
        action, log_prob = agent.actor.sample(batch.next_obs, agent.rng)
        value = agent.target(batch.next_obs, action).amin(1) - 0.5 * log_prob
        y = batch.reward[..., 0] + 0.9 * ends[..., 0] * value
        q = agent.critic(batch.obs, batch.action)
        expected = (q[:, 0] - y).square().mean(-1) + (q[:, 1] - y).square().mean(-1)
    agent.rng.load_state_dict(streams)
    actor = weights(agent.actor)
    torch.testing.assert_close(agent.update_critic(batch)["critic_loss"], expected)
    assert same(actor, weights(agent.actor))


@pytest.mark.parametrize(("mode", "moves"), [("learned", True), ("fixed", False)])
def test_temperature_option(mode: str, moves: bool) -> None:
    agent = make_small(SAC, temperature=mode, initial_temperature=0.2)
    before = agent.temperature.value()
    agent.update_actor(random_batch().obs)
    assert (not torch.equal(before, agent.temperature.value())) == moves
    assert before.item() == pytest.approx(0.2)


def test_released_preset_is_the_fixed_weight_of_the_diffusion_papers_baseline() -> None:
    agent = make_small(SAC, **SAC.presets["released"])
    agent.update_actor(random_batch().obs)
    assert agent.temperature.value().item() == pytest.approx(0.2)
    assert agent.target_entropy == -2.0
