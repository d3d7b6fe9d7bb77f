"""PolyGRAD: how its world model is averaged, its actor-critic steps, and the rhythm of both."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from algos import polygrad
from algos.parts.advantages import lambda_advantages
from tests.helpers.polygrad import PolyGRAD, filled, some_windows
from tests.helpers.updates import Drift, drive, make_small, same, transition, weights


def test_defaults_and_presets() -> None:
    c = PolyGRAD.Config()
    assert (c.horizon, c.diffusion_steps, c.denoiser_hidden, c.denoiser_layers) == (
        10,
        128,
        1024,
        6,
    )
    assert (c.batch_size, c.imagined_batch, c.update_every, c.denoiser_updates) == (256, 1024, 4, 4)
    assert (c.actor_learning_rate, c.critic_learning_rate, c.denoiser_learning_rate) == (
        3e-5, 3e-4, 3e-4,
    )  # fmt: skip
    assert (c.guidance_scale, c.guidance_learning_rate, c.action_clip) == (0.005, 3e-3, 3.0)
    assert {o["schedule_tau"] for o in PolyGRAD.task_overrides.values()} == {0.1}
    assert set(PolyGRAD.task_overrides) == {
        *("mbbl/Hopper", "mbbl/Hopper-ET"),
        *("gym/Hopper-v4", "gym/Hopper-v5"),
    }
    assert PolyGRAD.presets["released"] == {
        "truncated_padding": "zeros", "overshoot": True, "line_search": "released",
        "log_prob_floor": 0.0,
    }  # fmt: skip


def test_the_average_is_a_copy_at_first_and_moves_at_every_tenth_update() -> None:
    agent = filled(denoiser_updates=4, ema_start=20)
    after = []
    for _ in range(6):  # updates 0 .. 23
        agent.update_denoiser()
        agent.counters.updates += 1
        after.append((weights(agent.averaged), weights(agent.denoiser)))
    moved = [not same(after[k][0], after[k + 1][0]) for k in range(5)]
    assert moved == [False, True, False, False, True]  # at updates 10 (of 8-11) and 20
    assert not same(*after[2])  # a copy, but of update 10
    gap = [(new - old).abs().max() for new, old in zip(after[5][0], after[3][0], strict=True)]
    far = [(new - old).abs().max() for new, old in zip(after[5][1], after[3][0], strict=True)]
    assert 0.0 < float(torch.stack(gap).max()) < 0.5 * float(torch.stack(far).max())


def test_losses_of_actor_and_critic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polygrad, "ENTROPY_WEIGHT", 0.1)
    agent = make_small(PolyGRAD, discount=0.9, tau=0.5)
    with torch.no_grad():
        for p in agent.critic.parameters():  # the target takes half of this before its use
            p.add_(0.3)
    windows = some_windows(agent)
    windows.action[0, 0, 0] = 30.0  # far beyond the floor of the log density
    with torch.no_grad():
        halfway = [0.5 * (p + q) for p, q in zip(
            agent.critic.parameters(), agent.target.parameters(), strict=True)]  # fmt: skip
        for p, q in zip(agent.target.parameters(), halfway, strict=True):
            p.copy_(q)
        value = agent.target(windows.obs.view(1, 72, 3)).view(1, 24, 3)
        a = lambda_advantages(windows.reward, windows.terminal, value, 0.9, 0.9)
        alive = (1.0 - windows.terminal[..., :2]).cumprod(-1)
        keep = torch.ones_like(a, dtype=torch.bool)
        keep[0, 0, 0] = False
        scaled = (a - a[keep].mean()) / a[keep].std()
        mean = agent.actor(windows.obs[:, :, :2].flatten(1, 2)).view(1, 24, 2, 2)
        normal = torch.distributions.Normal(mean, agent.actor.std()[:, None])
        log_p, entropy = normal.log_prob(windows.action[:, :, :2]).sum(-1), normal.entropy().sum(-1)
        actor = (alive * (-log_p * scaled * keep - 0.1 * entropy)).mean()
        v = agent.critic(windows.obs[:, :, :2].flatten(1, 2)).view(1, 24, 2)
        critic = (alive * keep * 0.5 * (v - a - value[..., :2]).square()).mean()
    agent.target.load_state_dict(make_small(PolyGRAD).target.state_dict())
    metrics = agent.update_actor_critic(windows)
    torch.testing.assert_close(metrics["actor_loss"], actor[None], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(metrics["critic_loss"], critic[None], rtol=1e-4, atol=1e-5)
    assert metrics["kept"].item() == pytest.approx(47 / 48)
    for p, q in zip(agent.target.parameters(), halfway, strict=True):
        torch.testing.assert_close(p, q)


def test_gradients_of_mean_and_critic_are_clipped_and_those_of_std_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(polygrad, "MAX_GRAD_NORM", 1e-4)
    agent = make_small(PolyGRAD)
    agent.update_actor_critic(some_windows(agent))
    for module in (agent.actor.net, agent.critic):
        norm = torch.cat([p.grad.flatten() for p in module.parameters()]).norm()
        assert float(norm) == pytest.approx(1e-4, rel=0.02)
    assert float(agent.actor.raw_std.grad.norm()) > 1e-3


@pytest.mark.parametrize("unclipped", [True, False])
def test_actions_are_stored_as_drawn_unless_someone_else_chose_them(unclipped: bool) -> None:
    agent = make_small(PolyGRAD, random_steps=0, store_unclipped=unclipped, initial_std=3.0)
    drawn = []
    for k in range(20):
        action = agent.act(np.zeros((1, 1, 3), np.float32), explore=True)[:, 0]
        drawn.append(agent.drawn.sample[0, 0].copy())
        agent.observe(transition(seed=k, action=action))
    other = np.full((1, 2), 0.25, np.float32)
    agent.observe(transition(seed=20, action=other))
    stored = agent.memory.rows[:21, 5:].numpy()
    expected = np.stack(drawn) if unclipped else np.clip(drawn, -1.0, 1.0)
    assert np.abs(drawn).max() > 1.0
    np.testing.assert_array_equal(stored[:20], expected)
    np.testing.assert_array_equal(stored[20], other[0])


def test_rhythm_of_updates() -> None:
    """Every 4th step after the random ones: 2 denoiser updates, and later the actor-critic."""
    agent = make_small(
        PolyGRAD, random_steps=10, agent_start=16, update_every=4, denoiser_updates=2
    )
    task, when = Drift((0,), 3, 2), {"denoiser": [], "actor": [], "reported": []}
    denoise, imagine = agent.denoiser.loss, agent.imagine
    agent.denoiser.loss = lambda *a: when["denoiser"].append(agent.counters.steps) or denoise(*a)
    agent.imagine = lambda obs: when["actor"].append(agent.counters.steps) or imagine(obs)
    for _ in range(34):
        _, (metrics,) = drive(agent, task, 1)
        if metrics:
            when["reported"].append(agent.counters.steps)
    assert when["denoiser"] == [14, 14, 18, 18, 22, 22, 26, 26, 30, 30, 34, 34]
    assert when["actor"] == [26, 30, 34]
    assert when["reported"] == when["actor"]


def test_terminated_and_truncated_windows_teach_different_things() -> None:
    """A time limit is no terminal anywhere in memory; the end of a task is one."""
    for ends in ("terminated", "truncated"):
        agent = make_small(PolyGRAD, random_steps=0)
        for k in range(40):
            agent.observe(transition(seed=k, **{ends: k % 8 == 7}))
        terminal = agent.memory.sample(200, agent.rng)[..., 4]
        assert bool(terminal.any()) == (ends == "terminated")
    agent.update()
    assert agent.imagine(agent.memory.start_states(20, agent.rng)).terminal.sum() == 0


def test_hot_loop_is_one_imagined_batch() -> None:
    agent = filled(imagined_batch=12)
    windows = agent.hot_loops()["imagine"]()
    assert windows.obs.shape == (1, 12, 3, 3)


def test_random_steps_are_uniform_and_not_the_policy() -> None:
    agent = make_small(PolyGRAD, random_steps=1)
    obs = np.zeros((1, 2000, 3), np.float32)
    for inside, uniform in ((True, True), (False, False)):
        action = agent.act(obs, explore=True)
        assert (np.abs(action).max() < 1.0) == inside  # a Gaussian of std 1 is clamped
        assert (abs(np.square(action).mean() - 1.0 / 3.0) < 0.03) == uniform
        agent.observe(transition())
