"""Define the interface between an algorithm and the runner.

An agent owns its networks, optimisers, memory and random streams. The runner owns
the environment, the clock, evaluation, logging and checkpoints, and knows nothing
about any algorithm. Every array carries a leading axis of R replicas: independent
seeds of one configuration that are trained side by side.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from algos.parts.config import AgentConfig
from algos.parts.precision import arithmetic, compute_dtype
from algos.parts.rng import ReplicaRng
from algos.parts.types import Array, Spaces, Transition

# Distance of a seed for evaluation from that for training. The runner derives seeds by hashing,
# so two streams hardly ever meet. Another number, or a hash of its own, would change the kept
# evaluations of methods that draw noise in evaluation.
EVALUATION_STREAM = 0x5EED
MEMORIES = ("replay", "memory", "rollout")  # components of these names hold experience


class Agent(ABC):
    """Base of every algorithm: one file in `algos/`, one subclass.

    The class facts below are read by the runner, the checks and the docs.

    Every attribute with `state_dict` and `load_state_dict` (networks, optimisers, memories,
    counters) is saved and restored under its name. So what changes the future has to be such
    an attribute, or inside one; an object that is not to be saved is kept in a tuple.
    """

    title: ClassVar[str]
    """Name in tables and figures."""
    paper: ClassVar[str]
    """Reference of the algorithm."""
    Config: ClassVar[type[AgentConfig]]
    """Options with their defaults: the correct reading of paper and code."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named sets of options; `released` is the authors' code, `quick` a reduced cost."""
    task_overrides: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Per-task options published with the method, by task id."""
    observation_kinds: ClassVar[tuple[str, ...]] = ("state",)
    """Kinds of observation that it takes: `state`, `pixels`."""
    on_policy: ClassVar[bool] = False
    """True if it learns only from what the current policy collects."""
    max_replicas: ClassVar[int | None] = None
    """Largest R that it takes; None is any."""
    rule_exceptions: ClassVar[Mapping[str, str]] = {}
    """Rules of `runners.check` that cannot hold for it, each with the reason."""

    config: AgentConfig
    """The options of this agent; a subclass annotates its own `Config`, so that mypy knows them."""
    arithmetic: str
    """What the large matrix products are done in: `precision`, or what this machine has for it."""
    dtype: torch.dtype
    """Data type of the large matrix products."""
    notice: str | None = None
    """What a person should know of this agent's work, in one line; the runner shows it."""

    def __init__(
        self,
        spaces: Spaces,
        config: AgentConfig,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> None:
        """Build networks, optimisers and memory for `len(seeds)` replicas.

        Raises:
            ValueError: more seeds than the agent takes replicas.
        """
        if self.max_replicas is not None and len(seeds) > self.max_replicas:
            raise ValueError(
                f"{self.title} takes at most {self.max_replicas} replicas, not {len(seeds)}"
            )
        self.spaces = spaces
        self.config = config
        self.device = torch.device(device)
        self.replicas = len(seeds)
        self.arithmetic = arithmetic(config.precision, self.device)
        self.dtype = compute_dtype(config.precision, self.device)
        self.rng = ReplicaRng(seeds, self.device)
        # Evaluation draws from streams of its own, so that how often one
        # evaluates never changes what is learned.
        self.eval_rng = ReplicaRng([seed + EVALUATION_STREAM for seed in seeds], self.device)

    def act(self, obs: Array, explore: bool) -> Array:
        """Choose actions.

        Args:
            obs: `[R, N, *obs_shape]`; N is 1 in training and the number of
                parallel episodes in evaluation. Pixels are uint8.
            explore: True while collecting data, False in evaluation.

        Returns:
            Actions `[R, N, action_dim]`, float32 in [-1, 1].
        """
        with torch.inference_mode():
            tensor = torch.as_tensor(np.ascontiguousarray(obs, self.obs_dtype), device=self.device)
            rng = self.rng if explore else self.eval_rng
            action = self.policy(tensor, explore, rng)
            return action.clamp_(-1.0, 1.0).float().cpu().numpy()

    @property
    def obs_dtype(self) -> type:
        """Type of the numbers of an observation."""
        return np.uint8 if self.spaces.pixels else np.float32

    @abstractmethod
    def policy(self, obs: Tensor, explore: bool, rng: ReplicaRng) -> Tensor:
        """Actions `[R, N, action_dim]` for `obs` `[R, N, *obs_shape]`, all noise from `rng`."""

    @abstractmethod
    def observe(self, transition: Transition) -> None:
        """Store one step of every replica."""

    @abstractmethod
    def update(self) -> dict[str, Tensor]:
        """Do the learning that one environment step pays for.

        Returns:
            Metrics of this update, each `[R]` and still on the device (the runner
            reads them now and then; an update never waits for the host). Empty
            while there is nothing to learn from.
        """

    def components(self) -> dict[str, Any]:
        """Return what is saved, by name, but for both random streams.

        These are the attributes with `state_dict` and `load_state_dict`, in the order in
        which they were assigned; an object with several names goes by the first.
        """
        found: dict[int, tuple[str, Any]] = {}
        for name, value in vars(self).items():
            saved = hasattr(value, "state_dict") and hasattr(value, "load_state_dict")
            if saved and value is not self.rng and value is not self.eval_rng:
                found.setdefault(id(value), (name, value))
        return dict(found.values())

    def policy_state(self) -> dict[str, Any]:
        """Return what `act` reads without exploring: all components but memories and optimisers."""
        return {name: part.state_dict() for name, part in self._policy_parts().items()}

    def load_policy(self, state: Mapping[str, Any]) -> None:
        """Act like the agent whose `policy_state` this is; nothing else is taken over."""
        for name, part in self._policy_parts().items():
            part.load_state_dict(state[name])

    def _policy_parts(self) -> dict[str, Any]:
        return {
            name: part
            for name, part in self.components().items()
            if name not in MEMORIES and not isinstance(part, torch.optim.Optimizer)
        }

    def hot_loops(self) -> dict[str, Callable[[], object]]:
        """Inner loops that `runners.bench` times on their own, by name."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """All that decides what this agent does next: weights, memory, streams, counters."""
        parts = {"rng": self.rng, "eval_rng": self.eval_rng, **self.components()}
        return {name: part.state_dict() for name, part in parts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken."""
        parts = {**self.components(), "rng": self.rng, "eval_rng": self.eval_rng}
        for name, part in parts.items():
            part.load_state_dict(state[name])
