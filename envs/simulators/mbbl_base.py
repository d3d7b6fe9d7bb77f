"""What all MBBL environments share: R(o_t, a_t), the step count, noise, and the saved state."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from envs.simulators.mbbl_rewards import Vector

Reward = Callable[[Vector, Vector], float]
Fallen = Callable[[Vector], bool]
NoisyReward = Literal["noisy", "clean"]


class MbblEnv(gymnasium.Env[NDArray[np.float64], NDArray[np.floating[Any]]]):
    """An episode of an MBBL task; subclasses add the physics.

    Observations are float64 vectors. The time limit is the environment's own and comes back as
    `truncated`, falling as `terminated`; the source reports both as one `done`.

    Noise is uniform and enters in `step` only, never at reset. It is drawn from the environment's
    own generator; the source uses numpy's global one, which cannot be seeded for each environment.
    """

    _last_obs: Vector | None = None  # o_t as the reward reads it
    _elapsed: int = 0

    def _set_task(
        self,
        *,
        reward: Reward,
        fallen: Fallen | None,
        max_steps: int,
        obs_noise: float,
        action_noise: float,
        noisy_reward_on: NoisyReward,
    ) -> None:
        """Fix reward, end and noise of the task.

        Args:
            reward: R(o_t, a_t).
            fallen: whether an observation ends the episode, None if none does.
            max_steps: steps until truncation.
            obs_noise: half-width of the noise on every observation component.
            action_noise: half-width of the noise on every action component.
            noisy_reward_on: whether the reward reads the noisy observation, as the source does, or
                the clean one, as the task copies in the SLBO and ME-TRPO repositories do.

        Raises:
            ValueError: if `noisy_reward_on` is neither.
        """
        if noisy_reward_on not in ("noisy", "clean"):
            raise ValueError(f"noisy_reward_on is 'noisy' or 'clean', not {noisy_reward_on!r}")
        self._reward = reward
        self._fallen = fallen
        self._max_steps = max_steps
        self._obs_noise = obs_noise
        self._action_noise = action_noise
        self._clean_reward = noisy_reward_on == "clean"

    @abstractmethod
    def _begin(self) -> None:
        """Draw a start state and set `_last_obs`."""

    @abstractmethod
    def _advance(self, action: Vector) -> None:
        """Move the physics by one control step."""

    @abstractmethod
    def _observe(self) -> Vector:
        """Return a new array with the clean observation of the current state."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Vector, dict[str, Any]]:
        """Start an episode from the task's start distribution.

        Args:
            seed: restarts the generator if given.
            options: ignored; there are none.

        Returns:
            The observation, without noise, and an empty dict.
        """
        gymnasium.Env.reset(self, seed=seed)
        self._elapsed = 0
        self._begin()
        assert self._last_obs is not None
        return self._last_obs.copy(), {}

    def step(
        self, action: NDArray[np.floating[Any]]
    ) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        """Apply one action.

        Args:
            action: `[action_dim]`, any size; the physics clamps it, the reward does not.

        Returns:
            Observation, R(o_t, a_t), terminated, truncated and an empty dict.

        Raises:
            ResetNeeded: if no episode was started.
            ValueError: if the action has the wrong shape.
        """
        if self._last_obs is None:
            raise ResetNeeded("cannot call step() before reset()")
        taken = np.asarray(action, dtype=np.float64)
        if taken.shape != self.action_space.shape:
            raise ValueError(f"action has shape {taken.shape}, not {self.action_space.shape}")
        if self._action_noise:
            taken = self._perturbed(taken, self._action_noise)
        reward = self._reward(self._last_obs, taken)
        self._advance(taken)
        clean = self._observe()
        obs = self._perturbed(clean, self._obs_noise) if self._obs_noise else clean
        self._last_obs = clean if self._clean_reward else obs
        self._elapsed += 1
        terminated = self._fallen is not None and self._fallen(obs)
        # A copy: o_t must survive a caller that writes into what it got.
        return obs.copy(), reward, terminated, self._elapsed >= self._max_steps, {}

    def _perturbed(self, vector: Vector, width: float) -> Vector:
        return vector + self.np_random.uniform(-width, width, vector.shape)

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Return the state beside physics and generators, see `envs.save_state`."""
        last = np.zeros(0) if self._last_obs is None else self._last_obs.copy()
        return {"last_obs": last, "elapsed": np.array([self._elapsed])}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take back what `snapshot` gave."""
        last = np.array(arrays["last_obs"], dtype=np.float64)
        self._last_obs = last if last.size else None
        self._elapsed = int(arrays["elapsed"][0])
