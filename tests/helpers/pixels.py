"""Tiny pictures that the tests of pixel agents share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from algos.base.agent import Agent
from algos.parts.config import build_config
from algos.parts.rng import ReplicaRng
from algos.parts.types import Spaces, Transition

SIDE = 20  # the smallest picture that four convolutions leave something of
CPU = torch.device("cpu")

# Options that make an agent for pixels cheap; those an agent does not have are left out.
SMALL: dict[str, Any] = {
    "random_steps": 4,
    "batch_size": 6,
    "replay_capacity": 60,
    "precision": "float32",
    "update_every": 1,
    "hidden": 16,
    "trunk_dim": 8,
    "feature_dim": 6,
    "noises": 5,
    "noise_steps": 100,
}


def stream(*seeds: int) -> ReplicaRng:
    """Random streams on the CPU, by default of seed 0."""
    return ReplicaRng(seeds or [0], CPU)


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random bytes."""
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=g, dtype=torch.uint8)


def make_small(
    cls: type[Agent], seeds: Sequence[int] = (0,), frames: int = 2, action_dim: int = 2, **options
) -> Any:
    """A small agent for stacks of tiny frames; `options` win over `SMALL`."""
    small = {k: v for k, v in SMALL.items() if k in cls.Config.__dataclass_fields__}
    spaces = Spaces((3 * frames, SIDE, SIDE), action_dim)
    return cls(spaces, build_config(cls.Config, small | options), seeds)


def make_stacked(cls: type[Agent], obs_shape: tuple[int, ...], action_dim: int, **options) -> Any:
    """An agent of one replica for pictures of any size, with exactly `options` changed."""
    return cls(Spaces(obs_shape, action_dim), build_config(cls.Config, options), (0,))


def feed(agent: Any, steps: int, seed: int = 0) -> None:
    """Let every replica observe random pictures, actions and rewards; nothing is learned."""
    rng, (channels, *size) = np.random.default_rng(seed), agent.spaces.obs_shape
    replicas = agent.replicas
    obs = np.zeros((replicas, channels, *size), np.uint8)
    for step in range(steps):
        frame = rng.integers(0, 256, (replicas, 3, *size), np.uint8)
        next_obs = np.concatenate([obs[:, 3:], frame], axis=1)
        action = rng.uniform(-1, 1, (replicas, agent.spaces.action_dim)).astype(np.float32)
        reward = rng.normal(size=replicas).astype(np.float32)
        cut = np.full(replicas, step % 12 == 11)
        agent.observe(Transition(obs, action, reward, next_obs, np.zeros_like(cut), cut))
        obs = np.zeros_like(obs) if cut[0] else next_obs


class Stripe:
    """Episodes of one step: where a bright stripe stands tells the best action.

    Stripes stand at x from -1 at the left edge to 1 at the right. The reward is -(a - x)², so
    that the best action is x; or, `linear`, a x, so that it is the sign of x.
    """

    WIDTH = 4
    PLACES = np.linspace(-1.0, 1.0, SIDE - WIDTH + 1)

    def __init__(self, seed: int, linear: bool = False) -> None:
        self.rng, self.linear = np.random.default_rng(seed), linear
        self.place = self.next_place()

    def next_place(self) -> int:
        return int(self.rng.integers(len(self.PLACES)))

    def reward(self, action: np.ndarray, x: np.ndarray) -> np.ndarray:
        return action * x if self.linear else -np.square(action - x)

    def picture(self, place: int) -> np.ndarray:
        image = np.zeros((3, SIDE, SIDE), np.uint8)
        image[:, :, place : place + self.WIDTH] = 255
        return image

    def train(self, agent: Any, steps: int) -> None:
        """Let `agent` collect and learn for `steps` episodes."""
        end = np.ones(1, bool)
        for _ in range(steps):
            obs, x = self.picture(self.place)[None], self.PLACES[self.place]
            action = agent.act(obs[None], explore=True)[0]
            self.place = self.next_place()
            next_obs, reward = self.picture(self.place)[None], self.reward(action[:, 0], x)
            agent.observe(Transition(obs, action, np.float32(reward), next_obs, end, ~end))
            agent.update()

    def fraction_of_optimum(self, agent: Any) -> float:
        """How far the evaluation policy is from no action (0) to the best one (1)."""
        x = self.PLACES
        obs = np.stack([self.picture(place) for place in range(len(x))])[None]
        chosen, optimal = agent.act(obs, explore=False)[0, :, 0], np.sign(x) if self.linear else x
        actions = (0.0 * x, optimal, chosen)
        idle, best, reached = (float(self.reward(action, x).mean()) for action in actions)
        return (reached - idle) / (best - idle)
