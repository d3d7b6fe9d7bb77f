"""Do what every off-policy agent does the same way: memory, warm-up, one update per step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from algos.base.agent import Agent
from algos.parts.capture import CapturedUpdate
from algos.parts.config import AgentConfig, option
from algos.parts.frames import FrameReplay
from algos.parts.replay import Batch, Replay
from algos.parts.rng import ReplicaRng
from algos.parts.types import Spaces, Transition
from algos.parts.vision import Vision, random_shift


@dataclass(frozen=True, kw_only=True)
class OffPolicyConfig(AgentConfig):
    """Options of agents with a replay memory."""

    random_steps: int = option(10_000, "steps of uniform random actions before learning", low=0)
    replay_capacity: int = option(1_000_000, "transitions kept", low=1)
    tau: float = option(0.005, "rate of the target networks", low=0.0, high=1.0)
    time_limit_terminal: bool = option(
        False, "treat a time limit as the end of the task (a fault of some released code)"
    )


class OffPolicyAgent(Agent):
    """Uniform random actions first, then one `learn` per step.

    A subclass builds its networks in `build`, learns in `learn`, and acts in `exploit`.

    An agent for vectors becomes one for pixels by DrQ-v2's encoder: `vision` turns images
    into `obs_dim` features, and these are what `sample`, `see` and `policy` hand out. The
    agent has to train `vision` with its critic (`with_vision`), keep all other gradients
    away from it (`obs.detach()`), and name both in `observation_kinds`.

    On a GPU `learn` is captured as a CUDA graph, if `phase` says that it can be: then it may
    not wait for the host, changes tensors in place, and leaves to `anneal` and `phase` all
    that depends on numbers of Python such as `counters`.

    Attributes:
        vision: the encoder, None if observations are vectors.
        obs_dim: size of what the networks read.
        replay: the memory.
        counters: steps and updates so far.
        capture: False lets every update run as it is written.
        captured: the captured updates.
    """

    config: OffPolicyConfig
    capture = True

    def __init__(
        self,
        spaces: Spaces,
        config: AgentConfig,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(spaces, config, seeds, device)
        self.vision = self.make_vision() if spaces.pixels else None
        self.obs_dim = spaces.obs_shape[0] if self.vision is None else self.vision.dim
        self.replay = self.make_replay()
        self.counters = Counters()
        self.captured = CapturedUpdate(self.rng)
        self.build()

    def make_vision(self) -> Any:
        """Return the encoder for pixels, a module with a `dim`; None if there are other ways."""
        return Vision(self.rng, self.spaces.obs_shape, self.dtype)

    def make_replay(self) -> Any:
        """Return the memory for this kind of observation."""
        c = self.config
        kind = FrameReplay if self.spaces.pixels else Replay
        return kind(
            self.spaces,
            self.replicas,
            c.replay_capacity,
            self.device,
            time_limit_terminal=c.time_limit_terminal,
        )

    @abstractmethod
    def build(self) -> None:
        """Make networks and optimisers; initial weights come from `self.rng`."""

    @abstractmethod
    def exploit(self, obs: Tensor, explore: bool, rng: ReplicaRng) -> Tensor:
        """Return the learned policy's actions; arguments as in `Agent.policy`."""

    @abstractmethod
    def learn(self) -> dict[str, Tensor]:
        """Learn from one step, on batches from `sample`; return metrics `[R]`."""

    def policy(self, obs: Tensor, explore: bool, rng: ReplicaRng) -> Tensor:
        """Uniform over [-1, 1] for the first `random_steps` steps, then `exploit`."""
        if explore and self.counters.steps < self.config.random_steps:
            return rng.uniform(obs.shape[1], self.spaces.action_dim, low=-1.0, high=1.0)
        return self.exploit(obs if self.vision is None else self.vision(obs), explore, rng)

    def observe(self, transition: Transition) -> None:
        """See `Agent.observe`."""
        self.replay.add(transition)
        self.counters.steps += 1

    def update(self) -> dict[str, Tensor]:
        """See `Agent.update`; nothing happens during the random steps."""
        if self.counters.steps <= self.config.random_steps:
            return {}
        self.counters.updates += 1
        self.anneal()
        if not self.may_capture:
            return self.learn()
        metrics = self.captured(self.learn, self.phase())
        self.notice = self.captured.notice
        return metrics

    @property
    def may_capture(self) -> bool:
        """Whether updates may be captured; those from pixels draw their batches on the host."""
        return self.capture and self.device.type == "cuda" and not self.spaces.pixels

    def phase(self) -> Hashable:
        """Which operations this `learn` does; None, the default, if it cannot be captured."""
        return None

    def anneal(self) -> None:
        """Bring what depends on `counters` up to date before `learn`, in place."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Agent.load_state_dict`."""
        super().load_state_dict(state)
        self.captured.forget()  # optimisers have new tensors now

    def sample(self, count: int = 1) -> list[Batch]:
        """`count` fresh uniform batches; observations as the networks read them.

        Of pixels, `obs` are features that pass gradients on to `vision`; `next_obs` do not.
        """
        batches = self.replay.sample(self.config.batch_size, self.rng, count)
        if self.vision is None:
            return batches
        return [
            b._replace(obs=self.see(b.obs, learn=True), next_obs=self.see(b.next_obs))
            for b in batches
        ]

    def see(self, obs: Tensor, learn: bool = False) -> Tensor:
        """Features `[R, B, obs_dim]` of observations from memory, images shifted at random.

        Args:
            obs: as `replay` gives them.
            learn: whether gradients flow to `vision`.
        """
        if self.vision is None:
            return obs
        with torch.set_grad_enabled(learn):
            return self.vision(random_shift(obs, self.rng))

    def with_vision(self, *modules: nn.Module) -> list[nn.Parameter]:
        """Weights of `modules` and of the encoder: what the critic's loss trains."""
        encoder = [] if self.vision is None else [self.vision]
        return [p for module in (*modules, *encoder) for p in module.parameters()]


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
