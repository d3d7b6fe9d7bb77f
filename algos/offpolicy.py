"""What every off-policy agent does the same way: memory, warm-up, one update per step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from algos.agent import Agent, Array, Spaces, Transition
from algos.config import AgentConfig, option
from algos.replay import Batch, Replay
from algos.rng import ReplicaRng


@dataclass(frozen=True, kw_only=True)
class OffPolicyConfig(AgentConfig):
    """Options of agents with a replay memory."""

    random_steps: int = option(
        10_000, "environment steps of uniform random actions before learning", low=0
    )
    replay_capacity: int = option(1_000_000, "transitions kept", low=1)
    tau: float = option(0.005, "rate of the target networks", low=0.0, high=1.0)
    time_limit_terminal: bool = option(
        False, "treat a time limit as the end of the task (a fault of some released code)"
    )


class OffPolicyAgent(Agent):
    """Uniform random actions first, then one `learn` per environment step.

    A subclass builds its networks in `build`, learns in `learn`, and acts in
    `exploit`; `components` adds its networks and optimisers to the memory here.
    """

    def __init__(
        self,
        spaces: Spaces,
        config: Any,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(spaces, config, seeds, device)
        self.obs_dim = spaces.obs_shape[0]
        self.replay = Replay(
            spaces, self.replicas, config.replay_capacity, self.device, config.time_limit_terminal
        )
        self.counters = Counters()
        self.build()

    @abstractmethod
    def build(self) -> None:
        """Make networks and optimisers; initial weights come from `self.rng`."""

    @abstractmethod
    def exploit(self, obs: Tensor, explore: bool, rng: ReplicaRng) -> Tensor:
        """The learned policy's actions; arguments as in `Agent.policy`."""

    @abstractmethod
    def learn(self) -> dict[str, Tensor]:
        """The learning of one step, on batches from `sample`; returns metrics `[R]`."""

    def act(self, obs: Array, explore: bool) -> Array:
        """See `Agent.act`."""
        return super().act(obs.reshape(*obs.shape[:2], -1), explore)

    def policy(self, obs: Tensor, explore: bool, rng: ReplicaRng) -> Tensor:
        """Uniform over [-1, 1] for the first `random_steps` steps, then `exploit`."""
        if explore and self.counters.steps < self.config.random_steps:
            return rng.uniform(obs.shape[1], self.spaces.action_dim, low=-1.0, high=1.0)
        return self.exploit(obs, explore, rng)

    def observe(self, transition: Transition) -> None:
        """See `Agent.observe`."""
        self.replay.add(transition)
        self.counters.steps += 1

    def update(self) -> dict[str, Tensor]:
        """See `Agent.update`; nothing happens during the random steps."""
        if self.counters.steps <= self.config.random_steps:
            return {}
        self.counters.updates += 1
        return self.learn()

    def sample(self, count: int = 1) -> list[Batch]:
        """`count` fresh uniform batches, gathered at once."""
        return self.replay.sample(self.config.batch_size, self.rng, count)

    def components(self) -> dict[str, Any]:
        """Memory and counters; subclasses add their own parts."""
        return {"replay": self.replay, "counters": self.counters}


@dataclass
class Counters:
    """Steps observed and updates done."""

    steps: int = 0
    updates: int = 0

    def state_dict(self) -> dict[str, int]:
        """Both counts."""
        return {"steps": self.steps, "updates": self.updates}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Restore both counts."""
        self.steps, self.updates = int(state["steps"]), int(state["updates"])
