"""Rules that hold for every algorithm on states, and for a copy of the template."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import algos
from algos.base.agent import Agent
from algos.base.offpolicy import OffPolicyAgent
from tests.helpers.updates import (
    STATES,
    Drift,
    drive,
    group,
    load_template,
    make,
    random_batch,
    snapshot,
    transition,
)
from tests.helpers.updates import make_small as make_any

NAMES = [*STATES, "template"]


@pytest.fixture(scope="module", params=NAMES)
def cls(request, tmp_path_factory) -> type[Agent]:
    if request.param != "template":
        return algos.load(request.param)
    return load_template(Path(tmp_path_factory.mktemp("template")) / "copied_template.py")


def has(cls: type[Agent], option: str) -> bool:
    """Whether the agent has an option of this name."""
    return option in cls.Config.__dataclass_fields__


def make_small(cls: type[Agent], *args, **options):
    """A small agent; one that learns from rollouts does so after every fourth step."""
    own = {"rollout_steps": 4} if has(cls, "rollout_steps") else {}
    return make_any(cls, *args, **(own | options))


def tensors(state, prefix: str = "") -> dict[str, torch.Tensor]:
    """All tensors of a nested state, by path."""
    if isinstance(state, torch.Tensor):
        return {prefix: state}
    found: dict[str, torch.Tensor] = {}
    if isinstance(state, dict):
        for name, part in state.items():
            found |= tensors(part, f"{prefix}/{name}")
    elif isinstance(state, list | tuple):
        for k, part in enumerate(state):
            found |= tensors(part, f"{prefix}/{k}")
    return found


def test_facts_are_declared(cls: type[Agent]) -> None:
    assert cls.title
    assert any(word.isdigit() and len(word) == 4 for word in cls.paper.replace(",", "").split())
    assert set(cls.observation_kinds) <= {"state", "pixels"}
    assert cls.max_replicas is None or cls.max_replicas >= 1
    if cls.max_replicas is not None:
        with pytest.raises(ValueError, match=f"at most {cls.max_replicas} replicas"):
            make_any(cls, range(cls.max_replicas + 1))


def test_actions_have_the_right_shape_and_range(cls: type[Agent]) -> None:
    agent = make_small(cls, group(cls, 0, 1))
    replicas = agent.replicas
    obs = np.random.default_rng(0).normal(size=(replicas, 7, 3)).astype(np.float32) * 100.0
    for step in range(6):  # the random steps and those after
        for explore in (True, False):
            action = agent.act(obs, explore)
            assert action.shape == (replicas, 7, 2)
            assert action.dtype == np.float32
            assert np.abs(action).max() <= 1.0
        agent.observe(transition(replicas, seed=step))


def test_no_learning_before_the_random_steps_are_over(cls: type[Agent]) -> None:
    if not has(cls, "random_steps"):
        pytest.skip("takes no random steps")
    agent = make_small(cls, random_steps=5)
    for step in range(7):
        # Episodes of three steps: some agents learn from whole ones only.
        agent.observe(transition(seed=step, terminated=step % 3 == 2))
        assert bool(agent.update()) == (step >= 5)


def test_metrics_are_one_finite_number_per_replica(cls: type[Agent]) -> None:
    seeds = group(cls, 0, 1)
    _, metrics = drive(make_small(cls, seeds), Drift(seeds, 3, 2), 10)
    named = [m for m in metrics if m]
    assert all(set(m) == set(named[0]) for m in named)
    for m in named:
        for name, value in m.items():
            assert value.shape == (len(seeds),), name
            assert torch.isfinite(value).all(), name
            assert not value.requires_grad, name


def test_a_replica_in_a_group_equals_its_seed_alone(cls: type[Agent]) -> None:
    if cls.max_replicas == 1:
        pytest.skip("takes one replica only")
    seeds, steps = (3, 7), 10
    group = make_small(cls, seeds)
    start = {k: v.clone() for k, v in tensors(group.state_dict()).items()}
    together, _ = drive(group, Drift(seeds, 3, 2), steps)
    moved = [
        not torch.equal(v, start[k]) for k, v in tensors(group.state_dict()).items() if k in start
    ]
    assert any(moved)
    for r, seed in enumerate(seeds):
        alone = make_small(cls, (seed,))
        actions, _ = drive(alone, Drift((seed,), 3, 2), steps)
        # Adam divides by the root of squared gradients, which magnifies rounding where a
        # gradient is near zero; the updates themselves are about 1e-3 in size.
        np.testing.assert_allclose(together[:, r], actions[:, 0], atol=2e-5)
        for name, part in group.components().items():
            if not isinstance(part, nn.Module):
                continue
            pairs = zip(part.parameters(), alone.components()[name].parameters(), strict=True)
            for p, q in pairs:
                copies = q.shape[0]
                rows = slice(r * copies, (r + 1) * copies)
                torch.testing.assert_close(p[rows], q, atol=2e-5, rtol=1e-4, msg=name)
                if q.grad is not None:
                    size = float(q.grad.abs().max())
                    torch.testing.assert_close(
                        p.grad[rows], q.grad, atol=1e-3 * size + 1e-7, rtol=1e-3, msg=name
                    )


def test_same_seed_twice_is_identical_and_another_is_not(cls: type[Agent]) -> None:
    runs = [drive(make_small(cls, (s,)), Drift((0,), 3, 2), 9)[0] for s in (1, 1, 2)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


def test_state_round_trip_continues_exactly(cls: type[Agent]) -> None:
    agent = make_small(cls, group(cls, 0, 1))
    drive(agent, Drift(group(cls, 0, 1), 3, 2), 9)
    obs = np.zeros((agent.replicas, 4, 3), np.float32)
    agent.act(obs, explore=False)
    state = snapshot(agent)
    restored = make_small(cls, group(cls, 5, 6))
    restored.load_state_dict(state)
    runs = [drive(a, Drift(group(cls, 8, 9), 3, 2), 7)[0] for a in (agent, restored)]
    np.testing.assert_array_equal(runs[0], runs[1])
    evaluations = [a.act(obs, explore=False) for a in (agent, restored)]
    np.testing.assert_array_equal(*evaluations)
    ours, theirs = tensors(agent.state_dict()), tensors(restored.state_dict())
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def test_a_component_added_to_an_agent_is_saved_without_a_word(cls: type[Agent]) -> None:
    class Extended(cls):
        def __init__(self, *args) -> None:
            super().__init__(*args)
            self.extra = nn.Linear(3, 2)
            self.again = self.extra  # the same object, saved once
            self.parts = (nn.Linear(3, 2),)

    saved, loaded = (make_small(Extended, (seed,)) for seed in (0, 1))
    nn.init.constant_(saved.extra.weight, 0.25)
    state = snapshot(saved)
    assert state.keys() == make_small(cls).state_dict().keys() | {"extra"}
    loaded.load_state_dict(state)
    torch.testing.assert_close(loaded.extra.weight, saved.extra.weight, atol=0.0, rtol=0.0)
    fresh = make_small(Extended, (2,))
    fresh.load_policy(saved.policy_state())
    assert torch.equal(fresh.extra.weight, saved.extra.weight)


def test_components_list_every_network_and_optimiser(cls: type[Agent]) -> None:
    agent = make_small(cls)
    listed = {id(part) for part in agent.components().values()}
    for name, value in vars(agent).items():
        if isinstance(value, nn.Module | torch.optim.Optimizer) or hasattr(value, "state_dict"):
            streams = ("rng", "eval_rng")
            assert id(value) in listed or name in streams, f"components() lacks {name}"


def test_evaluating_never_changes_what_is_learned(cls: type[Agent]) -> None:
    quiet, busy = make_small(cls), make_small(cls)
    expected, _ = drive(quiet, Drift((0,), 3, 2), 10)
    task, actions = Drift((0,), 3, 2), []
    for _ in range(10):
        actions.append(drive(busy, task, 1)[0])
        busy.act(np.ones((1, 5, 3), np.float32), explore=False)
    np.testing.assert_array_equal(np.concatenate(actions), expected)


def test_global_generators_are_untouched(cls: type[Agent]) -> None:
    legacy = np.random.mtrand._rand  # the generator behind np.random.normal and the like
    before = torch.random.get_rng_state(), legacy.get_state()[1].copy(), random.getstate()
    agent = make_small(cls)
    drive(agent, Drift((0,), 3, 2), 8)
    agent.act(np.zeros((1, 2, 3), np.float32), explore=False)
    assert torch.equal(before[0], torch.random.get_rng_state())
    np.testing.assert_array_equal(before[1], legacy.get_state()[1])
    assert before[2] == random.getstate()


def learned_value(cls: type[Agent], ends: dict[str, bool], **options) -> float:
    """Mean value of a task that pays 1 at every step, after a few hundred updates."""
    fast = dict.fromkeys(("learning_rate", "actor_learning_rate", "critic_learning_rate"), 0.01)
    quiet = {"temperature": "fixed", "initial_temperature": 1e-6, "feature_updates": 1}
    quiet |= {"normalise_rewards": False, "action_gradient_steps": 1}
    easy = {"discount": 0.5, "tau": 0.1, "random_steps": 20, "hidden": 32}
    given = {name: value for name, value in (fast | quiet | easy).items() if has(cls, name)}
    agent = make_small(cls, **(given | options))
    total = []
    for k in range(280):
        agent.observe(transition(seed=k, obs=0.5, next_obs=0.5, reward=1.0, **ends))
        metrics = agent.update()
        if k >= 250 and metrics:
            total.append(float(metrics["value" if cls.on_policy else "q"]))
    return float(np.mean(total))


# Value of a reward of 1 per step with discount 0.5: 1 / (1 - 0.5) where it goes on.
@pytest.mark.parametrize(
    ("ends", "options", "value"),
    [
        ({"truncated": True}, {}, 2.0),
        pytest.param({"terminated": True}, {}, 1.0, marks=pytest.mark.extended),
        pytest.param(
            {"truncated": True}, {"time_limit_terminal": True}, 1.0, marks=pytest.mark.extended
        ),
    ],
    ids=["time limit", "termination", "time limit as terminal"],
)
def test_a_time_limit_bootstraps_and_a_termination_does_not(
    cls: type[Agent], ends: dict[str, bool], options: dict[str, bool], value: float
) -> None:
    if not has(cls, "time_limit_terminal"):
        pytest.skip("does not learn from single transitions")
    assert learned_value(cls, ends, **options) == pytest.approx(value, rel=0.04)


def test_the_actor_step_gives_the_critic_no_gradients(cls: type[Agent]) -> None:
    if not issubclass(cls, OffPolicyAgent) or not hasattr(cls, "update_actor"):
        pytest.skip("no actor step of its own")
    agent = make_small(cls)
    before = [p.detach().clone() for p in agent.critic.parameters()]
    actor = [p.detach().clone() for p in agent.actor.parameters()]
    agent.update_actor(random_batch().obs)
    assert all(p.grad is None for p in agent.critic.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, agent.critic.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(actor, agent.actor.parameters(), strict=True))


def values(agent, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Values of actions, from raw inputs or from features, or of states."""
    if agent.on_policy:
        return agent.critic(obs)
    if hasattr(agent, "features"):
        return agent.critic(agent.features(obs, action))
    return agent.critic(obs, action)


@pytest.mark.usefixtures("bfloat16_products")
def test_bfloat16_agrees_with_float32(cls: type[Agent]) -> None:
    if not has(cls, "time_limit_terminal"):
        pytest.skip("values of imagined states are float32 in any precision")
    wide, half = (make(cls, (0,), 3, 2, precision=p) for p in ("float32", "bfloat16"))
    batch = random_batch(size=64)
    with torch.no_grad():
        exact, rounded = (values(a, batch.obs, batch.action) for a in (wide, half))
    assert rounded.dtype == torch.float32  # a value of 500 must not round to a multiple of 2
    assert float((exact - rounded).abs().max()) < 0.02
    assert float((exact - rounded).abs().max()) > 0.0  # the option has an effect
    for p, q in zip(wide.critic.parameters(), half.critic.parameters(), strict=True):
        assert torch.equal(p, q)
        assert q.dtype == torch.float32
