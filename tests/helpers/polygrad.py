"""Agents and windows that the tests of PolyGRAD and of its parts share."""

from __future__ import annotations

from typing import Any

import torch

import algos
from algos.parts.imagination import Windows
from tests.helpers.updates import Drift, make_small

PolyGRAD = algos.load("polygrad")
CPU = torch.device("cpu")


def filled(steps: int = 60, **options: Any) -> Any:
    """A small agent past its random steps, with episodes of its own in memory."""
    agent = make_small(PolyGRAD, random_steps=steps, replay_capacity=1000, **options)
    task = Drift((0,), 3, 2)
    for _ in range(steps):
        action = agent.act(task.obs[:, None], explore=True)[:, 0]
        agent.observe(task.step(action))
    return agent


def some_windows(agent: Any, size: int = 24, horizon: int = 3) -> Windows:
    """Windows whose actions the policy drew, some of which end."""
    g = torch.Generator().manual_seed(0)
    obs = torch.randn(1, size, horizon, 3, generator=g)
    with torch.no_grad():
        mean = agent.actor(obs.flatten(1, 2)).view(1, size, horizon, 2)
        action = mean + agent.actor.std() * torch.randn(mean.shape, generator=g)
    terminal = (torch.rand(1, size, horizon, generator=g) < 0.2).float()
    return Windows(obs, action, torch.randn(1, size, horizon, generator=g), terminal)
