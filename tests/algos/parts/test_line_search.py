"""PolyGRAD's line search: sizes of steps, their cap, and the released reading of trials."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from algos.parts.line_search import LineSearch
from tests.helpers.polygrad import PolyGRAD, some_windows
from tests.helpers.updates import make_small, same, weights


def actor_step(agent: Any, **fields: torch.Tensor) -> dict[str, torch.Tensor]:
    """One actor update on `some_windows` with random advantages."""
    windows = some_windows(agent)
    obs, action = (part[:, :, :-1].flatten(1, 2) for part in windows[:2])
    g = torch.Generator().manual_seed(1)
    advantage = torch.randn(1, 48, generator=g)
    return agent.update_actor(obs, action, advantage, torch.ones(1, 48))


def test_line_search_ends_within_the_tolerance() -> None:
    agent = make_small(PolyGRAD, actor_learning_rate=0.05)
    before = weights(agent.actor)
    metrics = actor_step(agent)
    assert metrics["first_change"].item() > 0.1
    assert metrics["policy_change"].item() == pytest.approx(0.01, rel=0.2)
    # The accepted step is AdamW's, as long as 0.8^k of the rate says.
    shorter = 0.8 ** (metrics["trials"].item() - 1.0)
    twin = make_small(PolyGRAD, actor_learning_rate=0.05 * shorter)
    actor_step(twin)
    for p, q in zip(agent.actor.parameters(), twin.actor.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-6, rtol=1e-4)
    assert not same(before, weights(agent.actor))


def test_line_search_never_exceeds_the_cap() -> None:
    agent = make_small(PolyGRAD, actor_learning_rate=1e-6)
    metrics = actor_step(agent)
    assert metrics["policy_change"].item() < 0.008  # too small, and it stays so
    assert metrics["trials"].item() == 1
    assert metrics["rate"].item() == pytest.approx(1e-6)


def test_released_line_search_steps_std_and_moments_once_per_trial() -> None:
    counts = {}
    for kind in ("same_step", "released"):
        agent = make_small(PolyGRAD, actor_learning_rate=0.02, line_search=kind)
        std = agent.actor.raw_std.detach().clone()
        trials = int(actor_step(agent)["trials"])
        assert 1 < trials <= LineSearch.MAX_TRIALS + 1
        steps = agent.actor_optimizer.state[agent.actor.raw_std]["step"]
        moved = float((agent.actor.raw_std.detach() - std).abs().min())
        counts[kind] = (trials, int(steps), moved)
    trials, steps, moved = counts["same_step"]
    assert steps == 1
    assert moved == pytest.approx(0.02 * 0.8 ** (trials - 1), rel=0.02)  # Adam's first step
    trials, steps, moved = counts["released"]
    assert steps == trials
    whole = 0.02 * sum(0.8**k for k in range(trials))
    assert moved == pytest.approx(whole, rel=0.05)


def test_the_rate_follows_the_first_change_up_to_its_cap() -> None:
    agent = make_small(PolyGRAD)
    cap = math.log(3e-5)
    agent.line_search.adapt_rate(0.05)  # too far: lower
    low = agent.step_size.log_rate.item()
    assert low < cap - 1.5e-4  # half a step of Adam at the rate of 3e-4
    for _ in range(40):
        agent.line_search.adapt_rate(0.0)
    assert agent.step_size.log_rate.item() == pytest.approx(cap)
