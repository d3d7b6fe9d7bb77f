"""The worked example is an algorithm that learns; its rules are in test_algos_every_agent."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from algos.base.agent import Agent
from tests.helpers.updates import LinearQuadratic, load_template, make, make_small, random_batch


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> type[Agent]:
    return load_template(Path(tmp_path_factory.mktemp("algos")) / "mine.py")


def test_a_copy_defines_exactly_one_algorithm(template: type[Agent]) -> None:
    """The rule by which `algos` finds the algorithm of a file."""
    module = sys.modules[template.__module__]
    found = [
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if member.__module__ == module.__name__
        and issubclass(member, Agent)
        and not inspect.isabstract(member)
    ]
    assert found == [template]


@pytest.mark.extended
def test_a_copy_learns_the_linear_quadratic_task(template: type[Agent]) -> None:
    """90 % of the way from doing nothing to the Riccati optimum; see `fraction_of_optimum`."""
    options = {"discount": LinearQuadratic.DISCOUNT, "random_steps": 500, "tau": 0.05}
    small = {"hidden": 64, "batch_size": 64, "replay_capacity": 10_000, "exploration_noise": 0.5}
    rates = {"actor_learning_rate": 1e-3, "critic_learning_rate": 2e-3}
    agent = make(template, (0,), 2, 1, precision="float32", **options, **small, **rates)
    LinearQuadratic.train(agent, 2500)
    assert LinearQuadratic.fraction_of_optimum(agent) > 0.9


def test_exploration_adds_gaussian_noise(template: type[Agent]) -> None:
    agent = make_small(template, random_steps=0, exploration_noise=0.1)
    obs = np.zeros((1, 5000, 3), np.float32)
    quiet, loud = agent.act(obs, explore=False), agent.act(obs, explore=True)
    assert float(quiet.std(axis=1).max()) < 1e-4
    assert float((loud - quiet).std()) == pytest.approx(0.1, rel=0.05)


def test_the_critic_regresses_onto_the_value_of_the_target_policy(template: type[Agent]) -> None:
    agent = make_small(template, (0, 1), discount=0.9)
    with torch.no_grad():  # targets that differ from the online networks
        for p in [*agent.actor_target.parameters(), *agent.critic_target.parameters()]:
            p.mul_(1.5)
    batch = random_batch(2)
    ends = torch.ones(2, 16, 1)
    ends[:, ::3] = 0.0
    batch = batch._replace(not_terminal=ends)
    with torch.no_grad():
        action = torch.tanh(agent.actor_target(batch.next_obs))
        y = batch.reward + 0.9 * ends * agent.critic_target(batch.next_obs, action)
        expected = (agent.critic(batch.obs, batch.action) - y).square().flatten(1).mean(-1)
    torch.testing.assert_close(agent.update_critic(batch)["critic_loss"], expected)


def test_the_actor_step_raises_the_critics_value(template: type[Agent]) -> None:
    agent, obs = make_small(template), random_batch().obs

    def value() -> float:
        with torch.no_grad():
            return float(agent.critic(obs, torch.tanh(agent.actor(obs))).mean())

    before = value()
    loss = agent.update_actor(obs)["actor_loss"]
    assert loss.item() == pytest.approx(-before, rel=1e-5)
    assert value() > before
