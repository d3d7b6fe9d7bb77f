"""The worked example is an algorithm that learns; its rules are in test_algos_every_agent."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import pytest
import torch
from algo_helpers import (
    Drift,
    LinearQuadratic,
    drive,
    load_template,
    make,
    make_small,
    random_batch,
    same,
    weights,
)

from algos.agent import Agent


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


def test_a_copy_learns_the_linear_quadratic_task(template: type[Agent]) -> None:
    """90 % of the way from doing nothing to the Riccati optimum; see `fraction_of_optimum`."""
    options = {"discount": LinearQuadratic.DISCOUNT, "random_steps": 500, "tau": 0.02}
    small = {"hidden": 64, "batch_size": 64, "learning_rate": 3e-3, "replay_capacity": 10_000}
    noise = {"exploration_noise": 0.3}
    agent = make(template, (0,), 2, 1, precision="float32", **options, **small, **noise)
    LinearQuadratic.train(agent, 2500)
    assert LinearQuadratic.fraction_of_optimum(agent) > 0.9


def test_exploration_adds_gaussian_noise(template: type[Agent]) -> None:
    agent = make_small(template, random_steps=0, exploration_noise=0.1)
    obs = torch.zeros(1, 5000, 3).numpy()
    quiet, loud = agent.act(obs, explore=False), agent.act(obs, explore=True)
    assert float(quiet.std(axis=1).max()) < 1e-4
    assert float((loud - quiet).std()) == pytest.approx(0.1, rel=0.05)


def test_the_target_noise_is_clipped(template: type[Agent]) -> None:
    agent = make_small(template, target_noise=100.0, target_clip=0.0, discount=0.9)
    batch = random_batch()
    with torch.no_grad():
        action = torch.tanh(agent.actor_target(batch.next_obs))
        y = batch.reward[..., 0] + 0.9 * agent.critic_target(batch.next_obs, action).amin(1)
        q = agent.critic(batch.obs, batch.action)
    expected = (q - y[:, None]).square().mean(-1).sum(-1)
    torch.testing.assert_close(agent.update_critic(batch)["critic_loss"], expected)


def test_the_actor_and_the_targets_move_every_second_update(template: type[Agent]) -> None:
    agent = make_small(template)
    task = Drift((0,), 3, 2)
    drive(agent, task, 4)
    for update in range(1, 5):
        modules = (agent.actor, agent.actor_target, agent.critic_target)
        before = [weights(m) for m in modules]
        drive(agent, task, 1)
        assert [same(b, weights(m)) for b, m in zip(before, modules, strict=True)] == (
            [bool(update % 2)] * 3
        )
